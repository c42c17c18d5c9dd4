//! Questions to nftables that the kernel answers without reading a rule, and without a process.

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::{GENERIC, NEW_GENERATION, SUBSYSTEM, TABLE_NAME, string, value};
use crate::kernel::netlink::{Message, Netlink, NetlinkError};

/// `NFT_MSG_GETTABLE` and `NFT_MSG_GETGEN` (`include/uapi/linux/netfilter/nf_tables.h`).
pub(super) const GET_TABLE: u8 = 1;
const GET_GENERATION: u8 = 16;
/// `NFTA_GEN_ID`, big endian.
const GENERATION_ID: u16 = 1;

/// The generation of nftables' rules in the calling thread's network namespace: how many transactions it has seen (`base_seq`,
/// `net/netfilter/nf_tables_api.c`). As long as it stays, so do all tables, chains, rules and named sets; counters change without one, and so
/// does what rules put into sets. It wraps around.
///
/// # Errors
/// The kernel has no nftables, or the socket fails.
pub(crate) fn generation() -> Result<u32, NetlinkError> {
    generation_by(&mut open()?)
}

/// The same, of the socket's namespace.
pub(super) fn generation_by(socket: &mut Netlink) -> Result<u32, NetlinkError> {
    let answers = socket.ask(Packet { kind: GET_GENERATION, family: 0, attributes: Vec::new() })?;
    let id = |answer: &Packet| {
        let id = value(&answer.attributes, GENERATION_ID).filter(|_| answer.kind == NEW_GENERATION)?;
        Some(u32::from_be_bytes(id.try_into().ok()?))
    };
    answers.iter().find_map(id).ok_or_else(|| NetlinkError::Malformed("no generation".to_owned()))
}

/// Whether the table called `name` stands in the calling thread's network namespace; `family` is `nfgenmsg.nfgen_family`.
///
/// # Errors
/// The kernel has no nftables, or the socket fails.
pub(crate) fn table_stands(family: u8, name: &str) -> Result<bool, NetlinkError> {
    match open()?.ask(Packet { kind: GET_TABLE, family, attributes: string(TABLE_NAME, name) }) {
        Ok(_) => Ok(true),
        Err(error) if error.is(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A socket in the calling thread's network namespace.
pub(super) fn open() -> Result<Netlink, NetlinkError> {
    Netlink::open_for(NETLINK_NETFILTER)
}

/// A question, or the answer to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Packet {
    /// `NFT_MSG_…`.
    pub(super) kind: u8,
    pub(super) family: u8,
    pub(super) attributes: Vec<u8>,
}

impl Message for Packet {
    fn what(&self) -> String {
        format!("nftables message {}", self.kind)
    }
}

impl NetlinkSerializable for Packet {
    fn message_type(&self) -> u16 {
        u16::from_le_bytes([self.kind, SUBSYSTEM])
    }

    fn buffer_len(&self) -> usize {
        GENERIC + self.attributes.len()
    }

    /// `struct nfgenmsg`: version 0 and no resource; then the attributes.
    fn serialize(&self, buffer: &mut [u8]) {
        let (generic, attributes) = buffer.split_at_mut(GENERIC);
        generic.copy_from_slice(&[self.family, 0, 0, 0]);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Packet {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let [kind, subsystem] = header.message_type.to_le_bytes();
        match payload.split_at_checked(GENERIC) {
            Some((generic, attributes)) if subsystem == SUBSYSTEM => {
                Ok(Self { kind, family: generic[0], attributes: attributes.to_vec() })
            }
            _ => Err(DecodeError::from("not a message of nftables")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message_type: u16, payload: &[u8]) -> Option<Packet> {
        let mut header = NetlinkHeader::default();
        header.message_type = message_type;
        Packet::deserialize(&header, payload).ok()
    }

    #[test]
    fn what_is_sent_reads_back() {
        let question = Packet { kind: GET_TABLE, family: 7, attributes: string(TABLE_NAME, "ztunnel") };
        assert_eq!(question.attributes, *b"\x0c\0\x01\0ztunnel\0");
        assert_eq!(question.message_type(), 0x0a01);
        let mut bytes = vec![0xff; question.buffer_len()];
        question.serialize(&mut bytes);
        assert_eq!(bytes[..GENERIC], [7, 0, 0, 0]);
        assert_eq!(read(0x0a01, &bytes), Some(question));
        assert_eq!(string(TABLE_NAME, "four").len(), 12);
    }

    #[test]
    fn what_is_not_of_nftables_is_not_read() {
        assert_eq!(read(0x010f, &[0; 8]), None);
        for end in 0..GENERIC {
            assert_eq!(read(0x0a0f, &[0; 8][..end]), None);
        }
        assert_eq!(read(0x0a0f, &[2, 0, 0, 0]).map(|packet| (packet.kind, packet.family)), Some((15, 2)));
    }
}
