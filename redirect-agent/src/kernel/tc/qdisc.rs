//! The qdisc that filters on a device's way in and out hang on.

use std::collections::BTreeMap;

use anyhow::Context as _;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Direction, header};
use crate::kernel::netlink::{Netlink, NetlinkError};

/// What a device has in the one place for such a qdisc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Qdisc {
    /// Both directions.
    Clsact,
    /// The way in only. Filters meant for the way out would land there too (`ingress_tcf_block`, `net/sched/sch_ingress.c`).
    Ingress,
}

/// The devices that have one.
pub(crate) fn dump(netlink: &mut Netlink) -> anyhow::Result<BTreeMap<u32, Qdisc>> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let answers = netlink.dump(&request).context("list the qdiscs")?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(message) => parse(&message),
            _ => None,
        })
        .collect())
}

fn parse(message: &TcMessage) -> Option<(u32, Qdisc)> {
    if message.header.parent != TcHandle::CLSACT {
        return None;
    }
    let qdisc = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) if kind == "clsact" => Some(Qdisc::Clsact),
        TcAttribute::Kind(kind) if kind == "ingress" => Some(Qdisc::Ingress),
        _ => None,
    })?;
    Some((message.header.index.cast_unsigned(), qdisc))
}

/// Adds `clsact`; `EEXIST` if the place is taken.
pub(crate) fn add(netlink: &mut Netlink, index: u32) -> Result<(), NetlinkError> {
    netlink.request(RouteNetlinkMessage::NewQueueDiscipline(message(index)), NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// To what the kernel raises the queue length of a device that has none as soon as it is given a qdisc, in packets
/// (`qdisc_create`, `net/sched/sch_api.c`; `DEFAULT_TX_QUEUE_LEN`).
pub(crate) const RAISED_QUEUE_LEN: u32 = 1000;

/// Sets the length of the device's queue, in packets.
pub(crate) fn set_queue_len(netlink: &mut Netlink, index: u32, packets: u32) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::TxQueueLen(packets)];
    netlink.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
}

/// Deletes it, with all filters in it.
pub(crate) fn delete(netlink: &mut Netlink, index: u32) -> Result<(), NetlinkError> {
    netlink.request(RouteNetlinkMessage::DelQueueDiscipline(message(index)), 0).map(drop)
}

fn message(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = header(index, TcHandle::CLSACT);
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes = vec![TcAttribute::Kind("clsact".into())];
    message
}

/// Whether no filter of anybody's hangs on it. Asks for the chains, which exist for as long as filters are in them
/// (`tc_dump_chain`, `net/sched/cls_api.c`): unlike a filter, a chain is read whatever its filters are made of.
pub(crate) fn is_empty(netlink: &mut Netlink, index: u32) -> Result<bool, NetlinkError> {
    for direction in Direction::ALL {
        let mut message = TcMessage::default();
        message.header = header(index, direction.class());
        if !netlink.dump(&RouteNetlinkMessage::GetTrafficChain(message))?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_sits_in_the_place_is_read() {
        assert_eq!(parse(&message(7)), Some((7, Qdisc::Clsact)));
        let mut ingress = message(8);
        ingress.attributes = vec![TcAttribute::Kind("ingress".into())];
        assert_eq!(parse(&ingress), Some((8, Qdisc::Ingress)));
        let mut root = message(9);
        root.header.parent = TcHandle::ROOT;
        assert_eq!(parse(&root), None);
    }
}
