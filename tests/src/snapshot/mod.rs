//! The state of a netns as text, to compare before and after. `exact` is for "as it was"; `shape` leaves out what differs
//! between two makings of the same thing (indices, random hardware addresses, hash seeds).

mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::command::Cmd;
use crate::diff::line_diff;
use crate::netns::Netns;
use crate::{process, programs};
use text::{mentions, shape, stable, with_word};

/// Commands whose output makes the text, without counters.
const COMMANDS: [&str; 11] = [
    "ip -d -o link show",
    "ip -o addr show",
    Section::NEIGHBOURS.name(),
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
        sections.insert(Section::Programs.name().to_owned(), programs::text(netns)?);
        Ok(Self(sections))
    }

    /// The IPv4 datapath of `netns`, comparable between two makings of it; only the sections that `wanted` names.
    pub fn shape(netns: &Netns, wanted: &[Section]) -> Result<Self> {
        let mut sections = BTreeMap::new();
        for section in wanted {
            let text = match section {
                Section::Sysctls => sysctls(netns)?,
                Section::Programs => programs::text(netns)?,
                Section::Command(command) => stable(command, &listing(command, netns)?),
            };
            let mut lines: Vec<_> = text.lines().map(|line| shape(line) + "\n").collect();
            if ORDER_BY_INDEX.contains(section) {
                lines.sort();
            }
            sections.insert(section.name().to_owned(), lines.concat());
        }
        Ok(Self(sections))
    }

    /// The sections that `wanted` names.
    #[must_use]
    pub fn part(&self, wanted: &[Section]) -> Self {
        let named = |name: &str| wanted.iter().any(|section| section.name() == name);
        Self(self.0.iter().filter(|(name, _)| named(name)).map(|(name, text)| (name.clone(), text.clone())).collect())
    }

    /// The same without the processes.
    #[must_use]
    pub fn without_processes(mut self) -> Self {
        self.0.remove("processes");
        self
    }

    /// The same without the lines that mention one of these names.
    #[must_use]
    pub fn without(&self, names: &[String]) -> Self {
        self.by_line(|line| if names.iter().any(|name| mentions(line, name)) { String::new() } else { line.to_owned() })
    }

    /// The same with another word wherever this one is.
    #[must_use]
    pub fn with_word(&self, word: &str, other: &str) -> Self {
        self.by_line(|line| with_word(line, word, other))
    }

    /// Each line with its end.
    fn by_line(&self, change: impl Fn(&str) -> String) -> Self {
        let changed = |text: &String| text.split_inclusive('\n').map(&change).collect();
        Self(self.0.iter().map(|(name, text)| (name.clone(), changed(text))).collect())
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
    /// Everything below `net.ipv4.conf`, `net.ipv4.ip_forward` and `net.ipv4.ip_local_port_range`.
    Sysctls,
    /// The tc programs on devices, and the qdiscs that they hang on.
    Programs,
    /// The output of a command.
    Command(&'static str),
}

impl Section {
    /// Links.
    pub const LINKS: Self = Self::Command("ip -d -o link show");
    /// IPv4 addresses.
    pub const ADDRESSES: Self = Self::Command("ip -4 -o addr show");
    /// IPv4 neighbours that somebody wrote. What ARP learns comes and goes by itself.
    pub const NEIGHBOURS: Self = Self::Command("ip -4 neigh show nud permanent");
    /// IPv4 routes of all tables.
    pub const ROUTES: Self = Self::Command("ip -4 route show table all");
    /// IPv4 policy rules.
    pub const RULES: Self = Self::Command("ip -4 rule show");
    /// Sets and their entries.
    pub const SETS: Self = Self::Command("ipset save");
    /// What switches between ports, beside the routed packets that iptables sees.
    pub const BRIDGE: Self = Self::Command("nft -s list ruleset bridge");
    /// What keeps destinations as pods chose them.
    pub const GUARD: Self = Self::Command("nft -s list table ip ztunnel");

    /// Its name in a snapshot.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sysctls => "sysctl",
            Self::Programs => "programs",
            Self::Command(command) => command,
        }
    }
}

/// What a command prints; nothing when it is asked for a table that is not there.
fn listing(command: &str, netns: &Netns) -> Result<String> {
    let output = Cmd::line(command).netns(netns).output()?;
    let absent = command.starts_with("nft ") && output.stderr.contains("No such file or directory");
    ensure!(output.status.success() || absent, "{command}: {}\n{}", output.status, output.stderr);
    Ok(output.stdout)
}

fn sysctls(netns: &Netns) -> Result<String> {
    netns.run(|| {
        let mut lines = Vec::new();
        collect(Path::new("/proc/sys/net/ipv4/conf"), &mut lines)?;
        for name in ["ip_forward", "ip_local_port_range"] {
            lines.push(format!("{name} = {}", fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"))?.trim()));
        }
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

fn processes(netns: &Netns) -> Result<String> {
    let lines = process::inside(netns)?.into_iter().map(|process| format!("{} {}\n", process.pid, process.role));
    Ok(lines.collect::<Vec<_>>().concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_names_section_and_lines() {
        let one = Snapshot(BTreeMap::from([("a".to_owned(), "x\ny\n".to_owned())]));
        let two = Snapshot(BTreeMap::from([("a".to_owned(), "x\nz\n".to_owned())]));
        assert_eq!(one.diff(&two).as_deref(), Some("a:\n- y\n+ z\n"));
        assert_eq!(one.diff(&one), None);
    }
}
