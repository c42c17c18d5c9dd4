//! What did not pass because of us, by why. It is read along with the rules, links and maps that are looked at anyhow, asks the kernel
//! for nothing more, and no plan is compared with it.

use std::collections::BTreeMap;

use redirect_common::maps::{Counter, counter_name};
use redirect_common::names::{ISTIOIN, ISTIOOUT};

use crate::kernel::links::Link;

/// Packets by what they are called.
pub(crate) type Packets = BTreeMap<String, u64>;

/// Why something was dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Why {
    /// From a meshed pod, without a way to ztunnel.
    Outbound,
    /// To a meshed pod, without a way to ztunnel, or past it.
    Inbound,
    /// An answer to a ztunnel that is gone.
    Answer,
    /// Marked for ztunnel, of no connection, and about to be delivered to the node itself.
    Stray,
    /// A frame with ztunnel's MAC address from another port of its bridge.
    Impostor,
    /// IPv4 from a pod that cannot be read.
    Unreadable,
}

impl Why {
    pub(crate) const ALL: [Self; 6] =
        [Self::Outbound, Self::Inbound, Self::Answer, Self::Stray, Self::Impostor, Self::Unreadable];

    /// As status, metrics and the rules' comments name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Answer => "answer",
            Self::Stray => "stray",
            Self::Impostor => "impostor",
            Self::Unreadable => "unreadable",
        }
    }

    /// How nftables drops for it, and counts that.
    pub(crate) fn drop(self) -> String {
        format!("counter drop comment \"{}\"", self.name())
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.name() == name)
    }
}

/// What has a counter: it begins anew with the thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Source {
    /// The chains of iptables.
    Chain,
    /// The tables of nftables.
    Guard,
    /// The tunnels' links.
    Tunnel,
    /// The programs.
    Program,
}

/// What a counter said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    pub(crate) source: Source,
    pub(crate) why: Why,
    pub(crate) packets: u64,
}

/// What the tunnels were given and could not send. While there is no way to ztunnel that is all of it: either the kernel finds none
/// but the tunnel itself (`geneve_get_v4_rt`, `drivers/net/geneve.c`), or the destination guard has dropped what was about to leave
/// elsewhere (`iptunnel_xmit`, `net/ipv4/ip_tunnel_core.c`).
pub(crate) fn of_tunnels(links: &[Link]) -> Vec<Reading> {
    let whys = [(ISTIOIN, Why::Inbound), (ISTIOOUT, Why::Outbound)];
    let reading = |(tunnel, why): (redirect_common::names::Tunnel, Why)| {
        let link = links.iter().find(|link| link.name == tunnel.node_link)?;
        Some(Reading { source: Source::Tunnel, why, packets: link.unsent })
    };
    whys.into_iter().filter_map(reading).collect()
}

/// What the programs have dropped, of what they have counted.
pub(crate) fn of_programs(packets: &Packets) -> Vec<Reading> {
    let whys = [(Counter::Bypass, Why::Inbound), (Counter::UnparsedDropped, Why::Unreadable)];
    let reading = |(counter, why)| {
        let packets = *packets.get(counter_name(counter as u32))?;
        Some(Reading { source: Source::Program, why, packets })
    };
    whys.into_iter().filter_map(reading).collect()
}

/// What rules of nftables have dropped, by their comments.
pub(crate) fn of_comments<'a>(counted: impl Iterator<Item = (&'a str, u64)>) -> Vec<Reading> {
    let mut sums = BTreeMap::<Why, u64>::new();
    for (why, packets) in counted.filter_map(|(comment, packets)| Some((Why::named(comment)?, packets))) {
        *sums.entry(why).or_default() += packets;
    }
    sums.into_iter().map(|(why, packets)| Reading { source: Source::Guard, why, packets }).collect()
}

/// A table as nft prints it, white space folded and without what its counters say; and what those say that drop.
pub(crate) fn of_table(text: &str) -> (String, Vec<Reading>) {
    let (mut kept, mut counted) = (Vec::new(), Vec::new());
    let (mut words, mut packets) = (text.split_whitespace(), 0);
    while let Some(word) = words.next() {
        kept.push(word);
        match word {
            "counter" => packets = skip_values(&mut words),
            "comment" => {
                let comment = words.next().unwrap_or_default();
                kept.push(comment);
                counted.push((comment.trim_matches('"'), packets));
            }
            _ => {}
        }
    }
    (kept.join(" "), of_comments(counted.into_iter()))
}

/// Behind `counter`: `packets 5 bytes 300`, where it has counted already.
fn skip_values<'a>(words: &mut (impl Iterator<Item = &'a str> + Clone)) -> u64 {
    let mut values = words.clone();
    match [values.next(), values.next(), values.next(), values.next()] {
        [Some("packets"), Some(packets), Some("bytes"), Some(_)] => {
            *words = values;
            packets.parse().unwrap_or_default()
        }
        _ => 0,
    }
}

/// Sums that never fall, of counters that begin anew with what has them.
#[derive(Default, Debug)]
pub(crate) struct Blocked {
    last: BTreeMap<(Source, Why), u64>,
    sums: BTreeMap<Why, u64>,
}

impl Blocked {
    /// What has been counted since the last reading of the same counter.
    pub(crate) fn add(&mut self, Reading { source, why, packets }: Reading) {
        let last = self.last.insert((source, why), packets).unwrap_or_default();
        // Where it says less than before, it has begun anew.
        *self.sums.entry(why).or_default() += packets.checked_sub(last).unwrap_or(packets);
    }

    /// For status: every reason, also those for which nothing was dropped.
    pub(crate) fn packets(&self) -> Packets {
        let sum = |why: Why| (why.name().to_owned(), self.sums.get(&why).copied().unwrap_or_default());
        Why::ALL.into_iter().map(sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(source: Source, why: Why, packets: u64) -> Reading {
        Reading { source, why, packets }
    }

    #[test]
    fn a_table_reads_the_same_whatever_it_has_counted() {
        let rule =
            |values: &str, why: Why| format!("oifname != \"x\" counter {values}drop comment \"{}\"\n", why.name());
        let table = |values: &str| {
            let rules = [rule(values, Why::Outbound), rule(values, Why::Answer), rule(values, Why::Answer)].concat();
            format!("table ip ztunnel {{\n\tchain reveal {{\n\t\tcounter {values}\n\t\t{rules}}}\n}}\n")
        };
        let (fresh, none) = of_table(&table(""));
        let (later, some) = of_table(&table("packets 7 bytes 420 "));
        assert_eq!(fresh, later);
        assert!(later.contains("counter drop comment \"outbound\" oifname"), "{later}");
        assert_eq!(none.iter().map(|reading| reading.packets).collect::<Vec<_>>(), [0, 0]);
        assert_eq!(some, [reading(Source::Guard, Why::Outbound, 7), reading(Source::Guard, Why::Answer, 14)]);
        assert!(of_table(&table("packets 7 bytes 420 ").replace("drop", "accept")).0 != later);
    }

    #[test]
    fn sums_do_not_fall_when_a_counter_begins_anew() {
        let mut blocked = Blocked::default();
        for packets in [5, 5, 8, 3, 4] {
            blocked.add(reading(Source::Chain, Why::Inbound, packets));
        }
        blocked.add(reading(Source::Tunnel, Why::Inbound, 1));
        assert_eq!(blocked.packets()["inbound"], 8 + 4 + 1);
        assert_eq!(blocked.packets().len(), Why::ALL.len());
    }

    #[test]
    fn what_programs_and_tunnels_count() {
        let packets = Packets::from([("bypass-dropped".into(), 3), ("outbound".into(), 9)]);
        assert_eq!(of_programs(&packets), [reading(Source::Program, Why::Inbound, 3)]);
        let link = |name: &str, unsent| Link { name: name.into(), unsent, ..Link::default() };
        let readings = of_tunnels(&[link("istioout", 4), link("eth0", 7)]);
        assert_eq!(readings, [reading(Source::Tunnel, Why::Outbound, 4)]);
    }
}
