//! What the resilience suites measured, as the second part of `docs/resilience.md`. A suite prints a figure as a line of its own:
//!
//! ```text
//! @columns repairs | kind | p50 ms
//! @figure repairs | route | 12
//! ```
//!
//! The first word names the table. Where a row is from is known here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::batch::Splitter;
use super::matrix::{self, Job};
use crate::kernels::MATRIX;
use crate::progress;
use crate::workspace::Workspace;

/// Where the report is, below the workspace's root.
const REPORT: &str = "docs/resilience.md";
/// What is above it is written by people, what is below it is written here.
const BEGINS: &str = "<!-- Below here it is written by `cargo xtask test resilience --report`. -->\n";
const COLUMNS: &str = "@columns ";
const FIGURE: &str = "@figure ";

/// How many cells at the beginning of a row say what it is about: the kernel, the node, and what was done or looked at.
const KEY: usize = 3;
/// The table that every run adds to.
const SUITES: &str = "suites";

/// Rows of one kind.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

type Tables = BTreeMap<String, Table>;

/// Takes the figures of the runs out of their logs. What they say nothing of stays as it is: all of it takes hours.
pub(super) fn write(workspace: &Workspace, jobs: &[Job], form: &str) -> Result<()> {
    let mut tables = Tables::new();
    for job in jobs {
        let kernel = job.series.name;
        let log = matrix::log_path(workspace, &job.equipment.log, kernel)?;
        let bytes = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        for ended in Splitter::default().take(&bytes) {
            let Some(suite) = job.suites.get(ended.number) else { continue };
            let name = suite.to_string();
            let (name, node) = name.split_once(' ').unwrap_or((&name, ""));
            let node = node.trim_matches(['(', ')']);
            let totals = ended.totals.to_string();
            read(&mut tables, &[kernel, node], &format!("{COLUMNS}{SUITES} | suite | form | tests\n"));
            read(&mut tables, &[kernel, node], &format!("{FIGURE}{SUITES} | {name} | {form} | {totals}\n"));
            read(&mut tables, &[kernel, node], &ended.output);
        }
    }
    let path = workspace.root().join(REPORT);
    let known = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let (above, below) = known.split_once(BEGINS).unwrap_or((&known, ""));
    let text = format!("{above}{BEGINS}{}", render(&merge(parse(below), tables)));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    progress::say(format!("{REPORT} is written"));
    Ok(())
}

/// Adds the figures in a suite's output, which is of a run that `place` names. The first line has the test's name ahead of it.
fn read(tables: &mut Tables, place: &[&str], output: &str) {
    let after = |line: &str, word| {
        let (table, cells) = line.split_once(word)?.1.split_once(" | ")?;
        Some((table.to_owned(), cells.split(" | ").map(str::to_owned).collect::<Vec<_>>()))
    };
    for line in output.lines() {
        if let Some((table, columns)) = after(line, COLUMNS) {
            let place = ["kernel", "node"].into_iter().map(str::to_owned);
            tables.entry(table).or_default().columns = place.chain(columns).collect();
        } else if let Some((table, cells)) = after(line, FIGURE) {
            let place = place.iter().copied().map(str::to_owned);
            tables.entry(table).or_default().rows.push(place.chain(cells).collect());
        }
    }
}

/// Reads back what [`render`] wrote.
fn parse(text: &str) -> Tables {
    let cells = |line: &str| {
        let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(inner.split(" | ").map(str::to_owned).collect::<Vec<_>>())
    };
    let mut tables = Tables::new();
    for section in text.split("\n## ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let mut lines = body.lines().filter_map(cells);
        let columns = lines.next().unwrap_or_default();
        tables.insert(title.to_lowercase(), Table { columns, rows: lines.collect() });
    }
    tables
}

/// Puts new rows in the place of old ones that are about the same; in the order of the matrix.
fn merge(mut known: Tables, new: Tables) -> Tables {
    let key = |row: &[String]| row.iter().take(KEY).cloned().collect::<Vec<_>>();
    for (name, Table { columns, rows }) in new {
        let table = known.entry(name).or_default();
        table.columns = columns;
        table.rows.retain(|old| !rows.iter().any(|row| key(row) == key(old)));
        table.rows.extend(rows);
        table.rows.sort_by_key(|row| {
            let place = MATRIX.iter().position(|series| row.first().is_some_and(|kernel| kernel == series.name));
            (place, row.get(1).cloned())
        });
    }
    known
}

fn render(tables: &Tables) -> String {
    let section = |(name, table): (&String, &Table)| {
        let (first, rest) = name.split_at(name.chars().next().map_or(0, char::len_utf8));
        format!("\n## {}{rest}\n\n{}", first.to_uppercase(), table.render())
    };
    tables.iter().map(section).collect()
}

impl Table {
    fn render(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&self.columns);
        let _ = writeln!(text, "|{}", "---|".repeat(self.columns.len()));
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_tables() {
        let mut tables = Tables::new();
        let output = "test x ... @columns repairs | kind | p50 ms\n@figure repairs | route | 12\nFAILED\n";
        for kernel in ["5.10", "6.12"] {
            read(&mut tables, &[kernel, "nft, ptp, ebpf"], output);
        }
        let expected = "\n## Repairs\n\n| kernel | node | kind | p50 ms |\n|---|---|---|---|\n\
            | 5.10 | nft, ptp, ebpf | route | 12 |\n| 6.12 | nft, ptp, ebpf | route | 12 |\n";
        assert_eq!(render(&tables), expected);
        assert_eq!(parse(expected), tables);
    }

    #[test]
    fn another_run_changes_its_own_rows() {
        let of = |kernel: &str, figure: &str| {
            let mut tables = Tables::new();
            read(
                &mut tables,
                &[kernel, "nft"],
                &format!("@columns repairs | kind | p50 ms\n@figure repairs | {figure}\n"),
            );
            tables
        };
        let all = [("7.x", "route | 1"), ("5.10", "rule | 2"), ("5.10", "route | 3"), ("7.x", "route | 4")]
            .into_iter()
            .fold(Tables::new(), |known, (kernel, figure)| merge(known, of(kernel, figure)));
        let rows: Vec<String> = all["repairs"].rows.iter().map(|row| row.join(" ")).collect();
        assert_eq!(rows, ["5.10 nft rule 2", "5.10 nft route 3", "7.x nft route 4"]);
    }
}
