//! What became of all connections, by what client, server and proxies saw.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::failure::{Astray, Class, Failure};

/// What became of it all.
#[derive(Debug, Default)]
pub struct Report {
    /// New connections that were tried.
    pub tried: usize,
    /// Those that did not come about, and why.
    pub failed: Vec<Failure>,
    /// Those that came about and went another way than through the right listener of the proxy.
    pub astray: Vec<Astray>,
    /// Long connections that broke, and why.
    pub broken: Vec<Failure>,
    /// How long the slowest new connection took, until its first answer, and of which stream it was.
    pub slowest: (Duration, &'static str),
    /// For how long the machine has left a thread waiting that could have run, at most: what is slower by so much says nothing.
    pub held_up: Duration,
    /// What ended a stream before its time; then nothing is shown for the time after.
    pub gave_up: Vec<String>,
    /// Long connections that stood in the end: the stream, and the pod whose proxy each goes through.
    pub standing: Vec<(&'static str, Option<String>)>,
}

impl Report {
    /// No packet's fate was another than usual.
    pub fn all_is_well(&self) -> Result<()> {
        ensure!(self.failed.is_empty(), "{} of {} failed: {}", self.failed.len(), self.tried, first(&self.failed));
        self.nothing_escaped()
    }

    /// What came about came about as it must, and what stood goes on; new connections may have been blocked.
    pub fn nothing_escaped(&self) -> Result<()> {
        ensure!(self.astray.is_empty(), "{} of {} went astray: {}", self.astray.len(), self.tried, first(&self.astray));
        ensure!(self.broken.is_empty(), "long connections broke: {}", first(&self.broken));
        ensure!(self.gave_up.is_empty(), "{}", first(&self.gave_up));
        ensure!(self.tried > self.failed.len(), "not one connection came about: {}", first(&self.failed));
        Ok(())
    }

    /// How many failed, by what their clients were told.
    #[must_use]
    pub fn classes(&self) -> BTreeMap<Class, usize> {
        let mut classes = BTreeMap::new();
        for failure in &self.failed {
            *classes.entry(failure.class).or_default() += 1;
        }
        classes
    }
}

/// Enough for a reader; the rest is alike.
fn first(all: &[impl ToString]) -> String {
    all.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
