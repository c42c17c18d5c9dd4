//! Every single thing that the agent made, found by comparing a netns before and after, each with the command that takes
//! it away. The agent is not asked: what it forgot to list is found all the same. In `changes` are those that change things
//! instead, in `maps` those that have to do with BPF maps and their pins.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::backend::Backend;
use crate::command::Cmd;
use crate::foreign::{self, Filter};
use crate::netns::Netns;
use crate::node::set_sysctls;
use crate::snapshot::{Section, Snapshot};

mod changes;
mod figures;
mod maps;

pub use changes::changes;
pub use figures::Figures;
pub use maps::{changes_of_maps, describe_maps};

/// How the names of the agent's chains begin.
const OURS: &str = "ztunnel-";

/// One thing, and how to take it away, or to make it another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removal {
    /// What it is, as the tool prints it.
    pub what: String,
    /// Which kind of thing, and what is done to it.
    pub kind: &'static str,
    /// Whether the kernel tells of it.
    pub told: bool,
    /// Where it shows.
    pub section: Section,
    way: Way,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Way {
    /// A command and what it reads.
    Run(String, String),
    /// A sysctl and its value.
    Write(String, String),
    /// The pin of a link, which another's program is put into.
    Swap(PathBuf),
    /// A filter of the agent's, which gets another program of its object.
    Replace(Filter),
}

impl Removal {
    /// Takes the thing away.
    pub fn apply(&self, netns: &Netns) -> Result<()> {
        match &self.way {
            Way::Run(command, input) => Cmd::line(command).netns(netns).stdin(input).run().map(drop),
            Way::Write(name, value) => set_sysctls(netns, &[(name, value)]),
            Way::Swap(pin) => foreign::take_over(pin),
            Way::Replace(filter) => filter.take_over(netns),
        }
        .with_context(|| format!("cannot remove {}", self.what))
    }

    fn by(section: Section, kind: &'static str, what: &str, command: String) -> Self {
        Self { what: what.to_owned(), kind, told: true, section, way: Way::Run(command, String::new()) }
    }

    /// The kernel does not tell of it.
    fn untold(self) -> Self {
        Self { told: false, ..self }
    }
}

/// The sections in which the datapath shows.
#[must_use]
pub fn sections(backend: Backend) -> Vec<Section> {
    let rules = Section::Command(backend.save());
    let mut all = vec![Section::LINKS, Section::ADDRESSES, Section::NEIGHBOURS, Section::ROUTES, Section::RULES];
    all.extend([Section::Sysctls, Section::SETS, rules, Section::BRIDGE, Section::GUARD, Section::Programs]);
    all
}

/// Everything in `after` that was not in `before`.
#[must_use]
pub fn removals(before: &Snapshot, after: &Snapshot, backend: Backend) -> Vec<Removal> {
    let new = |section: Section| {
        let old: BTreeSet<_> = before.section(section).lines().collect();
        after.section(section).lines().filter(move |line| !old.contains(line))
    };
    let mut all: Vec<Removal> = Vec::new();
    all.extend(new(Section::LINKS).filter_map(link));
    all.extend(new(Section::ADDRESSES).filter_map(address));
    all.extend(new(Section::NEIGHBOURS).filter_map(neighbour).flatten());
    all.extend(new(Section::ROUTES).filter_map(route));
    all.extend(new(Section::RULES).filter_map(rule));
    all.extend(sysctls(before.section(Section::Sysctls), after.section(Section::Sysctls)));
    all.extend(new(Section::SETS).filter_map(entry));
    let save = Section::Command(backend.save());
    all.extend(chains(before.section(save), after.section(save), backend));
    for section in [Section::BRIDGE, Section::GUARD] {
        all.extend(tables(section, before.section(section), after.section(section)));
    }
    all.extend(new(Section::Programs).flat_map(program));
    all
}

fn link(line: &str) -> Option<Removal> {
    let name = line.split_whitespace().next()?.trim_end_matches(':');
    Some(Removal::by(Section::LINKS, "link removed", &format!("link {name}"), format!("ip link del {name}")))
}

fn address(line: &str) -> Option<Removal> {
    let [device, "inet", address] = words(line)[..] else { return None };
    Some(Removal::by(
        Section::ADDRESSES,
        "address removed",
        &format!("address {address} on {device}"),
        format!("ip addr del {address} dev {device}"),
    ))
}

/// Taken away, turned into another's, and made one that ARP may forget.
fn neighbour(line: &str) -> Option<[Removal; 3]> {
    let [ip, "dev", device, "lladdr", mac, "PERMANENT"] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    let ways = [
        ("neighbour removed", format!("ip neigh del {ip} dev {device}")),
        ("neighbour changed", format!("ip neigh replace {ip} dev {device} lladdr 02:00:00:00:00:01 nud permanent")),
        ("neighbour changed", format!("ip neigh replace {ip} dev {device} lladdr {mac} nud reachable")),
    ];
    Some(ways.map(|(kind, command)| Removal::by(Section::NEIGHBOURS, kind, &command, command.clone()).untold()))
}

/// Routes that the kernel makes for an address come and go with the address.
fn route(line: &str) -> Option<Removal> {
    let implied = line.contains("proto kernel");
    (!implied).then(|| {
        Removal::by(Section::ROUTES, "route removed", &format!("route {line}"), format!("ip route del {line}"))
    })
}

fn rule(line: &str) -> Option<Removal> {
    let (priority, rest) = line.split_once(": ")?;
    let rest = rest.trim_end_matches(" [detached]");
    Some(Removal::by(
        Section::RULES,
        "rule removed",
        &format!("rule {line}"),
        format!("ip rule del priority {priority} {rest}"),
    ))
}

fn entry(line: &str) -> Option<Removal> {
    let member = line.strip_prefix("add ")?;
    Some(
        Removal::by(Section::SETS, "set entry removed", &format!("set entry {member}"), format!("ipset del {member}"))
            .untold(),
    )
}

/// A filter, taken away and with another program, or the qdisc with all its filters. A link of TCX is taken away by its pin.
fn program(line: &str) -> Vec<Removal> {
    let by = |kind, command| Removal::by(Section::Programs, kind, line, command);
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [device, "clsact"] => vec![by("qdisc removed", format!("tc qdisc del dev {device} clsact"))],
        [device, hook, "clsact", priority, _] => {
            let removed = by("program removed", format!("tc filter del dev {device} {hook} pref {priority}"));
            let swapped = Filter::new(device, hook, priority).map(|filter| Removal {
                kind: "program swapped",
                what: format!("another program in {line}"),
                way: Way::Replace(filter),
                ..removed.clone()
            });
            [Some(removed), swapped].into_iter().flatten().collect()
        }
        _ => Vec::new(),
    }
}

/// Each pinned link in `dir`; with its pin goes the link. Several can be of one device, so which it is does not matter.
pub fn pinned_links(dir: &Path) -> Result<Vec<Removal>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot list {}", dir.display()))?,
    };
    let removal = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry?.path();
        let command = format!("rm {}", path.display());
        Ok(Removal::by(Section::Programs, "link's pin removed", &format!("pin {}", path.display()), command))
    };
    entries.map(removal).collect()
}

/// A whole table, and what is in it: chains and sets, emptied one by one.
fn tables(section: Section, before: &str, after: &str) -> Vec<Removal> {
    let mut table: Option<String> = None;
    let mut all = Vec::new();
    for words in after.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
        let command = match (words[..].as_ref(), &table) {
            (["table", family, name, "{"], _) => {
                let foreign = before.contains(&format!("table {family} {name} {{"));
                table = (!foreign).then(|| format!("{family} {name}"));
                table.as_ref().map(|table| ("nft table removed", format!("nft delete table {table}")))
            }
            (["chain", name, "{"], Some(table)) => {
                Some(("nft chain emptied", format!("nft flush chain {table} {name}")))
            }
            (["set", name, "{"], Some(table)) => Some(("nft set emptied", format!("nft flush set {table} {name}"))),
            _ => None,
        };
        all.extend(command.map(|(kind, command)| Removal::by(section, kind, &command, command.clone())));
    }
    all
}

/// A setting that differs from what it was, or on a new link from what new links get.
fn sysctls(before: &str, after: &str) -> Vec<Removal> {
    let value_of = |text: &str, name: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once(" = "));
        pairs.find(|(other, _)| *other == name).map(|(_, value)| value.to_owned())
    };
    let removal = |line: &str| {
        let (name, value) = line.split_once(" = ")?;
        let default = || {
            let (_, key) = name.strip_prefix("conf/")?.split_once('/')?;
            value_of(before, &format!("conf/default/{key}"))
        };
        let old = value_of(before, name).or_else(default)?;
        let way = Way::Write(format!("net/ipv4/{name}"), old.clone());
        let (section, what) = (Section::Sysctls, format!("sysctl {line}"));
        // Nobody is told of `accept_local` (`devinet_conf_proc`, net/ipv4/devinet.c), nor of what is a namespace's.
        let of_device = name.starts_with("conf/");
        let kind = if of_device { "sysctl changed" } else { "sysctl of a namespace changed" };
        let told = of_device && !name.ends_with("/accept_local");
        (old != value).then_some(Removal { what, kind, told, section, way })
    };
    after.lines().filter_map(removal).collect()
}

/// Jumps and rules one by one, then whole chains together with what refers to them.
fn chains(before: &str, after: &str, backend: Backend) -> Vec<Removal> {
    let old: BTreeSet<_> = rules(before).into_iter().collect();
    let new: Vec<_> = rules(after).into_iter().filter(|rule| !old.contains(rule)).collect();
    let restore = |kind: &'static str, what: String, table: &str, commands: &[String]| Removal {
        what,
        kind,
        told: backend == Backend::Nft,
        section: Section::Command(backend.save()),
        way: Way::Run(
            format!("{} --wait 10 --noflush", backend.restore()),
            format!("*{table}\n{}\nCOMMIT\n", commands.join("\n")),
        ),
    };
    let mut all = Vec::new();
    for (table, line) in &new {
        if let Some(rule) = line.strip_prefix("-A ") {
            let jump = !rule.starts_with(OURS);
            let kind = if jump { "jump removed" } else { "rule of a chain removed" };
            all.push(restore(kind, format!("{table} rule {rule}"), table, &[format!("-D {rule}")]));
        }
    }
    for (table, line) in &new {
        if let Some(chain) = line.strip_prefix(':').and_then(|line| line.strip_suffix(" -")) {
            let refers =
                |line: &String| line.ends_with(&format!("-j {chain}")) || line.ends_with(&format!("-g {chain}"));
            let referring = new.iter().filter(|(other, line)| other == table && refers(line));
            let mut commands: Vec<_> = referring.map(|(_, line)| line.replacen("-A ", "-D ", 1)).collect();
            commands.extend([format!("-F {chain}"), format!("-X {chain}")]);
            all.push(restore("chain removed", format!("{table} chain {chain}"), table, &commands));
        }
    }
    all
}

/// Lines of a save file, each with its table.
fn rules(save: &str) -> Vec<(String, String)> {
    let mut table = String::new();
    let mut rules = Vec::new();
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if line != "COMMIT" {
            rules.push((table.clone(), line.to_owned()));
        }
    }
    rules
}

/// `istioin inet 192.168.126.1/30` of a line of `ip -o addr` without its index.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_command() {
        let command = |removal: Option<Removal>| match removal?.way {
            Way::Run(command, _) => Some(command),
            Way::Write(..) | Way::Swap(_) | Way::Replace(_) => None,
        };
        assert_eq!(command(link("istioin: <UP> mtu 1450")).as_deref(), Some("ip link del istioin"));
        let line = "istioin inet 192.168.126.1/30 scope global istioin";
        assert_eq!(command(address(line)).as_deref(), Some("ip addr del 192.168.126.1/30 dev istioin"));
        let neighbours = neighbour("192.168.126.2 dev istioin lladdr 02:72:64:72:01:02 PERMANENT");
        let commands: Vec<_> = neighbours.into_iter().flatten().map(|removal| command(Some(removal))).collect();
        assert_eq!(commands[0].as_deref(), Some("ip neigh del 192.168.126.2 dev istioin"));
        assert_eq!(commands.len(), 3);
        assert_eq!(command(route("192.168.126.0/30 dev istioin proto kernel scope link")), None);
        assert_eq!(
            command(rule("100: from all fwmark 0x200/0x200 goto 32766")).as_deref(),
            Some("ip rule del priority 100 from all fwmark 0x200/0x200 goto 32766")
        );
    }

    #[test]
    fn programs_go_by_filter_and_by_qdisc() {
        let ways = |line: &str| program(line).into_iter().map(|removal| removal.way).collect::<Vec<_>>();
        let run = |command: &str| Way::Run(command.to_owned(), String::new());
        assert_eq!(ways("veth1 clsact"), [run("tc qdisc del dev veth1 clsact")]);
        let swapped = Way::Replace(Filter::new("veth1", "ingress", "7").unwrap());
        assert_eq!(
            ways("veth1 ingress clsact 7 redirect_from_p"),
            [run("tc filter del dev veth1 ingress pref 7"), swapped]
        );
        assert_eq!(ways("veth1 ingress tcx redirect_from_p"), []);
    }

    #[test]
    fn sysctls_of_new_links_fall_back_to_the_default() {
        let before = "conf/all/rp_filter = 0\nconf/default/rp_filter = 2\nconf/eth0/rp_filter = 2\n";
        let after = format!("{before}conf/istioin/rp_filter = 0\n").replace("eth0/rp_filter = 2", "eth0/rp_filter = 0");
        let ways: Vec<_> = sysctls(before, &after).into_iter().map(|removal| removal.way).collect();
        let write = |name: &str| Way::Write(format!("net/ipv4/conf/{name}/rp_filter"), "2".to_owned());
        assert_eq!(ways, [write("eth0"), write("istioin")]);
    }

    #[test]
    fn a_table_goes_whole_and_in_parts() {
        let after =
            "table bridge other {\nchain x {\n}\n}\ntable bridge ztunnel {\nset pods {\n}\nchain prerouting {\n}\n}\n";
        let what: Vec<_> =
            tables(Section::BRIDGE, "table bridge other {\n", after).into_iter().map(|removal| removal.what).collect();
        let expected = [
            "nft delete table bridge ztunnel",
            "nft flush set bridge ztunnel pods",
            "nft flush chain bridge ztunnel prerouting",
        ];
        assert_eq!(what, expected);
    }

    #[test]
    fn a_chain_goes_with_its_jumps() {
        let before = "*mangle\n:PREROUTING ACCEPT\nCOMMIT\n";
        let after =
            "*mangle\n:PREROUTING ACCEPT\n:ztunnel-X -\n-A PREROUTING -j ztunnel-X\n-A ztunnel-X -j RETURN\nCOMMIT\n";
        let ways: Vec<_> = chains(before, after, Backend::Nft).into_iter().map(|removal| removal.way).collect();
        let restore = |input: &str| Way::Run("iptables-nft-restore --wait 10 --noflush".to_owned(), input.to_owned());
        assert_eq!(ways[0], restore("*mangle\n-D PREROUTING -j ztunnel-X\nCOMMIT\n"));
        assert_eq!(ways[2], restore("*mangle\n-D PREROUTING -j ztunnel-X\n-F ztunnel-X\n-X ztunnel-X\nCOMMIT\n"));
    }
}
