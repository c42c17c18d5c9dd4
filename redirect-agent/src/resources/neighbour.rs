//! The tunnels' neighbour entries: each end knows the other's MAC address without asking. ARP would have to pass the tunnel,
//! and cannot while nobody is at its other end. Only exactly ours are looked at.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Context;
use super::guard;
use super::ledger::{Kind, NOTHING};
use crate::kernel::netlink::Netlink;

/// A permanent neighbour entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Neighbour {
    pub(crate) link: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: [u8; 6],
}

/// As `ip neigh` takes it.
impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {} lladdr {}", self.ip, self.link, guard::mac(self.mac))
    }
}

/// What is to be done about an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Add,
    /// There is one that says something else, or that was learnt and would be forgotten.
    Replace(Observed),
}

/// Makes the `desired` entries stand. They go with their link, so nothing is ever deleted here.
pub(crate) fn converge(context: &mut Context<'_>, desired: &[Neighbour]) -> anyhow::Result<()> {
    for want in desired {
        let Some(link) = context.link(&want.link)? else { continue };
        let observed = observe(context.netns.netlink(), link.index)?;
        let Some(change) = diff(want, link.index, &observed) else { continue };
        let outcome = write(context.netns.netlink(), link.index, want);
        let (what, found) = match change {
            Change::Add => ("added", NOTHING.to_owned()),
            Change::Replace(found) => ("replaced", describe(found)),
        };
        context.ledger.mend(Kind::Neighbour, &want.to_string(), found, what, outcome);
    }
    Ok(())
}

fn diff(want: &Neighbour, index: u32, observed: &[Observed]) -> Option<Change> {
    match observed.iter().find(|have| have.index == index && have.ip == want.ip) {
        None => Some(Change::Add),
        Some(have) => (have.mac != Some(want.mac) || !have.permanent).then_some(Change::Replace(*have)),
    }
}

fn describe(found: Observed) -> String {
    let mac = found.mac.map_or_else(|| "no address".into(), guard::mac);
    if found.permanent { mac } else { format!("{mac}, learnt") }
}

/// A neighbour entry as the kernel lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Observed {
    index: u32,
    ip: Ipv4Addr,
    /// `None` while ARP is still asking, or has got no answer.
    mac: Option<[u8; 6]>,
    permanent: bool,
}

/// The IPv4 entries of one link. The kernel picks them (`neigh_valid_dump_req`, net/core/neighbour.c): the node's own
/// neighbours can be thousands. These few fit one datagram, which is filled in one go, so the list is never torn.
fn observe(netlink: &mut Netlink, index: u32) -> anyhow::Result<Vec<Observed>> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.attributes = vec![NeighbourAttribute::IfIndex(index)];
    let answers = netlink.dump(&RouteNetlinkMessage::GetNeighbour(message)).context("list the neighbours")?;
    let neighbours = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) => parse(message),
        _ => None,
    });
    Ok(neighbours.collect())
}

fn parse(message: &NeighbourMessage) -> Option<Observed> {
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some(*address),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some(Observed { index: message.header.ifindex, ip: ip?, mac, permanent })
}

/// Also overrides an entry that ARP is at work on; what waits for its answer is then sent (`neigh_update`).
fn write(netlink: &mut Netlink, index: u32, neighbour: &Neighbour) -> anyhow::Result<()> {
    netlink.request(RouteNetlinkMessage::NewNeighbour(build(index, neighbour)), NLM_F_CREATE | NLM_F_REPLACE)?;
    Ok(())
}

fn build(index: u32, neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(neighbour.ip)),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.to_vec()),
    ];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: u32 = 7;

    fn want() -> Neighbour {
        Neighbour { link: "istioin".into(), ip: "192.168.126.2".parse().unwrap(), mac: [2, 0, 0, 0, 0, 0xab] }
    }

    fn standing() -> Observed {
        Observed { index: INDEX, ip: want().ip, mac: Some(want().mac), permanent: true }
    }

    #[test]
    fn what_we_build_is_what_we_recognise() {
        let observed = parse(&build(INDEX, &want()));
        assert_eq!(observed, Some(standing()));
        assert_eq!(diff(&want(), INDEX, &[standing()]), None);
        assert_eq!(want().to_string(), "192.168.126.2 dev istioin lladdr 02:00:00:00:00:ab");
    }

    #[test]
    fn an_entry_elsewhere_or_of_another_is_not_ours() {
        let elsewhere = Observed { index: INDEX + 1, ..standing() };
        let other = Observed { ip: "192.168.126.3".parse().unwrap(), ..standing() };
        assert_eq!(diff(&want(), INDEX, &[]), Some(Change::Add));
        assert_eq!(diff(&want(), INDEX, &[elsewhere, other]), Some(Change::Add));
    }

    #[test]
    fn another_mac_and_what_was_learnt_are_replaced() {
        let other = Observed { mac: Some([2, 0, 0, 0, 0, 0xcd]), ..standing() };
        let learnt = Observed { permanent: false, ..standing() };
        let asking = Observed { mac: None, ..learnt };
        for have in [other, learnt, asking] {
            assert_eq!(diff(&want(), INDEX, &[have]), Some(Change::Replace(have)));
        }
    }

    #[test]
    fn an_entry_without_an_address_is_left_out() {
        assert_eq!(parse(&NeighbourMessage::default()), None);
    }
}
