//! One pod after another comes and goes on a node that has few.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use super::figure::Spread;
use super::{cold, membership, settle};
use crate::agent::AgentOptions;
use crate::lab::Lab;
use crate::mode::Mode;

const FILE: &str = "one.yaml";

/// Pods one by one, in one mode.
#[derive(Debug, Serialize)]
pub struct Single {
    mode: String,
    /// How many came and went.
    events: usize,
    /// From the manifest's change until the kernel knew the pod, milliseconds.
    enrolled: Spread,
    /// From the manifest's removal until it knew it no more, milliseconds.
    removed: Spread,
}

/// Lets `events` pods come and go.
pub(super) fn measure(lab: &mut Lab, mode: Mode, events: usize) -> Result<Single> {
    lab.start_agent(&AgentOptions::default().in_mode(mode).arg("--no-fallback"))?;
    settle(lab)?;
    let (mut enrolled, mut removed) = (Vec::new(), Vec::new());
    for number in 1..=events {
        let ip = cold::address(number).context("too many events")?;
        let since = Instant::now();
        lab.manifests().write(FILE, &cold::manifest(number, ip))?;
        enrolled.push(membership::wait(lab, mode, ip, true, since)?);
        let since = Instant::now();
        lab.manifests().remove(FILE)?;
        removed.push(membership::wait(lab, mode, ip, false, since)?);
    }
    let (enrolled, removed) = (Spread::of(&enrolled), Spread::of(&removed));
    Ok(Single { mode: mode.to_string(), events, enrolled, removed })
}

impl Single {
    pub(super) const HEAD: &str = "\none pod        events   min ms    p50 ms    p99 ms    max ms\n";

    pub(super) fn rows(&self) -> String {
        let Self { mode, events, enrolled, removed } = self;
        let row = |what, spread: &Spread| format!("{:<12}{events:>9}{}\n", format!("{mode} {what}"), spread.columns());
        row("in", enrolled) + &row("out", removed)
    }
}
