//! Our nftables tables on the node, one per family: see `bridge` and `destination` for what they are for. A table is compared
//! as nft prints it, or, where nft has shown it to be right before, as the kernel holds it; it is replaced whole, in one transaction.

use std::cell::RefCell;
use std::fmt;

use anyhow::Context as _;
use redirect_common::names::BRIDGE_TABLE;
use serde::{Deserialize, Serialize};

use super::Context;
use super::blocked::{self, Reading};
use super::known::{Known, Match, Subject};
use super::ledger::{Kind, NOTHING};
use crate::kernel::nftables;
use crate::kernel::nftables::image::Part;
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
    sight: Sight,
}

/// What is seen of a table without nft.
#[derive(Debug)]
enum Sight {
    /// There is none.
    Gone,
    /// It is as wanted or, for certain, is not; and its counters say this.
    Clear(bool, Vec<Reading>),
    /// There is one, or nobody knows.
    Unclear,
}

impl Table {
    /// As nft names it.
    fn name(&self) -> String {
        format!("table {} {BRIDGE_TABLE}", self.family)
    }

    fn is_unclear(&self) -> bool {
        matches!(self.sight, Sight::Unclear)
    }
}

/// What nft says of a table: whether it is as wanted, and what its counters say; `None` when it is not there.
type Found = Option<(bool, Vec<Reading>)>;

/// A look at the guards, under way.
pub(crate) struct Look<'a> {
    tables: Vec<Table>,
    looks: Looks,
    known: Option<&'a RefCell<Known>>,
    /// Of nftables, before nft looked; `None` where nobody asked.
    generation: Option<u32>,
}

/// Begins to look at the guards that are to stand, or may stand. What is not `known` costs a process for each, so all at once. `is_told` is whether
/// nftables has told of them.
pub(crate) fn look<'a>(
    context: &Context<'_>,
    desired: &Guards,
    known: Option<&'a RefCell<Known>>,
    is_told: bool,
) -> anyhow::Result<Look<'a>> {
    context.netns.run(|| {
        let tables = tables(context.record, desired, known, is_told);
        let families: Vec<_> =
            tables.iter().filter(|table| table.is_unclear()).map(|table| table.family.to_string()).collect();
        let generation = known.filter(|_| !families.is_empty()).and_then(|_| nftables::generation().ok());
        let each: Vec<_> = families.iter().map(|family| ["-nn", "list", "table", family, BRIDGE_TABLE]).collect();
        Look { looks: process::look("nft", &each), tables, known, generation }
    })
}

/// Makes the guards stand; those that are not wanted go.
pub(crate) fn converge(context: &mut Context<'_>, look: Look<'_>) -> anyhow::Result<()> {
    let Look { mut tables, looks, known, generation } = look;
    let (mut changes, mut texts) = (Vec::new(), looks.outcomes().into_iter());
    for table in &mut tables {
        let found = match std::mem::replace(&mut table.sight, Sight::Unclear) {
            Sight::Gone => None,
            Sight::Clear(as_wanted, readings) => Some((as_wanted, readings)),
            Sight::Unclear => {
                let text = texts.next().context("nft has not been asked for all tables")?;
                context.netns.run(|| found(table, text, known.zip(generation)))??
            }
        };
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
fn tables(record: &Record, desired: &Guards, known: Option<&RefCell<Known>>, is_told: bool) -> Vec<Table> {
    let wanted = [
        (Family::Bridge, desired.bridge.as_ref().map(bridge::render)),
        (Family::Ip, desired.destination.as_ref().map(|destination| destination::render(&destination.ways))),
    ];
    let concerns = |(family, want): &(Family, Option<String>)| want.is_some() || record.may_have_guard(*family);
    let table = |(family, want): (Family, Option<String>)| {
        let needed = want.is_some() || record.has_guard(family);
        let known = want.as_deref().zip(known);
        let sight = if may_stand(family) { sight(family, known, is_told) } else { Sight::Gone };
        Table { family, want, needed, sight }
    };
    wanted.into_iter().filter(concerns).map(table).collect()
}

/// What is seen of a table that may stand. That it holds something else is clear only where nftables has told of it: a kernel may show more than
/// is known here that changes by itself, and nft, which has to be asked then, does not.
fn sight(family: Family, known: Option<(&str, &RefCell<Known>)>, is_told: bool) -> Sight {
    match known.and_then(|(want, known)| known.borrow().compare(&subject(family, want))) {
        Some((picture, found)) if found == Match::Same || found == Match::Other && is_told => {
            let counted = picture.counted.iter().map(|(comment, packets)| (comment.as_str(), *packets));
            Sight::Clear(found == Match::Same, blocked::of_comments(counted))
        }
        _ => Sight::Unclear,
    }
}

/// All that a table with this text consists of. It has no more than that as long as the kernel counts as many objects in it.
fn subject(family: Family, text: &str) -> Subject {
    let table = || BRIDGE_TABLE.to_owned();
    let words: Vec<_> = text.split_whitespace().collect();
    let named = words.windows(3).filter_map(|words| match words {
        ["chain", name, "{"] => Some(Part::Chain { table: table(), chain: (*name).to_owned() }),
        ["set", name, "{"] => Some(Part::Set { table: table(), set: (*name).to_owned() }),
        _ => None,
    });
    let parts = [Part::Table { table: table() }, Part::Rules { table: table() }].into_iter().chain(named).collect();
    Subject { name: format!("table {family}"), text: text.to_owned(), family: family.number(), parts }
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
    let (as_wanted, blocked) = found.unzip();
    context.ledger.blocked.extend(blocked.unwrap_or_default());
    let is_good = as_wanted.unwrap_or(table.want.is_none());
    context.record.set_guard(table.family, table.want.is_some() || !is_good)?;
    Ok((!is_good).then(|| Change { table, found: as_wanted.map_or(NOTHING, |_| "another table") }))
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

/// What nft has said of a table that stood; what is as wanted becomes known. That there is no nft is an error only where a table is needed.
fn found(table: &Table, text: anyhow::Result<String>, known: Option<(&RefCell<Known>, u32)>) -> anyhow::Result<Found> {
    match text {
        Ok(text) => {
            let (observed, readings) = blocked::of_table(&text);
            let want = table.want.as_deref().filter(|want| blocked::of_table(want).0 == observed);
            if let Some((want, (known, generation))) = want.zip(known) {
                known.borrow_mut().learn(subject(table.family, want), generation);
            }
            Ok(Some((want.is_some(), readings)))
        }
        Err(error) if !table.needed && process::is_missing(&error) => Ok(None),
        // It has gone meanwhile.
        Err(_) if !may_stand(table.family) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_consists_of_all_that_its_text_names() {
        let table = || BRIDGE_TABLE.to_owned();
        let whole = subject(Family::Ip, &destination::render(&[]));
        assert!(
            whole.parts.contains(&Part::Table { table: table() })
                && whole.parts.contains(&Part::Rules { table: table() })
        );
        let named: Vec<_> = whole.parts[2..].to_vec();
        let chain = |chain: &str| Part::Chain { table: table(), chain: chain.to_owned() };
        assert_eq!(named, ["hide", "destination", "source", "conceal", "reveal", "contain"].map(chain));
        let set = subject(Family::Bridge, "set pods-cni0 {\ntype ipv4_addr\n}\n").parts.pop();
        assert_eq!(set, Some(Part::Set { table: table(), set: "pods-cni0".to_owned() }));
    }
}
