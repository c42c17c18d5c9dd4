//! nftables tables and base chains that came into being with our first rule. `iptables-nft` makes them as needed and never
//! removes them, so the agent notes which were not there before, and takes the empty ones away in the end.
//!
//! Legacy iptables has no way to unregister a table from a namespace; an empty one stays, and is harmless.

use std::collections::BTreeSet;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{Backend, Chain, Context, Ruleset};
use crate::kernel::process;

/// A table, or a base chain in it, that was not there before the agent.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    table: String,
    /// `None` is the table itself.
    chain: Option<String>,
}

/// Notes what the write that follows will bring into being. `iptables-nft-save` cannot tell of chains without a rule: it shows base chains
/// that do not stand. Without nft nothing is noted, and empty chains stay in the end.
pub(super) fn remember(
    context: &mut Context<'_>,
    backend: Backend,
    desired: &[Chain],
    observed: &Ruleset,
) -> anyhow::Result<()> {
    if backend != Backend::Nft || hooks(desired).all(|(table, hook)| has_rules(observed, table, hook)) {
        return Ok(());
    }
    let Ok(listing) = context.netns.run(|| process::read("nft", &["-j", "list", "chains"]))? else { return Ok(()) };
    let (tables, chains) = standing(&listing)?;
    let made = hooks(desired).flat_map(|(table, hook)| {
        let new_table = (!tables.contains(table)).then(|| Made { table: table.into(), chain: None });
        let new_chain = !chains.contains(&(table.to_owned(), hook.to_owned()));
        new_table.into_iter().chain(new_chain.then(|| Made { table: table.into(), chain: Some(hook.into()) }))
    });
    let netns = context.netns.id();
    context.record.add_made(netns, made.collect())
}

/// The built-in chains that lead to these, each with its table.
fn hooks(chains: &[Chain]) -> impl Iterator<Item = (&'static str, &'static str)> {
    chains.iter().filter_map(|chain| Some((chain.table, chain.hook?)))
}

fn has_rules(observed: &Ruleset, table: &str, chain: &str) -> bool {
    observed.rules(table, chain).is_some_and(|rules| !rules.is_empty())
}

/// The chains of family ip that stand, each with its table.
pub(super) fn standing_chains() -> anyhow::Result<BTreeSet<(String, String)>> {
    Ok(standing(&process::read("nft", &["-j", "list", "chains"])?)?.1)
}

type Names = BTreeSet<String>;

/// The tables and the chains of family ip in what `nft -j list chains` prints.
fn standing(listing: &str) -> anyhow::Result<(Names, BTreeSet<(String, String)>)> {
    let listing: Listing = serde_json::from_str(listing).context("nft -j list chains")?;
    let ip = listing.nftables.into_iter().filter_map(|object| object.chain).filter(|chain| chain.family == "ip");
    let chains: BTreeSet<_> = ip.map(|chain| (chain.table, chain.name)).collect();
    Ok((chains.iter().map(|(table, _)| table.clone()).collect(), chains))
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    chain: Option<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    family: String,
    table: String,
    name: String,
}

/// Takes away what was noted and is empty. What fails stays noted, and is tried again.
pub(super) fn remove(context: &mut Context<'_>, backend: Backend) -> anyhow::Result<()> {
    if backend != Backend::Nft {
        return Ok(());
    }
    let netns = context.netns.id();
    let made = context.record.made(netns);
    if made.is_empty() {
        return Ok(());
    }
    for Made { table, chain } in made.iter().filter(|made| made.chain.is_some()) {
        let chain = chain.as_deref().unwrap_or_default();
        // When others have come to use it, it is theirs. So it is when they have given it a policy, which the kernel would let go.
        let listing = context.netns.run(|| process::read("nft", &["list", "chain", "ip", table, chain]))?;
        if listing.is_ok_and(|text| is_untouched(&text)) {
            context.netns.run(|| process::write("nft", &["delete", "chain", "ip", table, chain], ""))??;
        }
    }
    for Made { table, .. } in made.iter().filter(|made| made.chain.is_none()) {
        let listing = context.netns.run(|| process::read("nft", &["list", "table", "ip", table]))?;
        if listing.is_ok_and(|text| is_empty(&text)) {
            context.netns.run(|| process::write("nft", &["delete", "table", "ip", table], ""))??;
        }
    }
    context.record.forget_made(netns)
}

/// Whether `nft list chain` shows a base chain as iptables makes it: the table's braces, the chain's, and its hook.
fn is_untouched(listing: &str) -> bool {
    listing.contains("policy accept;") && lines(listing) == 5
}

/// Whether `nft list table` shows nothing but the table's own braces.
fn is_empty(listing: &str) -> bool {
    lines(listing) == 2
}

fn lines(listing: &str) -> usize {
    listing.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::{has_rules, is_empty, is_untouched, standing};

    #[test]
    fn a_chain_as_it_was_made_is_told_from_one_in_use() {
        let chain =
            |hook: &str, rules: &str| format!("table ip nat {{\n\tchain OUTPUT {{\n\t\t{hook}\n{rules}\t}}\n}}\n");
        let made = "type nat hook output priority dstnat; policy accept;";
        assert!(is_untouched(&chain(made, "")));
        assert!(!is_untouched(&chain(&made.replace("accept", "drop"), "")));
        assert!(!is_untouched(&chain(made, "\t\tcounter packets 0 bytes 0 jump KUBE-SERVICES\n")));
    }

    #[test]
    fn tables_and_chains_of_family_ip() {
        let listing = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "mangle", "name": "KUBE-KUBELET-CANARY", "handle": 1}},
            {"chain": {"family": "ip6", "table": "nat", "name": "PREROUTING", "handle": 1}}]}"#;
        let (tables, chains) = standing(listing).unwrap();
        assert_eq!(tables.into_iter().collect::<Vec<_>>(), ["mangle"]);
        assert_eq!(chains.len(), 1);
        assert!(standing("{}").is_err());
    }

    #[test]
    fn a_built_in_chain_with_a_rule_stands_for_certain() {
        let save = "*mangle\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n[0:0] -A OUTPUT -j foreign\nCOMMIT\n";
        let observed = parse(save).unwrap();
        assert!(has_rules(&observed, "mangle", "OUTPUT"));
        assert!(!has_rules(&observed, "mangle", "PREROUTING") && !has_rules(&observed, "nat", "OUTPUT"));
    }

    #[test]
    fn an_empty_table_is_told_from_one_in_use() {
        assert!(is_empty("table ip mangle {\n}\n"));
        assert!(is_empty(
            "# Warning: table ip mangle is managed by iptables-nft, do not touch!\ntable ip mangle {\n}\n"
        ));
        assert!(!is_empty("table ip mangle {\n\tchain KUBE-KUBELET-CANARY {\n\t}\n}\n"));
    }
}
