//! Our nftables tables on the node, one per family: see `bridge` and `destination` for what they are for. A table is compared
//! as nft prints it, and replaced whole, in one transaction.

use std::fmt;

use anyhow::Context as _;
use redirect_common::names::BRIDGE_TABLE;
use serde::{Deserialize, Serialize};

use super::Context;
use super::blocked::{self, Reading};
use super::ledger::{Kind, NOTHING};
use crate::kernel::process;

mod bridge;
mod destination;

pub(crate) use bridge::{Guard, GuardedBridge, GuardedProxy, Mac, mac};
pub(crate) use destination::Way;

/// The family of a table of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// Switched frames.
    Bridge,
    /// Routed packets.
    Ip,
}

/// As nft names it.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Ip => "ip",
        })
    }
}

/// Which guards are to stand.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Guards {
    /// Where pods of this node are switched.
    pub(crate) bridge: Option<Guard>,
    /// Where anything is marked.
    pub(crate) destination: Option<Destination>,
}

/// What the destination guard needs to know.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Destination {
    /// Where ztunnel is, or was, if anybody knows; and the one beside it.
    pub(crate) ways: Vec<Way>,
}

/// Makes the guards stand; those that are not wanted go.
pub(crate) fn converge(context: &mut Context<'_>, desired: &Guards) -> anyhow::Result<()> {
    let wanted = [
        (Family::Bridge, desired.bridge.as_ref().map(bridge::render)),
        (Family::Ip, desired.destination.as_ref().map(|destination| destination::render(&destination.ways))),
    ];
    for (family, want) in wanted {
        converge_one(context, family, want.as_deref())?;
    }
    Ok(())
}

fn converge_one(context: &mut Context<'_>, family: Family, want: Option<&str>) -> anyhow::Result<()> {
    if want.is_none() && !context.record.may_have_guard(family) {
        return Ok(());
    }
    let needed = want.is_some() || context.record.has_guard(family);
    let (observed, blocked) = context.netns.run(|| observe(family, needed))??.unzip();
    context.ledger.blocked.extend(blocked.unwrap_or_default());
    if observed == want.map(|want| blocked::of_table(want).0) {
        return context.record.set_guard(family, want.is_some());
    }
    // One transaction: the empty declaration makes the deletion succeed whether or not the table stands.
    let table = format!("table {family} {BRIDGE_TABLE}");
    let script = format!("{table}\ndelete {table}\n{}", want.unwrap_or_default());
    context.record.set_guard(family, true)?;
    let outcome = context.netns.run(|| process::write("nft", &["-f", "-"], &script))?;
    let what = if want.is_some() { "written" } else { "removed" };
    let found = observed.as_ref().map_or(NOTHING, |_| "another table");
    let done = context.ledger.mend(Kind::Guard, &table, found, what, outcome);
    if done && want.is_none() {
        context.record.set_guard(family, false)?;
    }
    Ok(())
}

/// The table as [`blocked::of_table`] gives it; `None` when it is not there. That there is no nft is an error only where a table is
/// wanted, or was made. Which tables there are is asked only when this one cannot be had: for the answer nft reads all rules of all others,
/// which takes most of a second beside those of 5,000 services.
fn observe(family: Family, needed: bool) -> anyhow::Result<Option<(String, Vec<Reading>)>> {
    let name = family.to_string();
    let failed = match process::read("nft", &["-nn", "list", "table", &name, BRIDGE_TABLE]) {
        Ok(text) => return Ok(Some(blocked::of_table(&text))),
        Err(error) if !needed && process::is_missing(&error) => return Ok(None),
        Err(error) => error,
    };
    let tables = process::read("nft", &["list", "tables", &name]);
    let tables = tables.context("without nftables, packets would pass ztunnel by")?;
    let line = format!("table {family} {BRIDGE_TABLE}");
    if tables.lines().any(|table| table == line) { Err(failed) } else { Ok(None) }
}
