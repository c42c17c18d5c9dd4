//! What the kernel holds of nftables, in its own words (`include/uapi/linux/netfilter/nf_tables.h`): asked for in a few ms, where a tool takes ten times
//! that. No sense is made of it: it is for comparing with what the kernel held when a tool said that all was right. Whatever may differ
//! though all is right is left out, and nothing else.

use nix::errno::Errno;

use super::ask::{GET_TABLE, Packet, generation_by, open};
use super::{CHAIN_NAME, RULE_CHAIN, TABLE_NAME, attribute_of, attributes, string, value};
use crate::kernel::netlink::{Netlink, NetlinkError};

/// Questions, as `NFT_MSG_…`.
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;
const GET_SET: u8 = 10;
const GET_ELEMENTS: u8 = 13;
/// `NFTA_SET_NAME`; `NFTA_SET_ELEM_LIST_SET` and `…_ELEMENTS`.
const SET_NAME: u16 = 2;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
/// `NFTA_RULE_EXPRESSIONS` and `…_USERDATA`.
const EXPRESSIONS: u16 = 4;
const USER_DATA: u16 = 7;
/// `NFTA_EXPR_NAME` and `…_DATA`.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER: &[u8] = b"counter\0";
/// `NFTA_COUNTER_PACKETS`, big endian.
const COUNTER_PACKETS: u16 = 2;
/// `NFTNL_UDATA_RULE_COMMENT` (`udata.h` of libnftnl): each thing in a rule's user data has a byte for its type, one for its length, and a value.
const COMMENT: u8 = 0;

/// What is left out: handles, which are new with everything that is written, the handle of the rule ahead, and padding. Of a chain also what its policy
/// has counted, and how many rules are in it or go to it, which others' may do.
const VOLATILE_OF_TABLE: &[u16] = &[4, 5];
const VOLATILE_OF_CHAIN: &[u16] = &[2, 6, 8, 9];
const VOLATILE_OF_RULE: &[u16] = &[3, 6, 8];
const VOLATILE_OF_SET: &[u16] = &[14, 16];

/// What the kernel is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// A table: its flags, and how many chains, sets and other objects it has.
    Table { table: String },
    /// A chain without its rules.
    Chain { table: String, chain: String },
    /// A set and its elements.
    Set { table: String, set: String },
    /// All rules of a table, in order.
    Rules { table: String },
    /// Those of one chain.
    RulesOf { table: String, chain: String },
    /// The first rule of a chain, and how many there are that are the same.
    FirstOf { table: String, chain: String },
}

/// What the kernel holds of some parts: of each its objects, as attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Image(Vec<Vec<Object>>);

type Object = Vec<u8>;

#[cfg(test)]
impl Image {
    /// One of one object.
    pub(crate) fn for_tests(object: u8) -> Self {
        Self(vec![vec![vec![object]]])
    }
}

/// What it held at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Picture {
    /// See [`super::generation`].
    pub(crate) generation: u32,
    pub(crate) image: Image,
    /// What the counters of rules with a comment say: the comment, and packets.
    pub(crate) counted: Vec<(String, u64)>,
}

/// What the kernel holds of `parts` in the calling thread's network namespace; of what is not there, nothing. `family` is
/// `nfgenmsg.nfgen_family`.
///
/// # Errors
/// The kernel has no nftables, the socket fails, or rules were changed meanwhile.
pub(crate) fn picture(family: u8, parts: &[Part]) -> Result<Picture, NetlinkError> {
    let mut socket = open()?;
    let generation = generation_by(&mut socket)?;
    let mut picture = Picture { generation, image: Image(Vec::new()), counted: Vec::new() };
    for part in parts {
        let mut kernel = Kernel { socket: &mut socket, family };
        let shown = kernel.part(part, &mut picture.counted)?;
        picture.image.0.push(shown);
    }
    let is_same = generation_by(&mut socket)? == generation;
    if is_same { Ok(picture) } else { Err(NetlinkError::Interrupted) }
}

/// Who is asked, and for which family.
struct Kernel<'a> {
    socket: &'a mut Netlink,
    family: u8,
}

impl Kernel<'_> {
    fn part(&mut self, part: &Part, counted: &mut Vec<(String, u64)>) -> Result<Vec<Object>, NetlinkError> {
        let within = |table: &str, kind, name: &str| [string(TABLE_NAME, table), string(kind, name)].concat();
        match part {
            Part::Table { table } => Ok(shown(&self.one(GET_TABLE, string(TABLE_NAME, table))?, VOLATILE_OF_TABLE)),
            Part::Chain { table, chain } => {
                Ok(shown(&self.one(GET_CHAIN, within(table, CHAIN_NAME, chain))?, VOLATILE_OF_CHAIN))
            }
            Part::Set { table, set } => {
                let mut objects = shown(&self.one(GET_SET, within(table, SET_NAME, set))?, VOLATILE_OF_SET);
                objects.extend(elements(&self.all(GET_ELEMENTS, within(table, ELEMENTS_SET, set))?));
                Ok(objects)
            }
            Part::Rules { table } => Ok(rules(&self.all(GET_RULE, string(TABLE_NAME, table))?, counted)),
            Part::RulesOf { table, chain } => {
                Ok(rules(&self.all(GET_RULE, within(table, RULE_CHAIN, chain))?, counted))
            }
            Part::FirstOf { table, chain } => {
                let rules = rules(&self.all(GET_RULE, within(table, RULE_CHAIN, chain))?, &mut Vec::new());
                Ok(first_and_same(rules))
            }
        }
    }

    /// An object; none if it is not there.
    fn one(&mut self, kind: u8, attributes: Vec<u8>) -> Result<Vec<Packet>, NetlinkError> {
        none_if_absent(self.socket.ask(Packet { kind, family: self.family, attributes }))
    }

    /// All objects that `attributes` leave.
    fn all(&mut self, kind: u8, attributes: Vec<u8>) -> Result<Vec<Packet>, NetlinkError> {
        none_if_absent(self.socket.dump(&Packet { kind, family: self.family, attributes }))
    }
}

fn none_if_absent(answers: Result<Vec<Packet>, NetlinkError>) -> Result<Vec<Packet>, NetlinkError> {
    match answers {
        Err(error) if error.is(Errno::ENOENT) => Ok(Vec::new()),
        answers => answers,
    }
}

fn shown(packets: &[Packet], volatile: &[u16]) -> Vec<Object> {
    packets.iter().map(|packet| without(&packet.attributes, volatile)).collect()
}

/// The attributes but for those of these types.
fn without(bytes: &[u8], types: &[u16]) -> Vec<u8> {
    let kept = attributes(bytes).filter(|(kind, _)| !types.contains(kind));
    kept.flat_map(|(kind, value)| attribute_of(kind, value)).collect()
}

/// The elements of a set, which the kernel shows in any order.
fn elements(packets: &[Packet]) -> Vec<Object> {
    let lists = packets.iter().filter_map(|packet| value(&packet.attributes, ELEMENTS));
    let mut all: Vec<_> = lists.flat_map(attributes).map(|(_, element)| element.to_vec()).collect();
    all.sort_unstable();
    all
}

fn rules(packets: &[Packet], counted: &mut Vec<(String, u64)>) -> Vec<Object> {
    packets.iter().map(|packet| rule(&packet.attributes, counted)).collect()
}

/// A rule without what its counters say, which are added to `counted` by its comment.
fn rule(bytes: &[u8], counted: &mut Vec<(String, u64)>) -> Object {
    let (mut expressions, mut packets) = (Vec::new(), None);
    for (kind, expression) in attributes(value(bytes, EXPRESSIONS).unwrap_or_default()) {
        if value(expression, EXPRESSION_NAME) == Some(COUNTER) {
            packets = value(expression, EXPRESSION_DATA).and_then(count);
            expressions.extend(attribute_of(kind, COUNTER));
        } else {
            expressions.extend(attribute_of(kind, expression));
        }
    }
    counted.extend(value(bytes, USER_DATA).and_then(comment).zip(packets));
    let mut shown = without(bytes, &[VOLATILE_OF_RULE, &[EXPRESSIONS]].concat());
    shown.extend(attribute_of(EXPRESSIONS, &expressions));
    shown
}

fn count(data: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value(data, COUNTER_PACKETS)?.try_into().ok()?))
}

fn comment(mut user_data: &[u8]) -> Option<String> {
    loop {
        let [kind, length, rest @ ..] = user_data else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            return Some(String::from_utf8_lossy(value.strip_suffix(&[0])?).into_owned());
        }
        user_data = rest;
    }
}

/// The first rule, as often as it is there.
fn first_and_same(mut rules: Vec<Object>) -> Vec<Object> {
    let first = rules.first().cloned();
    rules.retain(|rule| Some(rule) == first.as_ref());
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        attribute_of(kind, &attributes.concat())
    }

    fn counter(packets: u64) -> Vec<u8> {
        let data = [attribute_of(1, &[9; 8]), attribute_of(COUNTER_PACKETS, &packets.to_be_bytes())];
        nested(1, &[attribute_of(EXPRESSION_NAME, COUNTER), nested(EXPRESSION_DATA, &data)])
    }

    fn a_rule(handle: u64, packets: u64, verdict: u8) -> Vec<u8> {
        let verdict = nested(1, &[string(EXPRESSION_NAME, "immediate"), attribute_of(EXPRESSION_DATA, &[verdict; 4])]);
        [
            string(TABLE_NAME, "t"),
            attribute_of(3, &handle.to_be_bytes()),
            nested(EXPRESSIONS, &[counter(packets), verdict]),
            attribute_of(6, &(handle - 1).to_be_bytes()),
            attribute_of(USER_DATA, b"\x01\x02ab\x00\x04why\0"),
        ]
        .concat()
    }

    #[test]
    fn a_rule_that_counts_on_is_the_same_and_one_that_says_something_else_is_not() {
        let mut counted = Vec::new();
        let shown = rule(&a_rule(7, 5, 1), &mut counted);
        assert_eq!(shown, rule(&a_rule(9, 6, 1), &mut counted));
        assert_ne!(shown, rule(&a_rule(7, 5, 2), &mut counted));
        let why = |packets| ("why".to_owned(), packets);
        assert_eq!(counted, [why(5), why(6), why(5)]);
    }

    #[test]
    fn a_counter_that_goes_or_moves_is_seen() {
        let with = |expressions: &[Vec<u8>]| rule(&nested(EXPRESSIONS, expressions), &mut Vec::new());
        let drop = nested(1, &[string(EXPRESSION_NAME, "drop")]);
        let all = [with(&[counter(1), drop.clone()]), with(&[drop.clone(), counter(1)]), with(&[drop])];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    }

    #[test]
    fn elements_are_the_same_in_any_order() {
        let element = |key: u8| nested(1, &[attribute_of(1, &[key; 4])]);
        let list = |keys: &[u8]| {
            let list = nested(ELEMENTS, &keys.iter().copied().map(element).collect::<Vec<_>>());
            Packet { kind: 12, family: 7, attributes: [string(ELEMENTS_SET, "s"), list].concat() }
        };
        let one = elements(&[list(&[1, 2, 3])]);
        assert_eq!(one, elements(&[list(&[3, 1]), list(&[2])]));
        assert_ne!(one, elements(&[list(&[1, 2])]));
        assert_ne!(one, elements(&[list(&[1, 2, 3, 3])]));
    }

    #[test]
    fn of_a_built_in_chain_the_first_rule_counts_and_how_often_it_is_there() {
        let (ours, other) = (|| vec![1], || vec![2]);
        assert_eq!(first_and_same(vec![ours(), other(), other()]), [ours()]);
        assert_eq!(first_and_same(vec![ours(), other(), ours()]), [ours(), ours()]);
        assert_eq!(first_and_same(vec![other(), ours()]), [other()]);
        assert!(first_and_same(Vec::new()).is_empty());
    }

    #[test]
    fn what_is_cut_short_is_read_as_far_as_it_goes() {
        let whole = a_rule(7, 5, 1);
        for end in 0..whole.len() {
            rule(&whole[..end], &mut Vec::new());
        }
        for user_data in [&b"\0\x04wh"[..], b"\0", b"", b"\0\0", b"\x01\xff"] {
            assert_eq!(comment(user_data), None);
        }
    }
}
