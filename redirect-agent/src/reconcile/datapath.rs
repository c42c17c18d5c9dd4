//! Which mode is in force: the one that was asked for, or iptables where BPF cannot be used. What stands against BPF may pass: a kernel out
//! of memory, a file system that is mounted later. So it is tried again, and less and less often: a try may cost seconds of a processor.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::bpf::{self, Bpf, Options};
use crate::config::{Config, Mode, TcAttach};
use crate::resources::program::{self, AttachKind, Obstacle};

use super::{Reconciler, pins};

/// From one try to the next; the last goes on.
const AGAIN: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_mins(1),
    Duration::from_mins(2),
    Duration::from_mins(5),
];

/// Tries that failed.
pub(super) struct Tries {
    failed: usize,
    last: Instant,
}

impl Tries {
    /// The first one was now.
    pub(super) fn begin() -> Self {
        Self { failed: 0, last: Instant::now() }
    }

    /// One more, now.
    fn failed(&self) -> Self {
        Self { failed: self.failed + 1, last: Instant::now() }
    }

    fn are_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= AGAIN[self.failed.min(AGAIN.len() - 1)]
    }
}

/// The programs in ebpf mode, else why they cannot be had.
pub(super) fn start(config: &Config) -> anyhow::Result<(Option<Bpf>, Option<String>)> {
    if config.mode == Mode::Iptables {
        return Ok((None, None));
    }
    match open(config) {
        Ok(bpf) => Ok((Some(bpf), None)),
        Err(error) if config.no_fallback => Err(error).context("BPF cannot be used, and --no-fallback is set"),
        Err(error) => {
            let reason = format!("{error:#}");
            tracing::warn!(reason, "BPF cannot be used: going on in iptables mode");
            Ok((None, Some(reason)))
        }
    }
}

/// Leaves no folders behind where it fails: in iptables mode there are none.
fn open(config: &Config) -> anyhow::Result<Bpf> {
    let dir: &Path = &config.bpf_dir;
    let was_there = dir.exists();
    let outcome = bpf::open(&Options { dir, attach: config.tc_attach, flows: config.flows });
    match &outcome {
        Ok(bpf) => tracing::info!(attach = %bpf.kind, pins = %dir.display(), "ebpf mode"),
        Err(_) if was_there => {}
        Err(_) => bpf::unpin(&bpf::pins(dir)?)?,
    }
    outcome
}

impl Reconciler {
    /// After a fallback: whether BPF can be used by now. The node then changes over as it does when an agent is started in another mode.
    pub(super) fn reconsider_mode(&mut self) {
        let now = Instant::now();
        if self.fallback.is_none() || !self.tries.are_due(now) {
            return;
        }
        if self.is_obstructed(self.config.tc_attach != TcAttach::Clsact) {
            return;
        }
        match open(&self.config) {
            // Programs would be behind what they were behind before.
            Ok(bpf) if bpf.kind == AttachKind::Clsact && self.is_obstructed(false) => self.tries = self.tries.failed(),
            Ok(bpf) => {
                self.bpf = Some(RefCell::new(bpf));
                self.pins = pins::watch(&self.config.bpf_dir, &self.doorbell);
                (self.mode, self.fallback, self.obstacle) = (Mode::Ebpf, None, None);
                // All of it is to be looked at.
                self.settled = None;
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.fallback.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "BPF still cannot be used");
                }
                self.fallback = Some(reason);
                self.tries = self.tries.failed();
            }
        }
    }

    /// Goes on in iptables mode where something of others' keeps programs from their work, unless the operator wants that mode or none: then
    /// it stays a problem, and no pod is meshed.
    pub(super) fn fall_back(&mut self, obstacle: Obstacle) {
        if self.mode == Mode::Iptables || self.config.no_fallback {
            return;
        }
        let reason = obstacle.to_string();
        tracing::warn!(reason, "BPF cannot be used: going on in iptables mode");
        (self.bpf, self.pins) = (None, None);
        (self.mode, self.fallback, self.obstacle) = (Mode::Iptables, Some(reason), Some(obstacle));
        self.settled = None;
        // Others may come and go; each change of mode is work.
        self.tries = self.tries.failed();
    }

    /// What made the node fall back is still there. A look that fails is no reason to change over.
    fn is_obstructed(&mut self, may_be_a_link: bool) -> bool {
        let hook = self.obstacle.as_ref().map(|obstacle| &obstacle.hook);
        hook.is_some_and(|hook| program::is_in_the_way(&mut self.node, hook, may_be_a_link).unwrap_or(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rarer_and_never_end() {
        let last = Instant::now();
        for (failed, wait) in AGAIN.into_iter().chain([AGAIN[AGAIN.len() - 1]]).enumerate() {
            let tries = Tries { failed, last };
            assert!(!tries.are_due(last + wait / 2) && tries.are_due(last + wait), "after {failed}");
        }
    }
}
