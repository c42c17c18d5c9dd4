//! Writes of the agent that fail: by a file that only an agent of the lab looks at, and only if it was built with debug checks.
//! What the file says is described in `redirect-agent/src/kernel/fault.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::lab::Lab;

/// Names the file to the agent.
pub(crate) const FAULTS_VARIABLE: &str = "REDIRECT_TEST_FAULTS";
/// What the agent gives as the reason of a failure that a test wants.
pub const REASON: &str = "a test wants this write to fail";

/// How a write fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It is not made.
    Error,
    /// It is made, and the agent is told that it was not.
    Late,
    /// The agent is killed in its place.
    Abort,
    /// It waits until [`Lab::end_faults`].
    Hang,
}

impl How {
    /// Each way to fail.
    pub const ALL: [Self; 3] = [Self::Error, Self::Late, Self::Abort];
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Late => "late",
            Self::Abort => "abort",
            Self::Hang => "hang",
        })
    }
}

/// A write to the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Point {
    /// The way it takes, and what is written: `netlink new route`. A `*` is for what is another each time.
    pub what: String,
    /// So many of the same come first.
    pub skip: usize,
}

impl Point {
    /// Which way it takes.
    #[must_use]
    pub fn way(&self) -> &str {
        self.what.split(' ').next().unwrap_or_default()
    }

    fn all(text: &str) -> Vec<Self> {
        let mut seen = BTreeMap::<String, usize>::new();
        let number = |what: String| {
            let next = seen.entry(what.clone()).or_default();
            *next += 1;
            Self { what, skip: *next - 1 }
        };
        text.lines().map(without_index).map(number).collect()
    }
}

/// The pin of a link to an interface is named by its index, which is another for one that is made anew.
fn without_index(line: &str) -> String {
    let parts = line.split_once("/links/").and_then(|(begin, pin)| Some((begin, pin.split_once('-')?.1)));
    parts.map_or_else(|| line.to_owned(), |(begin, hook)| format!("{begin}/links/*-{hook}"))
}

/// As `netlink new route #3`.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.what, self.skip + 1)
    }
}

impl Lab {
    /// The file that says which write is to fail.
    pub(crate) fn faults_file(&self) -> PathBuf {
        self.dir().join("faults")
    }

    fn points_file(&self) -> PathBuf {
        self.dir().join("faults.log")
    }

    /// From now on writes are listed.
    pub fn count_writes(&self) -> Result<()> {
        self.order("count")
    }

    /// From now on writes are listed, and this one fails. It is looked for by what it is, as there may be others ahead of it this time.
    pub fn want_fault(&self, how: How, point: &Point) -> Result<()> {
        self.order(&format!("{how} {} {}", point.skip, point.what))
    }

    /// From now on writes are listed, and the one after `skip` others hangs until [`Self::end_faults`].
    pub fn want_hang(&self, skip: usize) -> Result<()> {
        self.order(&format!("hang {skip}"))
    }

    fn order(&self, order: &str) -> Result<()> {
        self.end_faults()?;
        // Whole or not at all for an agent that reads it.
        let new = self.dir().join(".faults");
        fs::write(&new, order)?;
        fs::rename(&new, self.faults_file()).with_context(|| format!("cannot ask for {order}"))
    }

    /// The writes since the order.
    pub fn points(&self) -> Result<Vec<Point>> {
        match fs::read_to_string(self.points_file()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            text => Ok(Point::all(&text?)),
        }
    }

    /// Whether the write that was to fail has.
    #[must_use]
    pub fn fault_has_fired(&self) -> bool {
        !self.faults_file().exists()
    }

    /// No write is to fail any more, and none is listed.
    pub fn end_faults(&self) -> Result<()> {
        for file in [self.faults_file(), self.points_file()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_apart() {
        let points = Point::all("netlink new route\nfile remove /a/links/7-ingress\nnetlink new route\n");
        let said: Vec<_> = points.iter().map(|point| format!("{}: {point}", point.way())).collect();
        let expected = [
            "netlink: netlink new route #1",
            "file: file remove /a/links/*-ingress #1",
            "netlink: netlink new route #2",
        ];
        assert_eq!(said, expected);
    }
}
