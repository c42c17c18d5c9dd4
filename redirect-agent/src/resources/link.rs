//! The GENEVE links. What can be changed in place is: a link that is made anew loses its addresses and routes.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkMessage};
use rtnetlink::{LinkGeneve, LinkMessageBuilder, LinkUnspec};
use serde::{Deserialize, Serialize};

use super::Context;
use super::guard;
use super::ledger::{Kind, NOTHING};
use crate::kernel::links::Link;

/// A GENEVE link as it must stand; it is always up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Geneve {
    pub(crate) name: String,
    pub(crate) vni: u32,
    /// The tunnel's other end.
    pub(crate) remote: IpAddr,
    /// UDP port, host byte order.
    pub(crate) port: u16,
    pub(crate) mac: [u8; 6],
}

/// A difference between plan and kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    Create(Geneve),
    /// The kernel can change remote, MAC and state of a standing link.
    Adjust {
        index: u32,
        /// The MAC is among what differs. Writing it drops the link's neighbour entries, permanent ones too, even when it
        /// stays the same (`dev_set_mac_address`, net/core/dev.c; `arp_netdev_event`, net/ipv4/arp.c).
        mac: bool,
        to: Geneve,
    },
    /// The port cannot be changed (`geneve_nl2info`, drivers/net/geneve.c).
    Recreate {
        index: u32,
        to: Geneve,
    },
    Delete {
        index: u32,
        name: String,
    },
    /// Another's link has our name.
    Conflict {
        name: String,
        found: String,
    },
}

/// Makes the links stand as in `desired`; `owned` are the name and VNI of all that are ours, wanted or not.
pub(crate) fn converge(context: &mut Context<'_>, desired: &[Geneve], owned: &[(&str, u32)]) -> anyhow::Result<()> {
    let links = context.links()?.to_vec();
    for change in diff(desired, owned, &links) {
        apply(context, &change, &links);
        context.links_changed();
    }
    Ok(())
}

fn diff(desired: &[Geneve], owned: &[(&str, u32)], links: &[Link]) -> Vec<Change> {
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let unwanted = owned.iter().filter(|(name, _)| !desired.iter().any(|want| want.name == *name));
    let deletions = unwanted.filter_map(|(name, vni)| {
        let link = find(name).filter(|link| is_ours(link, *vni))?;
        Some(Change::Delete { index: link.index, name: link.name.clone() })
    });
    let rest = desired.iter().filter_map(|want| match find(&want.name) {
        None => Some(Change::Create(want.clone())),
        Some(link) if !is_ours(link, want.vni) => {
            let found = link.kind.clone().unwrap_or_else(|| "plain link".into());
            Some(Change::Conflict { name: want.name.clone(), found })
        }
        Some(link) => difference(want, link),
    });
    deletions.chain(rest).collect()
}

fn is_ours(link: &Link, vni: u32) -> bool {
    link.geneve.is_some_and(|geneve| geneve.vni == Some(vni))
}

fn difference(want: &Geneve, link: &Link) -> Option<Change> {
    let geneve = link.geneve?;
    if geneve.port != want.port || geneve.remote.is_none_or(|remote| remote.is_ipv4() != want.remote.is_ipv4()) {
        return Some(Change::Recreate { index: link.index, to: want.clone() });
    }
    let mac = link.mac != Some(want.mac);
    let same = geneve.remote == Some(want.remote) && !mac && link.up;
    (!same).then(|| Change::Adjust { index: link.index, mac, to: want.clone() })
}

/// As found.
fn describe(name: &str, links: &[Link]) -> String {
    let Some(link) = links.iter().find(|link| link.name == name) else { return NOTHING.into() };
    let (state, mac) = (if link.up { "up" } else { "down" }, link.mac.map(guard::mac).unwrap_or_default());
    let Some(geneve) = link.geneve else { return format!("{state}, address {mac}") };
    let remote = geneve.remote.map(|remote| remote.to_string()).unwrap_or_default();
    format!("{state}, address {mac}, remote {remote}, port {}", geneve.port)
}

fn apply(context: &mut Context<'_>, change: &Change, links: &[Link]) {
    let netlink = context.netns.netlink();
    let (name, what, outcome) = match change {
        Change::Create(to) => (&to.name, "created", create(netlink, to)),
        Change::Adjust { index, mac, to } => (&to.name, "changed in place", adjust(netlink, *index, *mac, to)),
        Change::Recreate { index, to } => {
            (&to.name, "made anew for another port", delete(netlink, *index).and_then(|()| create(netlink, to)))
        }
        Change::Delete { index, name } => (name, "deleted", delete(netlink, *index)),
        Change::Conflict { name, found } => {
            let message = format!("a {found} of another owner has this name; remove it with `ip link del {name}`");
            context.ledger.problem(format!("link {name}"), message);
            return;
        }
    };
    context.ledger.mend(Kind::Link, name, describe(name, links), what, outcome);
}

type Netlink = crate::kernel::netlink::Netlink;

fn create(netlink: &mut Netlink, link: &Geneve) -> anyhow::Result<()> {
    let builder = LinkGeneve::new(&link.name, link.vni).port(link.port).address(link.mac.to_vec()).up();
    let message = with_remote(builder, link.remote).build();
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let outcome = netlink.request(RouteNetlinkMessage::NewLink(message), flags);
    let hint = || format!("GENEVE, vni {}, port {} (is the geneve module loaded?)", link.vni, link.port);
    outcome.with_context(hint)?;
    Ok(())
}

/// The kernel takes GENEVE attributes and the others in
/// separate requests: a changelink with an address would have to be undone by hand if its second half failed.
fn adjust(netlink: &mut Netlink, index: u32, mac: bool, link: &Geneve) -> anyhow::Result<()> {
    netlink.request(RouteNetlinkMessage::NewLink(remote_of(index, link)), 0).context("set the remote")?;
    let mut rest = LinkUnspec::new_with_index(index).up();
    if mac {
        rest = rest.address(link.mac.to_vec());
    }
    netlink.request(RouteNetlinkMessage::SetLink(rest.build()), 0).context("set address and state")?;
    Ok(())
}

/// The port must not be named here, even unchanged (`geneve_nl2info`); nor the link: beside its index its name is a wish to rename it, which
/// before Linux 6.2 is refused while it is up, the same name too (`do_setlink`, net/core/rtnetlink.c; `dev_change_name`, net/core/dev.c).
fn remote_of(index: u32, link: &Geneve) -> LinkMessage {
    let builder = LinkMessageBuilder::<LinkGeneve>::new_with_info_kind(InfoKind::Geneve);
    with_remote(builder.id(link.vni).index(index), link.remote).build()
}

fn with_remote(builder: LinkMessageBuilder<LinkGeneve>, remote: IpAddr) -> LinkMessageBuilder<LinkGeneve> {
    match remote {
        IpAddr::V4(ip) => builder.remote(ip),
        IpAddr::V6(ip) => builder.remote6(ip),
    }
}

fn delete(netlink: &mut Netlink, index: u32) -> anyhow::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    match netlink.request(RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if !error.is(nix::errno::Errno::ENODEV) => bail!(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkAttribute;

    use super::*;
    use crate::kernel::links::GeneveInfo;

    const OWNED: &[(&str, u32)] = &[("istioin", 1000)];

    fn want() -> Geneve {
        Geneve {
            name: "istioin".into(),
            vni: 1000,
            remote: "10.244.2.3".parse().unwrap(),
            port: 6081,
            mac: [2, 0, 0, 0, 0, 1],
        }
    }

    fn link() -> Link {
        let geneve = GeneveInfo { vni: Some(1000), remote: Some("10.244.2.3".parse().unwrap()), port: 6081 };
        Link {
            index: 7,
            name: "istioin".into(),
            kind: Some("geneve".into()),
            mac: Some([2, 0, 0, 0, 0, 1]),
            up: true,
            geneve: Some(geneve),
            ..Link::default()
        }
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(diff(&[want()], OWNED, &[link()]), []);
        assert_eq!(diff(&[], OWNED, &[]), []);
    }

    #[test]
    fn another_proxy_is_a_change_in_place() {
        let to = Geneve { remote: "10.244.2.9".parse().unwrap(), ..want() };
        assert_eq!(diff(std::slice::from_ref(&to), OWNED, &[link()]), [Change::Adjust { index: 7, mac: false, to }]);
    }

    #[test]
    fn the_mac_is_written_only_where_it_differs() {
        let down = Link { up: false, ..link() };
        assert_eq!(diff(&[want()], OWNED, &[down]), [Change::Adjust { index: 7, mac: false, to: want() }]);
        let other = Link { mac: Some([2, 0, 0, 0, 0, 9]), ..link() };
        assert_eq!(diff(&[want()], OWNED, &[other]), [Change::Adjust { index: 7, mac: true, to: want() }]);
    }

    #[test]
    fn another_remote_is_no_other_name() {
        let message = remote_of(7, &want());
        assert_eq!(message.header.index, 7);
        assert!(message.attributes.iter().all(|attribute| !matches!(attribute, LinkAttribute::IfName(_))));
        assert!(message.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(_))));
    }

    #[test]
    fn another_port_is_another_link() {
        let to = Geneve { port: 6082, ..want() };
        assert_eq!(diff(std::slice::from_ref(&to), OWNED, &[link()]), [Change::Recreate { index: 7, to }]);
    }

    #[test]
    fn a_link_that_is_not_ours_is_left_alone() {
        let mut foreign = link();
        foreign.geneve = Some(GeneveInfo { vni: Some(5), remote: None, port: 6081 });
        assert!(matches!(diff(&[want()], OWNED, &[foreign.clone()])[..], [Change::Conflict { .. }]));
        assert_eq!(diff(&[], OWNED, &[foreign]), []);
        assert!(matches!(diff(&[], OWNED, &[link()])[..], [Change::Delete { index: 7, .. }]));
    }
}
