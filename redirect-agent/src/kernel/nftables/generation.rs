//! How many transactions nftables has seen in a network namespace: as long as the number stays, so do all tables, chains, rules and named
//! sets. Counters change without one, and so does what rules put into sets.

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{GENERIC, NEW_GENERATION, SUBSYSTEM, value};
use crate::kernel::netlink::{Message, Netlink, NetlinkError};

/// `NFT_MSG_GETGEN` (`include/uapi/linux/netfilter/nf_tables.h`).
const GET_GENERATION: u8 = 16;
/// `NFTA_GEN_ID`, big endian.
const ID: u16 = 1;

/// A request, or the answer to it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Generation {
    Ask,
    Is(u32),
}

/// The generation of nftables' rules in the calling thread's network namespace (`base_seq`, `net/netfilter/nf_tables_api.c`). It wraps around.
///
/// # Errors
/// The kernel has no nftables, or the socket fails.
pub(crate) fn generation() -> Result<u32, NetlinkError> {
    let answers = Netlink::open_for(NETLINK_NETFILTER)?.ask(Generation::Ask)?;
    let is = |answer: &Generation| if let Generation::Is(id) = answer { Some(*id) } else { None };
    answers.iter().find_map(is).ok_or_else(|| NetlinkError::Malformed("no generation".to_owned()))
}

impl Message for Generation {
    fn what(&self) -> String {
        "ask for the generation of nftables".to_owned()
    }
}

impl NetlinkSerializable for Generation {
    fn message_type(&self) -> u16 {
        let message = if *self == Self::Ask { GET_GENERATION } else { NEW_GENERATION };
        u16::from_le_bytes([message, SUBSYSTEM])
    }

    /// Of a request: an answer is not sent.
    fn buffer_len(&self) -> usize {
        GENERIC
    }

    /// `struct nfgenmsg`: every family, version 0, no resource.
    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl NetlinkDeserializable for Generation {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let answer = u16::from_le_bytes([NEW_GENERATION, SUBSYSTEM]);
        let id = payload.get(GENERIC..).filter(|_| header.message_type == answer).and_then(|rest| value(rest, ID));
        let id = id.and_then(|id| Some(u32::from_be_bytes(id.try_into().ok()?)));
        id.map(Self::Is).ok_or_else(|| DecodeError::from("not a generation of nftables"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_nothing_else_is() {
        let read = |message, subsystem, payload: &[u8]| {
            let mut header = NetlinkHeader::default();
            header.message_type = u16::from_le_bytes([message, subsystem]);
            Generation::deserialize(&header, payload).ok()
        };
        // `NFTA_GEN_PROC_PID` may come as well.
        let answer = [0, 0, 0, 7, 8, 0, 2, 0, 0, 0, 0, 9, 8, 0, 1, 0, 0, 0, 1, 7];
        assert_eq!(read(NEW_GENERATION, SUBSYSTEM, &answer), Some(Generation::Is(0x107)));
        assert_eq!(read(GET_GENERATION, SUBSYSTEM, &answer), None);
        assert_eq!(read(NEW_GENERATION, 1, &answer), None);
        for end in 0..answer.len() {
            assert_eq!(read(NEW_GENERATION, SUBSYSTEM, &answer[..end]), None, "{end}");
        }
        assert_eq!(Generation::Ask.message_type(), 0x0a10);
    }
}
