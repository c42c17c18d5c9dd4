//! Where an operator sees the meshed pods in the datapath: in the set, in iptables mode; in the map and nowhere else, in
//! ebpf mode.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use redirect_common::maps::name;
use serde::Deserialize;

use super::{Check, Facts, exactly, in_force, missing};
use crate::command::Cmd;
use crate::lab::Lab;
use crate::mode::Mode;

/// The set of iptables mode.
const SET: &str = "ztunnel-pods-ips";

/// What to look at.
pub(super) fn checks(lab: &Lab, mode: Mode) -> Vec<(String, Check)> {
    let list = format!("ipset list {SET}");
    match mode {
        Mode::Iptables => vec![(list, set)],
        Mode::Ebpf => vec![
            (list, no_set),
            (lab.options().backend.save().to_owned(), no_pods),
            ("nft list table ip ztunnel".to_owned(), no_pods),
            ("nft list table bridge ztunnel".to_owned(), no_arrivals),
            (dump(lab), map),
        ],
    }
}

/// The addresses of meshed pods in the datapath of the mode in force.
pub fn meshed(lab: &Lab) -> Result<BTreeSet<Ipv4Addr>> {
    match in_force(lab)? {
        Mode::Iptables => {
            let text = Cmd::new("ipset").args(["list", SET]).netns(&lab.node()).run()?;
            members(&text).lines().map(|line| line.parse().with_context(|| format!("not an address: {line}"))).collect()
        }
        Mode::Ebpf => addresses(&Cmd::line(&dump(lab)).run()?),
    }
}

fn dump(lab: &Lab) -> String {
    format!("bpftool -j map dump pinned {}", lab.map_pin(name::PODS).display())
}

fn set(facts: &Facts, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.contains("Type: hash:ip\n") {
        wrong.push(missing("Type: hash:ip"));
    }
    wrong.extend(exactly(members(text), &lines(&facts.meshed)));
    wrong
}

fn members(text: &str) -> &str {
    text.split_once("Members:\n").map_or("", |(_, members)| members)
}

fn no_set(_facts: &Facts, text: &str) -> Vec<String> {
    let absent = text.contains("does not exist");
    if absent { Vec::new() } else { vec![format!("there is a set {SET}")] }
}

/// No rule of ours names a pod; those of kube-proxy name the endpoints of Services.
fn no_pods(facts: &Facts, text: &str) -> Vec<String> {
    let names_pod = |line: &&str| {
        let words = || line.split(|c: char| !(c.is_ascii_digit() || c == '.'));
        facts.meshed.iter().any(|pod| words().any(|word| word == pod.to_string()))
    };
    let kube_proxy = |line: &&str| line.contains("KUBE-");
    let pods = text.lines().filter(|line| names_pod(line) && !kube_proxy(line));
    let sets = text.lines().filter(|line| line.contains(SET));
    pods.map(|line| format!("a rule names a pod: {}", line.trim()))
        .chain(sets.map(|line| format!("a rule names the set: {}", line.trim())))
        .collect()
}

/// Behind a bridge there is the part that looks at what leaves for ztunnel; programs do the rest.
fn no_arrivals(facts: &Facts, text: &str) -> Vec<String> {
    let mut wrong = no_pods(facts, text);
    wrong.extend(text.contains("hook prerouting").then(|| "a guard of iptables mode looks at what arrives".to_owned()));
    wrong
}

fn map(facts: &Facts, text: &str) -> Vec<String> {
    match addresses(text) {
        Ok(found) => {
            let found: Vec<_> = found.into_iter().collect();
            exactly(&lines(&found).join("\n"), &lines(&facts.meshed))
        }
        Err(error) => vec![format!("{error:#}")],
    }
}

fn lines(addresses: &[Ipv4Addr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[derive(Deserialize)]
struct Entry {
    key: Vec<String>,
}

/// The keys of a dump of the map: IPv4 addresses, byte by byte.
fn addresses(dump: &str) -> Result<BTreeSet<Ipv4Addr>> {
    let entries: Vec<Entry> = serde_json::from_str(dump).with_context(|| format!("bpftool says {dump:?}"))?;
    entries.iter().map(address).collect()
}

fn address(entry: &Entry) -> Result<Ipv4Addr> {
    let bytes = entry.key.iter().map(|byte| u8::from_str_radix(byte.trim_start_matches("0x"), 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().with_context(|| format!("not bytes: {:?}", entry.key))?;
    let bytes: [u8; 4] = bytes.as_slice().try_into().with_context(|| format!("{} bytes of key", bytes.len()))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);

    fn facts(mode: Mode) -> Facts {
        let proxy = Ipv4Addr::new(10, 244, 1, 6);
        Facts { proxy, proxy_link: "vethZ".to_owned(), port: 6081, meshed: vec![POD], mode }
    }

    #[test]
    fn members_of_the_set_are_exactly_the_meshed_pods() {
        let text = "Name: ztunnel-pods-ips\nType: hash:ip\nHeader: family inet\nMembers:\n10.244.1.5\n10.244.1.9\n";
        assert_eq!(set(&facts(Mode::Iptables), text), ["not expected: \"10.244.1.9\""]);
    }

    #[test]
    fn keys_of_the_map_are_exactly_the_meshed_pods() {
        let dump = r#"[{"key":["0x0a","0xf4","0x01","0x05"],"value":["0x01","0x00"]}]"#;
        assert_eq!(map(&facts(Mode::Ebpf), dump), Vec::<String>::new());
        assert_eq!(map(&facts(Mode::Ebpf), "[]"), ["missing: \"10.244.1.5\""]);
        assert_eq!(map(&facts(Mode::Ebpf), "Error: no such file").len(), 1);
    }

    #[test]
    fn rules_that_name_pods_or_the_set_are_found() {
        let text =
            "-A KUBE-SEP-APPB -s 10.244.1.5/32 -j KUBE-MARK-MASQ\n-A ztunnel-FORWARD -s 10.244.1.50/32 -j DROP\n";
        assert_eq!(no_pods(&facts(Mode::Ebpf), text), Vec::<String>::new());
        let text = "-A ztunnel-FORWARD -s 10.244.1.5/32 -j DROP\n-A x -m set --match-set ztunnel-pods-ips src\n";
        assert_eq!(no_pods(&facts(Mode::Ebpf), text).len(), 2);
    }
}
