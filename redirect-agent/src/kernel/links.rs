//! The links of a namespace as one dump shows them: what the facts and the link resource need, in one place.

use std::net::IpAddr;

use anyhow::Context;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::netlink::Netlink;

/// `IFLA_GENEVE_PORT` is left out by no kernel; RFC 8926 names the number all the same.
const GENEVE_DEFAULT_PORT: u16 = 6081;

/// A link.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `veth`, `bridge`, `geneve`, …; `None` for links without a kind, such as most hardware.
    pub(crate) kind: Option<String>,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) up: bool,
    pub(crate) begins: Begins,
    /// Length of its transmit queue, in packets; 0 for what has none, such as a veth.
    pub(crate) queue_len: u32,
    /// Packets that it was given and could not send.
    pub(crate) unsent: u64,
    /// For a veth the index of its peer, in the peer's namespace.
    pub(crate) peer_index: Option<u32>,
    /// Id, in this namespace, of the namespace that the peer is in.
    pub(crate) peer_netns: Option<i32>,
    /// Index of the bridge that the link is a port of.
    pub(crate) controller: Option<u32>,
    pub(crate) geneve: Option<GeneveInfo>,
}

/// What a link's packets begin with, by its type (`ARPHRD_*`, `include/uapi/linux/if_arp.h`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Begins {
    /// An Ethernet header.
    Ethernet,
    /// An IP header: `WireGuard` and tun (`ARPHRD_NONE`), IPIP, SIT, GRE without a key to another link layer, PPP, modems.
    Ip,
    /// Something else, or it is the loopback, on which nothing arrives that was not sent here.
    #[default]
    Other,
}

impl Begins {
    fn of(kind: LinkLayerType) -> Self {
        match kind {
            LinkLayerType::Ether => Self::Ethernet,
            LinkLayerType::None
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre
            | LinkLayerType::Ppp
            | LinkLayerType::Rawip => Self::Ip,
            _ => Self::Other,
        }
    }
}

/// What a GENEVE link says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GeneveInfo {
    pub(crate) vni: Option<u32>,
    pub(crate) remote: Option<IpAddr>,
    /// UDP port, host byte order.
    pub(crate) port: u16,
}

/// All links of the namespace of `netlink`.
pub(crate) fn dump(netlink: &mut Netlink) -> anyhow::Result<Vec<Link>> {
    let answers = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).context("list the links")?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => parse(message),
            _ => None,
        })
        .collect())
}

fn parse(message: LinkMessage) -> Option<Link> {
    let up = message.header.flags.contains(LinkFlags::Up);
    let begins = Begins::of(message.header.link_layer_type);
    let mut link = Link { index: message.header.index, up, begins, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::TxQueueLen(packets) => link.queue_len = packets,
            LinkAttribute::Stats64(counted) => link.unsent = counted.tx_errors + counted.tx_dropped,
            LinkAttribute::Link(index) => link.peer_index = Some(index),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::LinkInfo(infos) => parse_info(&mut link, infos),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn parse_info(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = Some(kind_name(&kind)),
            LinkInfo::Data(InfoData::Geneve(data)) => link.geneve = Some(parse_geneve(&data)),
            _ => {}
        }
    }
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Geneve => "geneve".into(),
        InfoKind::Veth => "veth".into(),
        InfoKind::Bridge => "bridge".into(),
        other => other.to_string(),
    }
}

fn parse_geneve(data: &[InfoGeneve]) -> GeneveInfo {
    let mut info = GeneveInfo { vni: None, remote: None, port: GENEVE_DEFAULT_PORT };
    for item in data {
        match item {
            InfoGeneve::Id(vni) => info.vni = Some(*vni),
            InfoGeneve::Remote(ip) => info.remote = Some(IpAddr::V4(*ip)),
            InfoGeneve::Remote6(ip) => info.remote = Some(IpAddr::V6(*ip)),
            InfoGeneve::Port(port) => info.port = *port,
            _ => {}
        }
    }
    info
}
