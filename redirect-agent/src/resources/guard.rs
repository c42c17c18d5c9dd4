//! Our nftables tables on the node, one per family: see `bridge` and `destination` for what they are for. A table is compared
//! as nft prints it, and replaced whole, in one transaction.

use std::fmt;

use redirect_common::names::BRIDGE_TABLE;
use serde::{Deserialize, Serialize};

use super::Context;
use super::blocked::{self, Reading};
use super::ledger::{Kind, NOTHING};
use crate::kernel::nftables;
use crate::kernel::process::{self, Looks};
use crate::record::Record;

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

impl Family {
    /// `nfgenmsg.nfgen_family`.
    const fn number(self) -> u8 {
        match self {
            Self::Bridge => nftables::FAMILY_BRIDGE,
            Self::Ip => nftables::FAMILY_IPV4,
        }
    }
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

/// A table of ours.
struct Table {
    family: Family,
    /// Its text; `None` if it is not to stand.
    want: Option<String>,
    /// Whether it is wanted, or was made.
    needed: bool,
    /// Whether there is one, or nobody knows.
    stands: bool,
}

impl Table {
    /// As nft names it.
    fn name(&self) -> String {
        format!("table {} {BRIDGE_TABLE}", self.family)
    }
}

/// A table as [`blocked::of_table`] gives it; `None` when it is not there.
type Found = Option<(String, Vec<Reading>)>;

/// A look at the guards, under way.
pub(crate) struct Look {
    tables: Vec<Table>,
    looks: Looks,
}

/// Begins to look at the guards that are to stand, or may stand: each costs a process, so all at once.
pub(crate) fn look(context: &Context<'_>, desired: &Guards) -> anyhow::Result<Look> {
    context.netns.run(|| {
        let tables = tables(context.record, desired);
        let families: Vec<_> =
            tables.iter().filter(|table| table.stands).map(|table| table.family.to_string()).collect();
        let each: Vec<_> = families.iter().map(|family| ["-nn", "list", "table", family, BRIDGE_TABLE]).collect();
        Look { looks: process::look("nft", &each), tables }
    })
}

/// Makes the guards stand; those that are not wanted go.
pub(crate) fn converge(context: &mut Context<'_>, Look { tables, looks }: Look) -> anyhow::Result<()> {
    let (mut changes, mut texts) = (Vec::new(), looks.outcomes().into_iter());
    for table in &tables {
        let text = if table.stands { texts.next() } else { None };
        let found = text.map(|text| context.netns.run(|| found(table, text))?).transpose()?.flatten();
        changes.extend(compare(context, table, found)?);
    }
    let together = changes.len() > 1 && write_together(context, &changes)?;
    for change in &changes {
        let outcome = if together { Ok(()) } else { context.netns.run(|| write(&change.script()))? };
        book(context, change, outcome)?;
    }
    Ok(())
}

/// Those that are to stand, and those that may, in the calling thread's network namespace.
fn tables(record: &Record, desired: &Guards) -> Vec<Table> {
    let wanted = [
        (Family::Bridge, desired.bridge.as_ref().map(bridge::render)),
        (Family::Ip, desired.destination.as_ref().map(|destination| destination::render(&destination.ways))),
    ];
    let concerns = |(family, want): &(Family, Option<String>)| want.is_some() || record.may_have_guard(*family);
    let table = |(family, want): (Family, Option<String>)| {
        let needed = want.is_some() || record.has_guard(family);
        Table { family, want, needed, stands: may_stand(family) }
    };
    wanted.into_iter().filter(concerns).map(table).collect()
}

/// A table that is to become another.
struct Change<'a> {
    table: &'a Table,
    found: &'static str,
}

impl Change<'_> {
    /// One transaction: the empty declaration makes the deletion succeed whether or not the table stands.
    fn script(&self) -> String {
        let name = self.table.name();
        format!("{name}\ndelete {name}\n{}", self.table.want.as_deref().unwrap_or_default())
    }
}

/// What is to be done about a table.
fn compare<'a>(context: &mut Context<'_>, table: &'a Table, found: Found) -> anyhow::Result<Option<Change<'a>>> {
    let want = table.want.as_deref();
    let (observed, blocked) = found.unzip();
    context.ledger.blocked.extend(blocked.unwrap_or_default());
    if observed == want.map(|want| blocked::of_table(want).0) {
        context.record.set_guard(table.family, want.is_some())?;
        return Ok(None);
    }
    context.record.set_guard(table.family, true)?;
    Ok(Some(Change { table, found: observed.map_or(NOTHING, |_| "another table") }))
}

/// Writes all of them at once, as the kernel takes as long for one transaction as for two. Whether it has taken it: a kernel without family
/// bridge must not be without the other table too.
fn write_together(context: &Context<'_>, changes: &[Change<'_>]) -> anyhow::Result<bool> {
    let scripts: String = changes.iter().map(Change::script).collect();
    let outcome = context.netns.run(|| write(&scripts))?;
    if let Err(error) = &outcome {
        tracing::warn!(
            error = format!("{error:#}"),
            "the guards cannot be written together; writing one after the other"
        );
    }
    Ok(outcome.is_ok())
}

fn write(script: &str) -> anyhow::Result<()> {
    process::write("nft", &["-f", "-"], script)
}

fn book(context: &mut Context<'_>, change: &Change<'_>, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    let Table { family, want, .. } = change.table;
    let what = if want.is_some() { "written" } else { "removed" };
    let done = context.ledger.mend(Kind::Guard, &change.table.name(), change.found, what, outcome);
    if done && want.is_none() {
        context.record.set_guard(*family, false)?;
    }
    Ok(())
}

/// By a question of our own: nft, asked for a table that is not there, does not say so in a way of which one can be certain, and to list all
/// tables it reads all rules, which takes most of a second beside those of 5,000 services.
fn may_stand(family: Family) -> bool {
    nftables::table_stands(family.number(), BRIDGE_TABLE).unwrap_or(true)
}

/// What nft has said of a table that stood. That there is no nft is an error only where a table is needed.
fn found(table: &Table, text: anyhow::Result<String>) -> anyhow::Result<Found> {
    match text {
        Ok(text) => Ok(Some(blocked::of_table(&text))),
        Err(error) if !table.needed && process::is_missing(&error) => Ok(None),
        // It has gone meanwhile.
        Err(_) if !may_stand(table.family) => Ok(None),
        Err(error) => Err(error),
    }
}
