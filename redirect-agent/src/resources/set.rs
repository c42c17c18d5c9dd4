//! The ipset of the meshed pods' addresses. It is read whole and changed by one batch, however many pods come and go.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, bail};

use super::Context;
use super::ledger::{Kind, NOTHING};
use crate::kernel::process;

/// Set type and options; `ipset save` prints more, which are the kernel's defaults.
const TYPE: &str = "hash:ip family inet";

/// How many entries are named.
const SHOWN: usize = 3;

/// Makes the set `name` hold exactly `desired`; `None` removes it.
pub(crate) fn converge(
    context: &mut Context<'_>,
    name: &str,
    desired: Option<&BTreeSet<Ipv4Addr>>,
) -> anyhow::Result<()> {
    let observed = context.netns.run(|| observe(name))??;
    let Some((script, changes)) = diff(name, desired, observed.as_ref()) else { return Ok(()) };
    let outcome = context.netns.run(|| process::write("ipset", &["restore", "-exist"], &script))?;
    let what = format!("changed ({changes} entries)");
    let found = describe(desired, observed.as_ref());
    context.ledger.mend(Kind::Set, name, found, &what, outcome);
    Ok(())
}

/// As found: what is missing of the set and what is too much, by the first few of each.
fn describe(desired: Option<&BTreeSet<Ipv4Addr>>, observed: Option<&BTreeSet<Ipv4Addr>>) -> String {
    let Some(observed) = observed else { return NOTHING.into() };
    let empty = BTreeSet::new();
    let desired = desired.unwrap_or(&empty);
    let some = |of: &BTreeSet<Ipv4Addr>, but: &BTreeSet<Ipv4Addr>| {
        let some: Vec<_> = of.difference(but).take(SHOWN).map(ToString::to_string).collect();
        some.join(", ")
    };
    format!("without [{}], with [{}]", some(desired, observed), some(observed, desired))
}

/// The set's members; `None` when there is no such set.
fn observe(name: &str) -> anyhow::Result<Option<BTreeSet<Ipv4Addr>>> {
    let failed = match process::read("ipset", &["save", name]) {
        Ok(save) => return parse(name, &save).map(Some),
        Err(failed) => failed,
    };
    // The exit status does not tell "no such set" from anything else.
    let names = process::read("ipset", &["list", "-name"]).context("list the ipsets")?;
    if names.lines().any(|line| line == name) { Err(failed) } else { Ok(None) }
}

fn parse(name: &str, save: &str) -> anyhow::Result<BTreeSet<Ipv4Addr>> {
    let mut members = BTreeSet::new();
    for line in save.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["create", set, kind, "family", family, ..] if set == name => {
                if kind != "hash:ip" || family != "inet" {
                    bail!("set {name} is a {kind} {family} of another owner; remove it with `ipset destroy {name}`");
                }
            }
            ["add", set, ip, ..] if set == name => match ip.parse::<IpAddr>()? {
                IpAddr::V4(ip) => drop(members.insert(ip)),
                IpAddr::V6(ip) => bail!("set {name} holds {ip}"),
            },
            [] => {}
            _ => bail!("ipset save {name}: unexpected line {line:?}"),
        }
    }
    Ok(members)
}

/// The batch that leads from `observed` to `desired`, and how many entries it touches.
fn diff(
    name: &str,
    desired: Option<&BTreeSet<Ipv4Addr>>,
    observed: Option<&BTreeSet<Ipv4Addr>>,
) -> Option<(String, usize)> {
    let mut script = String::new();
    let empty = BTreeSet::new();
    let Some(desired) = desired else {
        let members = observed?;
        return Some((format!("destroy {name}\n"), members.len()));
    };
    if observed.is_none() {
        let _ = writeln!(script, "create {name} {TYPE}");
    }
    let have = observed.unwrap_or(&empty);
    let (added, removed) = (desired.difference(have), have.difference(desired));
    for ip in added.clone() {
        let _ = writeln!(script, "add {name} {ip}");
    }
    for ip in removed.clone() {
        let _ = writeln!(script, "del {name} {ip}");
    }
    (!script.is_empty()).then_some((script, added.count() + removed.count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ips: &[&str]) -> BTreeSet<Ipv4Addr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn only_the_difference_is_written() {
        let (a, ab) = (set(&["10.0.0.1"]), set(&["10.0.0.1", "10.0.0.2"]));
        assert_eq!(diff("s", Some(&a), Some(&a)), None);
        assert_eq!(diff("s", Some(&ab), Some(&a)), Some(("add s 10.0.0.2\n".into(), 1)));
        assert_eq!(diff("s", Some(&a), Some(&ab)), Some(("del s 10.0.0.2\n".into(), 1)));
        assert_eq!(diff("s", None, Some(&a)), Some(("destroy s\n".into(), 1)));
        assert_eq!(diff("s", None, None), None);
        let created = diff("s", Some(&set(&[])), None);
        assert_eq!(created, Some(("create s hash:ip family inet\n".into(), 0)));
    }

    #[test]
    fn reads_what_ipset_saves() {
        let save =
            "create s hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0xa\nadd s 10.0.0.1\n";
        assert_eq!(parse("s", save).unwrap(), set(&["10.0.0.1"]));
        assert!(parse("s", "create s hash:net family inet hashsize 1024\n").is_err());
        assert!(parse("s", "garbage\n").is_err());
    }
}
