//! Ethernet II with VLAN tags. A tag that the network card or the kernel has already taken out of the bytes
//! (`skb->vlan_tci`) is not seen here and does not count.

use super::{Octets, Packet, Unparsed, ipv4, ipv6};

/// How many VLAN tags are looked behind: a customer's and a provider's.
pub const MAX_TAGS: usize = 2;

const ETHERTYPE_AT: usize = 12;
const ETHERTYPE_LEN: usize = 2;
const TAG_LEN: usize = 4;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q.
const CUSTOMER_TAG: u16 = 0x8100;
/// IEEE 802.1ad.
const PROVIDER_TAG: u16 = 0x88a8;

#[inline(always)]
pub(super) fn parse<const V6: bool>(frame: &(impl Octets + ?Sized)) -> Result<Packet, Unparsed> {
    let mut offset = ETHERTYPE_AT;
    for _ in 0..=MAX_TAGS {
        let ethertype = frame.octets(offset).ok_or(Unparsed::Truncated)?;
        match u16::from_be_bytes(ethertype) {
            IPV4 => return ipv4::parse(frame, offset + ETHERTYPE_LEN),
            IPV6 if V6 => return ipv6::parse(frame, offset + ETHERTYPE_LEN),
            CUSTOMER_TAG | PROVIDER_TAG => offset += TAG_LEN,
            _ => return Err(Unparsed::NotIp),
        }
    }
    Err(Unparsed::TooManyTags)
}
