//! Filters of a `clsact` qdisc: everybody's as one dump shows them, and BPF programs as filters of our own.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::Context as _;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use nix::libc::ETH_P_ALL;

use super::{Direction, header};
use crate::kernel::netlink::{Netlink, NetlinkError};

/// Every packet, whatever it carries.
#[expect(clippy::cast_possible_truncation, reason = "libc's type is wider than the constant, 3")]
pub(crate) const ALL_PROTOCOLS: u16 = ETH_P_ALL as u16;

/// A filter, or the head of a list of filters of the same priority, which has handle 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Filter {
    pub(crate) chain: u32,
    pub(crate) priority: u16,
    /// As `ETH_P_*`, host byte order.
    pub(crate) protocol: u16,
    pub(crate) kind: String,
    pub(crate) handle: u32,
    /// Of a BPF filter.
    pub(crate) program: Option<FilterProgram>,
}

/// What a BPF filter runs.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct FilterProgram {
    /// As whoever made the filter called it.
    pub(crate) name: String,
    pub(crate) tag: u64,
    pub(crate) id: u32,
    /// The program's return value is the verdict.
    pub(crate) direct: bool,
}

/// The filters of one direction of a device, in the order in which packets meet them. None for a device that is gone.
pub(crate) fn dump(netlink: &mut Netlink, index: u32, direction: Direction) -> anyhow::Result<Vec<Filter>> {
    let mut message = TcMessage::default();
    message.header = header(index, direction.class());
    let answers = netlink
        .dump(&RouteNetlinkMessage::GetTrafficFilter(message))
        .with_context(|| format!("list the {direction} filters of device {index}"))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(message) => Some(parse(message)),
            _ => None,
        })
        .collect())
}

fn parse(message: TcMessage) -> Filter {
    // TC_H_MAKE(priority << 16, protocol), the protocol in network byte order.
    let info = TcHandle::from(message.header.info);
    let mut filter = Filter {
        chain: 0,
        priority: info.major,
        protocol: u16::from_be(info.minor),
        kind: String::new(),
        handle: message.header.handle.into(),
        program: None,
    };
    for attribute in message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind = kind,
            TcAttribute::Chain(chain) => filter.chain = chain,
            TcAttribute::Options(options) if filter.kind == "bpf" => filter.program = Some(parse_program(options)),
            _ => {}
        }
    }
    filter
}

fn parse_program(options: Vec<TcOption>) -> FilterProgram {
    let mut program = FilterProgram::default();
    for option in options {
        let TcOption::Bpf(option) = option else { continue };
        match option {
            TcFilterBpfOption::ProgName(name) => program.name = name,
            TcFilterBpfOption::ProgTag(tag) => program.tag = u64::from_be_bytes(tag),
            TcFilterBpfOption::ProgId(id) => program.id = id,
            TcFilterBpfOption::Flags(flags) => program.direct = flags.contains(TcBpfFlags::DirectAction),
            _ => {}
        }
    }
    program
}

/// Where a filter of ours stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) index: u32,
    pub(crate) direction: Direction,
    pub(crate) priority: u16,
    pub(crate) handle: u32,
}

/// Adds a filter; among the BPF filters of its priority it becomes the first (`cls_bpf_change`, `net/sched/cls_bpf.c`).
pub(crate) fn add(netlink: &mut Netlink, slot: Slot, name: &str, program: BorrowedFd<'_>) -> Result<(), NetlinkError> {
    write(netlink, slot, name, program, NLM_F_CREATE | NLM_F_EXCL)
}

/// Puts another program in a filter's place; every packet meets either the old or the new one (`list_replace_rcu`).
pub(crate) fn replace(
    netlink: &mut Netlink,
    slot: Slot,
    name: &str,
    program: BorrowedFd<'_>,
) -> Result<(), NetlinkError> {
    write(netlink, slot, name, program, NLM_F_CREATE | NLM_F_REPLACE)
}

fn write(
    netlink: &mut Netlink,
    slot: Slot,
    name: &str,
    program: BorrowedFd<'_>,
    flags: u16,
) -> Result<(), NetlinkError> {
    let mut message = message(slot);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name.into())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    netlink.request(RouteNetlinkMessage::NewTrafficFilter(message), flags).map(drop)
}

/// Deletes one filter.
pub(crate) fn delete(netlink: &mut Netlink, slot: Slot) -> Result<(), NetlinkError> {
    netlink.request(RouteNetlinkMessage::DelTrafficFilter(message(slot)), 0).map(drop)
}

fn message(slot: Slot) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = header(slot.index, slot.direction.class());
    message.header.handle = slot.handle.into();
    message.header.info = TcHandle { major: slot.priority, minor: ALL_PROTOCOLS.to_be() }.into();
    message.attributes = vec![TcAttribute::Kind("bpf".into())];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let slot = Slot { index: 7, direction: Direction::Egress, priority: 3, handle: 0x7264 };
        let mut message = message(slot);
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgName("redirect_x".into())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            TcOption::Bpf(TcFilterBpfOption::ProgTag([0, 0, 0, 0, 0, 0, 1, 2])),
            TcOption::Bpf(TcFilterBpfOption::ProgId(39)),
        ]));
        let program = FilterProgram { name: "redirect_x".into(), tag: 0x102, id: 39, direct: true };
        let expected = Filter {
            chain: 0,
            priority: 3,
            protocol: ALL_PROTOCOLS,
            kind: "bpf".into(),
            handle: 0x7264,
            program: Some(program),
        };
        assert_eq!(parse(message), expected);
    }
}
