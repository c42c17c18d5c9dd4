//! nftables tables and base chains that came into being with our first rule. `iptables-nft` makes them as needed and never
//! removes them, so the agent notes which were not there before, and takes the empty ones away in the end.
//!
//! Legacy iptables has no way to unregister a table from a namespace; an empty one stays, and is harmless.

use std::collections::BTreeSet;

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

/// Notes what the write that follows will bring into being.
pub(super) fn remember(
    context: &mut Context<'_>,
    backend: Backend,
    observed: &Ruleset,
    desired: &[Chain],
) -> anyhow::Result<()> {
    if backend != Backend::Nft {
        return Ok(());
    }
    let mut made = BTreeSet::new();
    for chain in desired {
        if !observed.tables.contains_key(chain.table) {
            made.insert(Made { table: chain.table.into(), chain: None });
        }
        if let Some(hook) = chain.hook.filter(|hook| observed.rules(chain.table, hook).is_none()) {
            made.insert(Made { table: chain.table.into(), chain: Some(hook.into()) });
        }
    }
    let netns = context.netns.id();
    context.record.add_made(netns, made)
}

/// Takes away what was noted and is empty. The kernel itself refuses to delete a chain that has rules
/// (`nf_tables_delchain`), and a table is only deleted when a listing shows that nothing is left in it.
pub(super) fn remove(context: &mut Context<'_>, backend: Backend) -> anyhow::Result<()> {
    if backend != Backend::Nft {
        return Ok(());
    }
    let netns = context.netns.id();
    let made = context.record.made(netns);
    for Made { table, chain } in made.iter().filter(|made| made.chain.is_some()) {
        let chain = chain.as_deref().unwrap_or_default();
        // Refused when others have come to use it: then it is theirs.
        drop(context.netns.run(|| process::run("nft", &["delete", "chain", "ip", table, chain], ""))?);
    }
    for Made { table, .. } in made.iter().filter(|made| made.chain.is_none()) {
        let listing = context.netns.run(|| process::run("nft", &["list", "table", "ip", table], ""))?;
        if listing.is_ok_and(|text| is_empty(&text)) {
            drop(context.netns.run(|| process::run("nft", &["delete", "table", "ip", table], ""))?);
        }
    }
    context.record.forget_made(netns)
}

/// Whether `nft list table` shows nothing but the table's own braces.
fn is_empty(listing: &str) -> bool {
    let inside = listing.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    inside.count() == 2
}

#[cfg(test)]
mod tests {
    use super::is_empty;

    #[test]
    fn an_empty_table_is_told_from_one_in_use() {
        assert!(is_empty("table ip mangle {\n}\n"));
        assert!(is_empty(
            "# Warning: table ip mangle is managed by iptables-nft, do not touch!\ntable ip mangle {\n}\n"
        ));
        assert!(!is_empty("table ip mangle {\n\tchain KUBE-KUBELET-CANARY {\n\t}\n}\n"));
    }
}
