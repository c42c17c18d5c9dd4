//! Routes in our tables. Most are ours by where they lead (only the agent points routes at its tunnels); the rest only when
//! the record says that the agent made them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use anyhow::Context as _;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use redirect_common::names::{self, TableId};
use rtnetlink::RouteMessageBuilder;
use serde::{Deserialize, Serialize};

use super::Context;
use super::ledger::{Kind, NOTHING};
use crate::kernel::links::Link;
use crate::kernel::netlink::Netlink;

/// A route, as far as ours go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) destination: IpAddr,
    /// Prefix length of the destination; 0 is the default route.
    pub(crate) prefix: u8,
    pub(crate) device: String,
    pub(crate) gateway: Option<IpAddr>,
    /// Preferred source address.
    pub(crate) source: Option<IpAddr>,
    pub(crate) kind: RouteKind,
}

/// What a route does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum RouteKind {
    /// By the gateway, which is reached over the device's own subnet.
    Via,
    /// By the gateway, which is reached over the device whatever the routes say.
    Onlink,
    /// Directly over the device.
    Direct,
    /// To a local socket.
    Local,
}

/// As `ip route` takes it.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == RouteKind::Local {
            write!(f, "local ")?;
        }
        match self.prefix {
            0 => write!(f, "default")?,
            32 => write!(f, "{}", self.destination)?,
            prefix => write!(f, "{}/{prefix}", self.destination)?,
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " dev {}", self.device)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.kind == RouteKind::Onlink {
            write!(f, " onlink")?;
        }
        write!(f, " table {}", self.table)
    }
}

impl Route {
    /// What the kernel tells two routes apart by, as far as ours go (metric and TOS are always 0).
    fn key(&self) -> (u32, IpAddr, u8) {
        (self.table, self.destination, self.prefix)
    }

    /// Whether only the agent makes such a route: it leads into one of its own tunnels.
    fn leads_into_tunnel(&self) -> bool {
        names::TUNNELS.iter().any(|tunnel| self.device == tunnel.node_link || self.device == tunnel.proxy_link)
    }
}

/// Our tables.
const TABLES: [TableId; 5] =
    [names::TABLE_INBOUND, names::TABLE_OUTBOUND, names::TABLE_PROXY, names::TABLE_SEAT_A, names::TABLE_SEAT_B];

/// A difference between plan and kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    Add(Route),
    Replace(Route),
    Delete(Route),
    /// Another's route has our destination.
    Conflict(Route),
}

/// Makes the `desired` routes stand, and removes what is ours and not desired.
pub(crate) fn converge(context: &mut Context<'_>, desired: &BTreeSet<Route>) -> anyhow::Result<()> {
    let links = context.links()?.to_vec();
    let observed = observe(context.netns.netlink(), &links)?;
    let netns = context.netns.id();
    context.record.retain_routes(netns, |route| observed.contains(route) || desired.contains(route))?;
    let stood = context.ledger.stood_routes(netns);
    let changes = diff(desired, &observed, stood, |route| context.record.made_route(netns, route));
    for change in changes {
        apply(context, &links, &observed, &change)?;
    }
    Ok(())
}

/// What is found in the place of a route that `stood` is what somebody has made of it.
fn diff(
    desired: &BTreeSet<Route>,
    observed: &[Route],
    stood: &BTreeSet<Route>,
    made: impl Fn(&Route) -> bool,
) -> Vec<Change> {
    let ours = |route: &Route| route.leads_into_tunnel() || made(route);
    let keys: BTreeSet<_> = desired.iter().map(Route::key).collect();
    let standing: BTreeSet<_> = observed.iter().collect();
    let stale = observed.iter().filter(|route| !keys.contains(&route.key()) && ours(route));
    let missing = desired.iter().filter(|route| !standing.contains(route));
    let writes = missing.map(|want| match observed.iter().find(|have| have.key() == want.key()) {
        // One that we do not read is not listed.
        _ if stood.contains(want) => Change::Replace(want.clone()),
        None => Change::Add(want.clone()),
        Some(have) if ours(have) => Change::Replace(want.clone()),
        Some(have) => Change::Conflict(have.clone()),
    });
    // What is new stands before what is old goes.
    writes.chain(stale.map(|route| Change::Delete(route.clone()))).collect()
}

fn apply(context: &mut Context<'_>, links: &[Link], observed: &[Route], change: &Change) -> anyhow::Result<()> {
    let netns = context.netns.id();
    let netlink = context.netns.netlink();
    let found = |route: &Route| observed.iter().find(|found| found.key() == route.key());
    let (route, what, outcome) = match change {
        Change::Conflict(route) => {
            context.ledger.occupied.insert((netns, TableId(route.table)));
            context.ledger.problem(
                format!("route {route}"),
                "another owner's route has the destination of one of ours; remove it or move it to another table",
            );
            return Ok(());
        }
        Change::Delete(route) => (route, "deleted", delete(netlink, links, route)),
        Change::Add(route) | Change::Replace(route) => {
            if !route.leads_into_tunnel() {
                // Before the write: a route that is not on record would never be taken away.
                context.record.add_route(netns, route)?;
            }
            let flag = if matches!(change, Change::Add(_)) { NLM_F_EXCL } else { NLM_F_REPLACE };
            let what = if found(route).is_some() { "replaced" } else { "added" };
            (route, what, add(context.netns.netlink(), links, route, flag))
        }
    };
    let found = found(route).map_or_else(|| NOTHING.into(), ToString::to_string);
    let done = context.ledger.mend(Kind::Route, &route.to_string(), found, what, outcome);
    if done && matches!(change, Change::Delete(_)) {
        context.record.forget_route(netns, route)?;
    }
    Ok(())
}

/// The routes of our tables that are of a shape we make; any other is left out.
fn observe(netlink: &mut Netlink, links: &[Link]) -> anyhow::Result<Vec<Route>> {
    let routes = dump(netlink)?;
    Ok(routes
        .iter()
        .filter(|route| TABLES.iter().any(|table| table.0 == table_of(route)))
        .filter_map(|route| parse(route, links))
        .collect())
}

/// Every IPv4 route of the namespace, of all tables.
pub(crate) fn dump(netlink: &mut Netlink) -> anyhow::Result<Vec<RouteMessage>> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let answers = netlink.dump(&RouteNetlinkMessage::GetRoute(message)).context("list the routes")?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        })
        .collect())
}

/// The table a listed route is in.
pub(crate) fn table_of(route: &RouteMessage) -> u32 {
    let attribute = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| route.header.table.into())
}

/// `None` for a route with properties that ours never have.
fn parse(message: &RouteMessage, links: &[Link]) -> Option<Route> {
    let header = &message.header;
    let (mut destination, mut gateway, mut source, mut index) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = Some(ip(address)?),
            RouteAttribute::Gateway(address) => gateway = Some(ip(address)?),
            RouteAttribute::PrefSource(address) => source = Some(ip(address)?),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Table(_) | RouteAttribute::CacheInfo(_) => {}
            _ => return None,
        }
    }
    let onlink = header.flags.contains(RouteFlags::Onlink);
    let kind = match (header.kind, header.scope, gateway) {
        (RouteType::Local, RouteScope::Host, None) => RouteKind::Local,
        (RouteType::Unicast, RouteScope::Link, None) => RouteKind::Direct,
        (RouteType::Unicast, RouteScope::Universe, Some(_)) if onlink => RouteKind::Onlink,
        (RouteType::Unicast, RouteScope::Universe, Some(_)) => RouteKind::Via,
        _ => return None,
    };
    let index = index?;
    let device = links.iter().find(|link| link.index == index)?.name.clone();
    let destination = destination.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let prefix = header.destination_prefix_length;
    Some(Route { table: table_of(message), destination, prefix, device, gateway, source, kind })
}

/// The address that a route attribute carries.
pub(crate) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn add(netlink: &mut Netlink, links: &[Link], route: &Route, flag: u16) -> anyhow::Result<()> {
    let message = build(links, route)?;
    netlink.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | flag)?;
    Ok(())
}

fn delete(netlink: &mut Netlink, links: &[Link], route: &Route) -> anyhow::Result<()> {
    let message = build(links, route)?;
    match netlink.request(RouteNetlinkMessage::DelRoute(message), 0) {
        // Somebody was faster.
        Err(error) if error.is(Errno::ESRCH) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

fn build(links: &[Link], route: &Route) -> anyhow::Result<RouteMessage> {
    let device = links.iter().find(|link| link.name == route.device);
    let index = device.with_context(|| format!("device {} is not there", route.device))?.index;
    let (kind, scope) = match route.kind {
        RouteKind::Via | RouteKind::Onlink => (RouteType::Unicast, RouteScope::Universe),
        RouteKind::Direct => (RouteType::Unicast, RouteScope::Link),
        RouteKind::Local => (RouteType::Local, RouteScope::Host),
    };
    // The protocol that `ip route add` gives, and the only one that `ip route show` does not print.
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .table_id(route.table)
        .protocol(RouteProtocol::Boot)
        .kind(kind)
        .scope(scope)
        .output_interface(index)
        .destination_prefix(route.destination, route.prefix)?;
    if let Some(gateway) = route.gateway {
        builder = builder.gateway(gateway)?;
    }
    if let Some(source) = route.source {
        builder = builder.pref_source(source)?;
    }
    if route.kind == RouteKind::Onlink {
        builder = builder.onlink();
    }
    Ok(builder.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, device: &str, gateway: Option<&str>) -> Route {
        Route {
            table: 100,
            destination: destination.parse().unwrap(),
            prefix: 32,
            device: device.into(),
            gateway: gateway.map(|ip| ip.parse().unwrap()),
            source: None,
            kind: if gateway.is_some() { RouteKind::Via } else { RouteKind::Direct },
        }
    }

    fn links() -> Vec<Link> {
        ["istioin", "vethz"]
            .iter()
            .zip(5..)
            .map(|(name, index)| Link { index, name: (*name).into(), ..Link::default() })
            .collect()
    }

    #[test]
    fn what_we_build_is_what_we_recognise() {
        for route in [
            route("10.244.1.5", "istioin", Some("192.168.126.2")),
            route("10.244.2.3", "vethz", None),
            Route { kind: RouteKind::Onlink, ..route("10.0.0.0", "vethz", Some("10.244.2.3")) },
        ] {
            assert_eq!(parse(&build(&links(), &route).unwrap(), &links()), Some(route));
        }
    }

    #[test]
    fn stale_routes_of_ours_go_and_others_stay() {
        let ours = route("10.244.1.5", "istioin", Some("192.168.126.2"));
        let made = route("10.244.2.3", "vethz", None);
        let foreign = route("10.9.9.9", "vethz", None);
        let observed = [ours.clone(), made.clone(), foreign];
        let changes = diff(&BTreeSet::new(), &observed, &BTreeSet::new(), |route| *route == made);
        assert_eq!(changes, [Change::Delete(ours), Change::Delete(made)]);
    }

    #[test]
    fn a_changed_route_is_replaced_and_a_foreign_one_reported() {
        let want = BTreeSet::from([Route {
            source: Some("172.18.0.2".parse().unwrap()),
            ..route("10.244.1.5", "istioin", Some("192.168.126.2"))
        }]);
        let old = route("10.244.1.5", "istioin", Some("192.168.126.2"));
        let none = BTreeSet::new();
        assert!(matches!(diff(&want, &[old], &none, |_| false)[..], [Change::Replace(_)]));
        let foreign = route("10.244.1.5", "vethz", None);
        assert!(matches!(diff(&want, std::slice::from_ref(&foreign), &none, |_| false)[..], [Change::Conflict(_)]));
        assert!(matches!(diff(&want, &[], &none, |_| false)[..], [Change::Add(_)]));
        // Ours stood there.
        assert!(matches!(diff(&want, &[foreign], &want, |_| false)[..], [Change::Replace(_)]));
        assert!(matches!(diff(&want, &[], &want, |_| false)[..], [Change::Replace(_)]));
    }
}
