//! The state of a netns as text, to compare before and after. `exact` is for "as it was"; `shape` leaves out what differs
//! between two makings of the same thing (indices, random hardware addresses, hash seeds).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::Cmd;
use crate::diff::line_diff;
use crate::netns::Netns;

/// Commands whose output makes the text, without counters.
const COMMANDS: [&str; 10] = [
    "ip -d -o link show",
    "ip -o addr show",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip -4 rule show",
    "ip -6 rule show",
    "iptables-legacy-save",
    "iptables-nft-save",
    "ipset save",
    "nft -s list ruleset",
];

/// Sections in the order of link indices, which are not the same the next time.
const ORDER_BY_INDEX: [Section; 3] = [Section::LINKS, Section::ADDRESSES, Section::ROUTES];

/// Text by section: a command's output, `sysctl` or `processes`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// Everything about `netns` that anyone may change.
    pub fn exact(netns: &Netns) -> Result<Self> {
        let mut sections = BTreeMap::new();
        for command in COMMANDS {
            sections.insert(command.to_owned(), stable(command, &Cmd::line(command).netns(netns).run()?));
        }
        sections.insert("sysctl".to_owned(), sysctls(netns)?);
        sections.insert("processes".to_owned(), processes(netns)?);
        Ok(Self(sections))
    }

    /// The IPv4 datapath of `netns`, comparable between two makings of it; only the sections that `wanted` names.
    pub fn shape(netns: &Netns, wanted: &[Section]) -> Result<Self> {
        let mut sections = BTreeMap::new();
        for section in wanted {
            let text = match section {
                Section::Sysctls => sysctls(netns)?,
                Section::Command(command) => stable(command, &Cmd::line(command).netns(netns).run()?),
            };
            let mut lines: Vec<_> = text.lines().map(|line| shape(line) + "\n").collect();
            if ORDER_BY_INDEX.contains(section) {
                lines.sort();
            }
            sections.insert(section.name().to_owned(), lines.concat());
        }
        Ok(Self(sections))
    }

    /// The same without the processes.
    #[must_use]
    pub fn without_processes(mut self) -> Self {
        self.0.remove("processes");
        self
    }

    /// The text of one section.
    #[must_use]
    pub fn section(&self, section: Section) -> &str {
        self.0.get(section.name()).map_or("", String::as_str)
    }

    /// Lines that differ, `-` only here and `+` only in `after`; `None` if there are none.
    #[must_use]
    pub fn diff(&self, after: &Self) -> Option<String> {
        let empty = String::new();
        let sections = self.0.iter().map(|(name, old)| (name, old, after.0.get(name).unwrap_or(&empty)));
        let different = sections.filter(|(_, old, new)| old != new);
        let text: Vec<_> = different.map(|(name, old, new)| format!("{name}:\n{}", line_diff(old, new))).collect();
        (!text.is_empty()).then(|| text.concat())
    }
}

/// Part of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// Everything below `net.ipv4.conf`, and `net.ipv4.ip_forward`.
    Sysctls,
    /// The output of a command.
    Command(&'static str),
}

impl Section {
    /// Links.
    pub const LINKS: Self = Self::Command("ip -d -o link show");
    /// IPv4 addresses.
    pub const ADDRESSES: Self = Self::Command("ip -4 -o addr show");
    /// IPv4 routes of all tables.
    pub const ROUTES: Self = Self::Command("ip -4 route show table all");
    /// IPv4 policy rules.
    pub const RULES: Self = Self::Command("ip -4 rule show");
    /// Sets and their entries.
    pub const SETS: Self = Self::Command("ipset save");
    /// What switches between ports, beside the routed packets that iptables sees.
    pub const BRIDGE: Self = Self::Command("nft -s list ruleset bridge");

    /// Its name in a snapshot.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sysctls => "sysctl",
            Self::Command(command) => command,
        }
    }
}

/// Without comments (they hold dates) and counters, and sorted where the kernel's order is by hash.
fn stable(command: &str, text: &str) -> String {
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(without_counters).collect();
    if command.starts_with("ipset") {
        lines.sort();
    }
    if command == "iptables-legacy-save" {
        lines = without_untouched_tables(&lines);
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// `:PREROUTING ACCEPT [12:3456]` without the numbers.
fn without_counters(line: &str) -> String {
    match line.rsplit_once(" [") {
        Some((chain, _)) if line.starts_with(':') => chain.to_owned(),
        _ => line.trim_end().to_owned(),
    }
}

/// A legacy table is made in a netns when it is first looked at and can never be removed again; one that holds nothing
/// but the built-in chains with their first policy does nothing, and is as good as none.
fn without_untouched_tables(lines: &[String]) -> Vec<String> {
    let tables = lines.split_inclusive(|line| line == "COMMIT");
    let touched = |table: &&[String]| {
        table.iter().any(|line| line.starts_with('-') || (line.starts_with(':') && !line.ends_with(" ACCEPT")))
    };
    tables.filter(touched).flatten().cloned().collect()
}

/// One line without indices, hardware addresses of tunnels, and hash seeds.
fn shape(line: &str) -> String {
    let tunnel = line.contains(" geneve ");
    let mut words = line.split_whitespace().skip(usize::from(starts_with_index(line)));
    let mut shaped = Vec::new();
    while let Some(word) = words.next() {
        shaped.push(word.split_once("@if").map_or(word, |(name, _)| name).to_owned());
        if word == "initval" || (tunnel && word == "link/ether") {
            words.next();
            shaped.push("*".to_owned());
        }
    }
    shaped.join(" ")
}

/// `ip rule` also starts with a number and a colon; there it is the priority.
fn starts_with_index(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let number = words.next().and_then(|word| word.strip_suffix(':')).is_some_and(|word| word.parse::<u32>().is_ok());
    number && words.next() != Some("from")
}

fn sysctls(netns: &Netns) -> Result<String> {
    netns.run(|| {
        let mut lines = Vec::new();
        collect(Path::new("/proc/sys/net/ipv4/conf"), &mut lines)?;
        lines.push(format!("ip_forward = {}", fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?.trim()));
        lines.sort();
        Ok(lines.into_iter().map(|line| line + "\n").collect())
    })?
}

fn collect(dir: &Path, lines: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, lines)?;
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Write-only ones (`flush`) have no value to compare.
            let name = path.strip_prefix("/proc/sys/net/ipv4").unwrap_or(&path);
            lines.push(format!("{} = {}", name.display(), value.trim()));
        }
    }
    Ok(())
}

/// Pid and name of every process whose netns this is.
fn processes(netns: &Netns) -> Result<String> {
    let inode = fs::metadata(netns.path()).with_context(|| format!("no netns {}", netns.name()))?.ino();
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // Processes that end meanwhile are not there.
        if fs::metadata(path.join("ns/net")).is_ok_and(|ns| ns.ino() == inode)
            && path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok())
            && let Ok(name) = fs::read_to_string(path.join("comm"))
        {
            lines.push(format!("{} {}\n", path.display(), name.trim()));
        }
    }
    lines.sort();
    Ok(lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_legacy_table_is_no_table() {
        let text = "# Generated\n*mangle\n:PREROUTING ACCEPT [5:300]\nCOMMIT\n*nat\n:OUTPUT ACCEPT [0:0]\n:X - [0:0]\nCOMMIT\n";
        assert_eq!(stable("iptables-legacy-save", text), "*nat\n:OUTPUT ACCEPT\n:X -\nCOMMIT\n");
        assert!(stable("iptables-nft-save", text).starts_with("*mangle\n:PREROUTING ACCEPT\nCOMMIT\n"));
    }

    #[test]
    fn the_shape_of_a_tunnel_is_without_index_and_random_address() {
        let line = "7: istioin: <UP> mtu 1450 link/ether 0a:11:22:33:44:55 brd ff:ff geneve id 1000 remote 10.244.1.6";
        assert_eq!(shape(line), "istioin: <UP> mtu 1450 link/ether * brd ff:ff geneve id 1000 remote 10.244.1.6");
        assert_eq!(shape("2: eth0@if5: <UP>"), "eth0 <UP>");
        assert_eq!(
            shape("100:\tfrom all fwmark 0x200/0x200 goto 32766"),
            "100: from all fwmark 0x200/0x200 goto 32766"
        );
    }

    #[test]
    fn a_diff_names_section_and_lines() {
        let one = Snapshot(BTreeMap::from([("a".to_owned(), "x\ny\n".to_owned())]));
        let two = Snapshot(BTreeMap::from([("a".to_owned(), "x\nz\n".to_owned())]));
        assert_eq!(one.diff(&two).as_deref(), Some("a:\n- y\n+ z\n"));
        assert_eq!(one.diff(&one), None);
    }
}
