//! iptables chains and the jumps to them. A chain is rewritten whole, by one `iptables-restore --noflush` whose every table
//! is committed atomically; the jump stands first in its built-in chain, because an ACCEPT ahead of it would hide packets.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, bail};

use redirect_common::names::CHAIN_PREFIX;

use super::Context;
use super::blocked::{Reading, Source, Why};
use super::known::{Known, Match, Subject};
use super::ledger::{Kind, NOTHING};
use crate::kernel::nftables;
use crate::kernel::nftables::image::Part;
use crate::kernel::process::{self, Looks};
use crate::resources::chain::backend::Backend;

pub(crate) mod backend;
pub(crate) mod hidden;
pub(crate) mod residue;

/// A chain of ours.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Chain {
    /// `mangle`, `nat`, `filter`.
    pub(crate) table: &'static str,
    pub(crate) name: String,
    /// Built-in chain that jumps here; `None` for one that only our own chains go to.
    pub(crate) hook: Option<&'static str>,
    /// Rules as `iptables-save` prints them, without `-A NAME`.
    pub(crate) rules: Vec<String>,
}

/// What of the ruleset concerns us: per table, every chain's rules.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Ruleset {
    tables: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Tables of which nothing is known but that they are there.
    hidden: BTreeSet<String>,
    /// Packets that rules of ours have dropped; `None` where there is no such rule.
    dropped: Option<u64>,
}

impl Ruleset {
    fn rules(&self, table: &str, chain: &str) -> Option<&[String]> {
        self.tables.get(table)?.get(chain).map(Vec::as_slice)
    }

    /// What there is of a chain, compared with what is wanted.
    fn describe(&self, wanted: &Chain) -> String {
        let Some(rules) = self.rules(wanted.table, &wanted.name) else { return NOTHING.into() };
        let found = |rule: Option<&String>| rule.map_or_else(|| "no rule".to_owned(), |rule| format!("rule {rule:?}"));
        let differs = (0..rules.len().max(wanted.rules.len())).find(|at| rules.get(*at) != wanted.rules.get(*at));
        match differs {
            Some(at) => format!("{} at {}", found(rules.get(at)), at + 1),
            None => "no jump to it ahead of all others".into(),
        }
    }
}

/// A look at all rules of a backend, under way.
pub(crate) struct Look<'a> {
    backend: Backend,
    looks: Looks,
    known: Option<&'a RefCell<Known>>,
    /// Of nftables, before the tool looked; `None` where nobody asked.
    generation: Option<u32>,
}

/// Begins to look at the rules of `backend`.
pub(crate) fn look<'a>(
    context: &Context<'_>,
    backend: Backend,
    known: Option<&'a RefCell<Known>>,
) -> anyhow::Result<Look<'a>> {
    let known = known.filter(|_| backend == Backend::Nft);
    context.netns.run(|| {
        let generation = known.and_then(|_| nftables::generation().ok());
        Look { backend, looks: process::look(&backend.tool("save"), &[["-c"]]), known, generation }
    })
}

/// Whether the `desired` chains, and the first jump to each, are known to stand. Who has put what else where, a [`look`] tells.
pub(crate) fn stand(
    context: &Context<'_>,
    backend: Backend,
    desired: &[Chain],
    known: &RefCell<Known>,
) -> anyhow::Result<bool> {
    let asks = backend == Backend::Nft && !desired.is_empty();
    let stand = || known.borrow().compare(&subject(desired)).is_some_and(|(_, found)| found == Match::Same);
    Ok(asks && context.netns.run(stand)?)
}

/// What these chains consist of in nftables.
fn subject(chains: &[Chain]) -> Subject {
    let of_chain = |Chain { table, name, hook, .. }: &Chain| {
        let (table, chain) = (|| (*table).to_owned(), || name.clone());
        let first = hook.map(|hook| Part::FirstOf { table: table(), chain: hook.to_owned() });
        let own = [Part::Chain { table: table(), chain: chain() }, Part::RulesOf { table: table(), chain: chain() }];
        own.into_iter().chain(first).collect::<Vec<_>>()
    };
    let parts = chains.iter().flat_map(of_chain).collect();
    Subject { name: "chains".to_owned(), text: script(chains), family: nftables::FAMILY_IPV4, parts }
}

/// Makes the `desired` chains stand in the backend that was looked at, and removes those of `owned` (table, name) that are not desired.
pub(crate) fn converge(
    context: &mut Context<'_>,
    Look { backend, looks, known, generation }: Look<'_>,
    desired: &[Chain],
    owned: &[Chain],
) -> anyhow::Result<()> {
    let observed = observe(looks)?;
    hidden::ensure_none_is_ours(context, &observed.hidden, desired, owned)?;
    // All of them are about packets to meshed pods.
    let blocked = observed.dropped.filter(|_| !desired.is_empty());
    let reading = |packets| Reading { source: Source::Chain, why: Why::Inbound, packets };
    context.ledger.blocked.extend(blocked.map(reading));
    let Some(script) = diff(desired, owned, &observed) else {
        if let Some((known, generation)) = known.zip(generation).filter(|_| !desired.is_empty()) {
            context.netns.run(|| known.borrow_mut().learn(subject(desired), generation))?;
        }
        // An agent that was killed may have come no further.
        return if desired.is_empty() { residue::remove(context, backend) } else { Ok(()) };
    };
    residue::remember(context, backend, desired, &observed)?;
    let outcome =
        context.netns.run(|| process::write(&backend.tool("restore"), &backend.restore_args(), &script.text))?;
    if outcome.is_err() {
        context.ledger.book(Kind::Chain, &script.names(), script.what, outcome);
        return Ok(());
    }
    if script.counts_anew {
        context.ledger.blocked.push(reading(0));
    }
    // One write a chain: each is an object of its own.
    for (chain, found) in script.chains {
        context.ledger.mend(Kind::Chain, &chain, found, script.what, Ok(()));
    }
    if desired.is_empty() { residue::remove(context, backend) } else { Ok(()) }
}

fn observe(looks: Looks) -> anyhow::Result<Ruleset> {
    let texts: Vec<_> =
        looks.outcomes().into_iter().collect::<anyhow::Result<_>>().context("read the iptables rules")?;
    parse(&texts.concat())
}

fn parse(save: &str) -> anyhow::Result<Ruleset> {
    let mut ruleset = Ruleset::default();
    let mut table: Option<&mut BTreeMap<String, Vec<String>>> = None;
    for line in save.lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix('*') {
            table = Some(ruleset.tables.entry(name.to_owned()).or_default());
        } else if line == "COMMIT" {
            table = None;
        } else if let (Some(chain), Some(table)) = (line.strip_prefix(':'), table.as_deref_mut()) {
            let name = chain.split_whitespace().next().unwrap_or_default();
            table.entry(name.to_owned()).or_default();
        } else if let (Some((packets, rule)), Some(table)) = (counted(line), table.as_deref_mut()) {
            let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
            if chain.starts_with(CHAIN_PREFIX) && drops(rule) {
                *ruleset.dropped.get_or_insert_default() += packets;
            }
            table.entry(chain.to_owned()).or_default().push(rule.to_owned());
        } else if let Some(table) = hidden::table(line) {
            ruleset.hidden.insert(table.to_owned());
        } else if !line.is_empty() && !line.starts_with('#') {
            bail!("iptables-save: unexpected line {line:?}");
        }
    }
    if table.is_some() {
        bail!("iptables-save ended in the middle of a table");
    }
    Ok(ruleset)
}

fn drops(rule: &str) -> bool {
    rule.ends_with("-j DROP")
}

/// `[packets:bytes] -A rule`, without the bytes.
fn counted(line: &str) -> Option<(u64, &str)> {
    let (counters, rule) = line.strip_prefix('[')?.split_once("] -A ")?;
    Some((counters.split_once(':')?.0.parse().ok()?, rule))
}

/// A restore script and what it does.
#[derive(PartialEq, Eq, Debug)]
struct Script {
    text: String,
    /// Which chains it writes, and what was found of each: `mangle ztunnel-PREROUTING`.
    chains: Vec<(String, String)>,
    /// Whether the rules that drop are among what is written, and count from zero.
    counts_anew: bool,
    what: &'static str,
}

impl Script {
    fn names(&self) -> String {
        self.chains.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// The script that makes `chains` stand where nothing of them does.
pub(crate) fn script(chains: &[Chain]) -> String {
    diff(chains, chains, &Ruleset::default()).map(|script| script.text).unwrap_or_default()
}

fn diff(desired: &[Chain], owned: &[Chain], observed: &Ruleset) -> Option<Script> {
    let tables: BTreeSet<_> = desired.iter().chain(owned).map(|chain| chain.table).collect();
    let mut script = Script { text: String::new(), chains: Vec::new(), counts_anew: false, what: "written" };
    if desired.is_empty() {
        script.what = "removed";
    }
    for table in tables {
        let before = script.chains.len();
        let mut edit = Edit::new(observed, table);
        for chain in owned.iter().filter(|chain| chain.table == table) {
            let wanted = desired.iter().find(|want| want.table == table && want.name == chain.name);
            let changed = match wanted {
                Some(want) => edit.stand(want),
                None => edit.remove(chain),
            };
            if changed {
                script.chains.push((format!("{table} {}", chain.name), observed.describe(wanted.unwrap_or(chain))));
            }
        }
        if script.chains.len() > before {
            let _ = write!(script.text, "*{table}\n{}{}{}COMMIT\n", edit.declare, edit.body, edit.delete);
            script.counts_anew |= edit.counts_anew;
        }
    }
    (!script.chains.is_empty()).then_some(script)
}

/// The lines for one table. Chains are declared first, so that rules may go to any of them, and deleted last.
struct Edit<'a> {
    observed: &'a Ruleset,
    table: &'static str,
    declare: String,
    body: String,
    delete: String,
    counts_anew: bool,
}

impl<'a> Edit<'a> {
    const fn new(observed: &'a Ruleset, table: &'static str) -> Self {
        Self { observed, table, declare: String::new(), body: String::new(), delete: String::new(), counts_anew: false }
    }

    /// Makes the chain and its jump stand. Whether that takes a write.
    fn stand(&mut self, chain: &Chain) -> bool {
        let rules_differ = self.observed.rules(self.table, &chain.name) != Some(&chain.rules[..]);
        if rules_differ {
            // With --noflush a declared chain is emptied, and only that.
            let _ = writeln!(self.declare, ":{} - [0:0]", chain.name);
            for rule in &chain.rules {
                let _ = writeln!(self.body, "-A {} {rule}", chain.name);
            }
            self.counts_anew |= chain.rules.iter().any(|rule| drops(rule));
        }
        rules_differ | chain.hook.is_some_and(|hook| self.jump_first(hook, &chain.name))
    }

    /// Makes exactly one jump stand, first. Whether that takes a write.
    fn jump_first(&mut self, hook: &str, name: &str) -> bool {
        let jump = format!("-j {name}");
        let rules = self.observed.rules(self.table, hook).unwrap_or_default();
        let count = rules.iter().filter(|rule| **rule == jump).count();
        if count == 1 && rules.first() == Some(&jump) {
            return false;
        }
        // By what they say: where somebody has put a rule ahead of them meanwhile, a place would be that of a rule of others.
        for _ in 0..count {
            let _ = writeln!(self.body, "-D {hook} {jump}");
        }
        let _ = writeln!(self.body, "-I {hook} 1 {jump}");
        true
    }

    /// Removes the chain and every jump to it. Whether that takes a write.
    fn remove(&mut self, chain: &Chain) -> bool {
        let jump = format!("-j {}", chain.name);
        let hooked = chain.hook.and_then(|hook| self.observed.rules(self.table, hook).map(|rules| (hook, rules)));
        if let Some((hook, rules)) = hooked {
            for _ in rules.iter().filter(|rule| **rule == jump) {
                let _ = writeln!(self.body, "-D {hook} {jump}");
            }
        }
        if self.observed.rules(self.table, &chain.name).is_none() {
            return !self.body.is_empty();
        }
        let _ = writeln!(self.body, "-F {}", chain.name);
        let _ = writeln!(self.delete, "-X {}", chain.name);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(rules: &[&str]) -> Chain {
        Chain {
            table: "mangle",
            name: "ztunnel-PREROUTING".into(),
            hook: Some("PREROUTING"),
            rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        }
    }

    const STANDING: &str = "# Generated\n*mangle\n:PREROUTING ACCEPT [1:2]\n:ztunnel-PREROUTING - [0:0]\n:ztunnel-OTHER - [0:0]\n\
        [0:0] -A PREROUTING -j ztunnel-PREROUTING\n[0:0] -A PREROUTING -j foreign\n[0:0] -A ztunnel-PREROUTING -i a -j RETURN\nCOMMIT\n";

    fn script(desired: &[Chain], save: &str) -> Option<String> {
        diff(desired, &[chain(&[])], &parse(save).unwrap()).map(|script| script.text)
    }

    #[test]
    fn what_stands_is_left_alone() {
        assert_eq!(script(&[chain(&["-i a -j RETURN"])], STANDING), None);
    }

    #[test]
    fn a_changed_chain_is_rewritten_whole_and_its_jump_kept() {
        let text = script(&[chain(&["-i b -j RETURN"])], STANDING).unwrap();
        assert_eq!(text, "*mangle\n:ztunnel-PREROUTING - [0:0]\n-A ztunnel-PREROUTING -i b -j RETURN\nCOMMIT\n");
    }

    #[test]
    fn the_jump_is_brought_to_the_front_once() {
        let save = "*mangle\n:PREROUTING ACCEPT [0:0]\n:ztunnel-PREROUTING - [0:0]\n[0:0] -A PREROUTING -j foreign\n\
            [0:0] -A PREROUTING -j ztunnel-PREROUTING\n[0:0] -A PREROUTING -j ztunnel-PREROUTING\nCOMMIT\n";
        let text = script(&[chain(&[])], save).unwrap();
        assert_eq!(
            text,
            "*mangle\n-D PREROUTING -j ztunnel-PREROUTING\n-D PREROUTING -j ztunnel-PREROUTING\n-I PREROUTING 1 -j ztunnel-PREROUTING\nCOMMIT\n"
        );
    }

    #[test]
    fn removal_takes_only_ours() {
        let text = script(&[], STANDING).unwrap();
        assert_eq!(
            text,
            "*mangle\n-D PREROUTING -j ztunnel-PREROUTING\n-F ztunnel-PREROUTING\n-X ztunnel-PREROUTING\nCOMMIT\n"
        );
        assert_eq!(script(&[], "*mangle\n:PREROUTING ACCEPT [0:0]\n:ztunnel-OTHER - [0:0]\nCOMMIT\n"), None);
        assert_eq!(script(&[], ""), None);
    }

    #[test]
    fn what_our_rules_drop_is_counted_and_makes_no_difference() {
        let save = |packets: u32| {
            let rules =
                format!("[{packets}:60] -A ztunnel-PREROUTING -i a -j DROP\n[9:60] -A PREROUTING -i a -j DROP\n");
            format!(
                "*mangle\n:PREROUTING ACCEPT [0:0]\n:ztunnel-PREROUTING - [0:0]\n[8:9] -A PREROUTING -j ztunnel-PREROUTING\n{rules}COMMIT\n"
            )
        };
        assert_eq!(parse(&save(7)).unwrap().dropped, Some(7));
        assert_eq!(parse(STANDING).unwrap().dropped, None);
        assert_eq!(script(&[chain(&["-i a -j DROP"])], &save(7)), None);
        let counts_anew = |rules: &[&str]| {
            diff(&[chain(rules)], &[chain(&[])], &parse(&save(7)).unwrap()).map(|script| script.counts_anew)
        };
        assert_eq!(counts_anew(&["-i b -j DROP"]), Some(true));
        assert_eq!(counts_anew(&["-i b -j RETURN"]), Some(false));
    }

    #[test]
    fn a_table_that_is_not_shown_is_not_an_empty_one() {
        let save = "# Table `filter' is incompatible, use 'nft' tool.\n*mangle\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";
        assert_eq!(parse(save).unwrap().hidden, BTreeSet::from(["filter".to_owned()]));
        assert!(parse(STANDING).unwrap().hidden.is_empty());
    }

    #[test]
    fn a_chain_consists_of_itself_its_rules_and_the_jump_to_it() {
        let inner = Chain { hook: None, name: "ztunnel-INNER".into(), ..chain(&[]) };
        let (table, own, inner_name) = ("mangle".to_owned(), chain(&[]).name, inner.name.clone());
        let parts = [
            Part::Chain { table: table.clone(), chain: own.clone() },
            Part::RulesOf { table: table.clone(), chain: own },
            Part::FirstOf { table: table.clone(), chain: "PREROUTING".to_owned() },
            Part::Chain { table: table.clone(), chain: inner_name.clone() },
            Part::RulesOf { table, chain: inner_name },
        ];
        assert_eq!(subject(&[chain(&[]), inner]).parts, parts);
        assert_ne!(subject(&[chain(&[])]).text, subject(&[chain(&["-i a -j RETURN"])]).text);
    }

    #[test]
    fn half_a_listing_is_an_error() {
        assert!(parse("*mangle\n:PREROUTING ACCEPT [0:0]\n").is_err());
        assert!(parse("*mangle\nrubbish\nCOMMIT\n").is_err());
    }
}
