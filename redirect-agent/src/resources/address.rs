//! The tunnels' addresses. Only exactly ours are looked at: whatever else an interface carries is not our business.

use std::fmt;
use std::net::IpAddr;

use anyhow::Context as _;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::Context;
use super::ledger::{Kind, NOTHING};
use crate::kernel::netlink::Netlink;

/// An address on a link.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) link: String,
    pub(crate) ip: IpAddr,
    /// Prefix length.
    pub(crate) prefix: u8,
}

/// As `ip addr` takes it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} dev {}", self.ip, self.prefix, self.link)
    }
}

/// Adds what is missing. Addresses go with their link, so nothing is ever deleted here.
pub(crate) fn converge(context: &mut Context<'_>, desired: &[Address]) -> anyhow::Result<()> {
    if desired.is_empty() {
        return Ok(());
    }
    let observed = observe(context.netns.netlink())?;
    for want in desired {
        let Some(link) = context.link(&want.link)? else { continue };
        let found =
            observed.iter().any(|have| have.index == link.index && have.ip == want.ip && have.prefix == want.prefix);
        if !found {
            let outcome = add(context.netns.netlink(), link.index, want);
            context.ledger.mend(Kind::Address, &want.to_string(), NOTHING, "added", outcome);
        }
    }
    Ok(())
}

/// An address as the kernel lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Observed {
    pub(crate) index: u32,
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
}

/// Every address of the namespace.
pub(crate) fn observe(netlink: &mut Netlink) -> anyhow::Result<Vec<Observed>> {
    let answers =
        netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default())).context("list the addresses")?;
    let addresses = answers.into_iter().filter_map(|answer| {
        let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the peer (include/uapi/linux/if_addr.h).
        let ip = local.or(address)?;
        Some(Observed { index: message.header.index, ip, prefix: message.header.prefix_len })
    });
    Ok(addresses.collect())
}

fn add(netlink: &mut Netlink, index: u32, address: &Address) -> anyhow::Result<()> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix;
    message.header.family = if address.ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![AddressAttribute::Local(address.ip), AddressAttribute::Address(address.ip)];
    netlink.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)?;
    Ok(())
}
