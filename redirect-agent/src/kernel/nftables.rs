//! What nfnetlink's notifications say of nftables: which table, and which chain in it, is another now. No more of them is read.
//! [`ask`] has questions of our own, and [`image`] what the kernel holds.

mod ask;
pub(crate) mod image;

pub(crate) use ask::{generation, table_stands};

/// `nfgenmsg.nfgen_family` of IPv4, and of bridges (`include/uapi/linux/netfilter.h`).
pub(crate) const FAMILY_IPV4: u8 = 2;
pub(crate) const FAMILY_BRIDGE: u8 = 7;

/// Sizes of `struct nlmsghdr`, `struct nfgenmsg` and `struct nlattr`.
const HEADER: usize = 16;
const GENERIC: usize = 4;
const ATTRIBUTE: usize = 4;
/// `NFNL_SUBSYS_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`).
const SUBSYSTEM: u8 = 10;
/// Messages (`include/uapi/linux/netfilter/nf_tables.h`): the first two of a chain, then those of a rule, and the one that ends a transaction.
const CHAIN: [u8; 2] = [3, 5];
const RULE: [u8; 2] = [6, 8];
const NEW_GENERATION: u8 = 15;
/// Every object names its table first. `NFTA_CHAIN_NAME`, and `NFTA_RULE_CHAIN`.
const TABLE_NAME: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE: u16 = 0x3fff;

/// What is another now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Changed<'a> {
    /// `nfgenmsg.nfgen_family`.
    pub(crate) family: u8,
    pub(crate) table: &'a str,
    /// Where a chain, or a rule in it, has come or gone.
    pub(crate) chain: Option<&'a str>,
}

/// All that one datagram tells of; `None` if it cannot be made out, as when it did not fit into the buffer.
pub(crate) fn changes(mut datagram: &[u8]) -> Option<Vec<Changed<'_>>> {
    let mut all = Vec::new();
    while !datagram.is_empty() {
        let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER + GENERIC)?;
        // As `nlmsg_type` holds them: the message, then the subsystem.
        let [kind, subsystem] = u16::from_ne_bytes([message[4], message[5]]).to_le_bytes();
        if subsystem != SUBSYSTEM {
            return None;
        }
        if kind != NEW_GENERATION {
            all.push(changed(kind, message[HEADER], &message[HEADER + GENERIC..])?);
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(all)
}

fn changed(kind: u8, family: u8, attributes: &[u8]) -> Option<Changed<'_>> {
    let chain = match kind {
        kind if CHAIN.contains(&kind) => Some(attribute(attributes, CHAIN_NAME)?),
        kind if RULE.contains(&kind) => Some(attribute(attributes, RULE_CHAIN)?),
        _ => None,
    };
    Some(Changed { family, table: attribute(attributes, TABLE_NAME)?, chain })
}

/// A name, without the zero at its end.
fn attribute(attributes: &[u8], wanted: u16) -> Option<&str> {
    std::str::from_utf8(value(attributes, wanted)?.strip_suffix(&[0])?).ok()
}

/// What the first attribute of this type holds.
fn value(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Attributes, each with its type and what it holds, as far as they can be made out.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: [u8; ATTRIBUTE] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(ATTRIBUTE)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & TYPE, value))
    })
}

/// An attribute that holds `value`.
fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ATTRIBUTE + value.len();
    // What does not fit is none that the kernel could have made, or would take.
    let header = [u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes(), kind.to_ne_bytes()].concat();
    let mut bytes = [&header, value].concat();
    bytes.resize(length.next_multiple_of(ATTRIBUTE), 0);
    bytes
}

/// One that holds `text` and a zero behind it.
fn string(kind: u16, text: &str) -> Vec<u8> {
    attribute_of(kind, &[text.as_bytes(), &[0]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subsystem: u8, kind: u8, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let length = u32::try_from(HEADER + GENERIC + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(u16::from_le_bytes([kind, subsystem]).to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn tables_and_chains_are_told_and_the_end_of_a_transaction_is_not() {
        let datagram = [
            message(SUBSYSTEM, 6, 2, &[string(TABLE_NAME, "mangle"), string(RULE_CHAIN, "PREROUTING"), string(7, "x")]),
            message(
                SUBSYSTEM,
                5,
                2,
                &[string(TABLE_NAME, "nat"), vec![12, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1], string(CHAIN_NAME, "A")],
            ),
            message(SUBSYSTEM, 2, 7, &[string(TABLE_NAME, "ztunnel")]),
            message(SUBSYSTEM, NEW_GENERATION, 0, &[vec![8, 0, 1, 0, 0, 0, 0, 9]]),
        ]
        .concat();
        let told = [(2, "mangle", Some("PREROUTING")), (2, "nat", Some("A")), (7, "ztunnel", None)];
        let expected = told.map(|(family, table, chain)| Changed { family, table, chain });
        assert_eq!(changes(&datagram).as_deref(), Some(&expected[..]));
        assert_eq!(changes(&[]), Some(Vec::new()));
        for end in 1..datagram.len() {
            // Between two messages there is an end that looks like one.
            assert!(changes(&datagram[..end]).is_none_or(|told| told.len() < 4), "{end}");
        }
    }

    #[test]
    fn what_is_not_clear_is_not_guessed() {
        let table = || string(TABLE_NAME, "mangle");
        assert_eq!(changes(&message(1, 6, 2, &[table()])), None, "another subsystem");
        assert_eq!(changes(&message(SUBSYSTEM, 6, 2, &[table()])), None, "a rule in no chain");
        assert_eq!(changes(&message(SUBSYSTEM, 0, 2, &[])), None);
        assert_eq!(changes(&message(SUBSYSTEM, 0, 2, &[vec![3, 0, 1, 0]])), None, "shorter than its own header");
        assert_eq!(changes(&message(SUBSYSTEM, 0, 2, &[vec![0; 4], table()])), None, "of no length");
        assert_eq!(changes(&[0; 64]), None);
    }
}
