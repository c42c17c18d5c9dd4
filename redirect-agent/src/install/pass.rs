//! One look at the node's files, and what has to be written: the program first, then the entry that calls it; back in the
//! other order, so that no list ever names a program that is not there.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redirect_cni::conflist::folder::{Outcome, install_in, uninstall_from};
use redirect_cni::conflist::replace::sweep;

use crate::kernel::file;

use super::{Install, Places, Progress, State, Wanted, places, program};

/// From this many repairs on, each within [`CALM`] of the one before, `status` says that somebody writes against us.
const FIGHT: u32 = 3;
const CALM: Duration = Duration::from_mins(1);

/// Looking at two folders takes no longer than this, where their file system answers.
const LONG: Duration = Duration::from_secs(15);

/// How a pass went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passed {
    /// Everything is as it should be.
    Whole,
    /// Something was put in for the first time.
    Put,
    /// Something was put back.
    Repaired,
    /// Something could not be written, see the status.
    Failed,
    /// It was taken out, or nothing is wanted.
    Over,
}

/// What a cleanup did with the plugin.
#[derive(Default, Debug)]
pub(crate) struct Removed {
    pub(crate) writes: u64,
    /// Object and reason.
    pub(crate) problems: Vec<(String, String)>,
}

impl Removed {
    fn succeeded<T>(&mut self, outcome: anyhow::Result<T>) -> Option<T> {
        outcome.map_err(|error| self.problems.push((super::OBJECT.into(), format!("{error:#}")))).ok()
    }
}

impl Progress {
    /// What there is to say of a pass that does not end.
    pub(super) fn hangs(&self, now: Instant) -> Option<String> {
        let lasts = now.saturating_duration_since(self.busy?);
        let message =
            || format!("its files have been looked at for {} s; does their file system answer?", lasts.as_secs());
        (lasts >= LONG).then(message)
    }

    /// Everything stands; `written` says whether it had to be.
    fn book(&mut self, written: bool, now: Instant) -> Passed {
        let calm = self.repaired.is_none_or(|last| now.saturating_duration_since(last) >= CALM);
        if calm {
            self.fights = 0;
        }
        if !written {
            self.stood = true;
            return Passed::Whole;
        }
        if !std::mem::replace(&mut self.stood, true) {
            return Passed::Put;
        }
        self.fights += 1;
        self.repaired = Some(now);
        self.status.repairs += 1;
        Passed::Repaired
    }
}

impl Install {
    /// Looks once, and writes what is missing.
    pub(super) fn pass(&self) -> Passed {
        let _writing = self.write();
        let Some(wanted) = self.begin() else { return Passed::Over };
        let outcome = self.put(wanted);
        let mut progress = self.lock();
        progress.busy = None;
        match outcome {
            Ok((list, written)) => {
                progress.status.state = State::Installed;
                progress.status.list = Some(list);
                let passed = progress.book(written, Instant::now());
                progress.problem = (progress.fights >= FIGHT).then(|| self.fight(progress.fights));
                passed
            }
            Err(error) => {
                progress.status.state = State::Pending;
                progress.problem = Some(format!("{error:#}"));
                Passed::Failed
            }
        }
    }

    /// What is to be put in, unless it was taken out.
    fn begin(&self) -> Option<&Wanted> {
        let mut progress = self.lock();
        let wanted = self.wanted.as_ref().filter(|_| !progress.over)?;
        progress.status.program = program::path(&self.places.bin);
        progress.busy = Some(Instant::now());
        Some(wanted)
    }

    /// Takes away what an agent that was killed has left half-written.
    pub(super) fn sweep(&self) {
        let _writing = self.write();
        if let Err(error) = sweep_in(&self.places) {
            tracing::warn!(error = format!("{error:#}"), "half-written files of a former agent stay");
        }
    }

    /// The agent does not answer the plugin, for this reason. One that is installed stays.
    pub(super) fn unanswered(&self, reason: &str) {
        self.lock().problem = Some(format!("not installed yet: the agent does not answer it: {reason}"));
    }

    fn put(&self, wanted: &Wanted) -> anyhow::Result<(PathBuf, bool)> {
        places::note(&self.state_dir, &self.places)?;
        let program_written = program::put(&wanted.source, &self.places.bin)?;
        if program_written {
            tracing::info!(file = %program::path(&self.places.bin).display(), "the CNI plugin's program was written");
        }
        let outcome = install_in(&self.places.conf, &wanted.entry, &file::take)?;
        let list_written = !matches!(outcome, Outcome::Unchanged(_));
        if list_written {
            tracing::info!(?outcome, "the CNI plugin was put into the node's list");
        }
        let (Outcome::Unchanged(list) | Outcome::Written(list) | Outcome::Renamed(_, list)) = outcome;
        Ok((list, program_written || list_written))
    }

    fn fight(&self, times: u32) -> String {
        let Places { bin, conf } = &self.places;
        format!(
            "another takes it out of {} or {} again and again; put back {times} times, the last less than a minute ago",
            conf.display(),
            bin.display()
        )
    }

    /// Takes the plugin out, wherever it was put, and leaves it so.
    pub(crate) fn remove(&self) -> Removed {
        {
            let mut progress = self.lock();
            progress.over = true;
            progress.problem = None;
        }
        let _writing = self.write();
        let mut removed = Removed::default();
        let mut all = removed.succeeded(places::known(&self.state_dir)).unwrap_or_default();
        // A container calls them otherwise than the node does, so what is on record may not be all.
        if !all.contains(&self.places) {
            all.push(self.places.clone());
        }
        for places in &all {
            let taken = take(places, &mut removed.writes);
            removed.succeeded(taken);
        }
        if removed.problems.is_empty() {
            removed.succeeded(places::forget(&self.state_dir));
        }
        removed
    }
}

/// The program stays where a list may still name it: without it no pod would start.
fn take(places: &Places, writes: &mut u64) -> anyhow::Result<()> {
    let outcomes = uninstall_from(&places.conf, &file::take)?;
    *writes += outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Unchanged(_))).count() as u64;
    *writes += u64::from(program::take(&places.bin)?);
    sweep_in(places)
}

fn sweep_in(places: &Places) -> anyhow::Result<()> {
    for folder in [&places.bin, &places.conf] {
        match sweep(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
