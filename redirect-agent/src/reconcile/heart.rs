//! Whether the loop goes on. It runs on one thread and may hang in whatever it does: a tool that waits for another's lock, a file system
//! that does not answer. Others look at it from here, so that it can be seen, and in what it hangs.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::apply::Place;
use crate::kernel::process;
use crate::resources::ledger::Kind;

/// A run that takes longer is worth telling. Tools wait for the xtables lock for longer than this (`chain::backend`).
const LONG: Duration = Duration::from_secs(15);
/// After this long nobody waits any more.
pub(crate) const TOO_LONG: Duration = Duration::from_mins(3);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// The run that is under way. There is one loop in a process.
static RUN: Mutex<Option<Run>> = Mutex::new(None);

#[derive(Clone, Copy)]
struct Run {
    begun: Instant,
    at: Option<(Kind, Place)>,
}

/// A run; it is over when the value goes.
pub(super) struct Beat(());

/// A run that takes too long.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Stuck {
    /// For how long it has been under way.
    pub(crate) seconds: u64,
    /// What it is at.
    pub(crate) at: String,
}

/// A run begins.
pub(super) fn begin() -> Beat {
    *lock() = Some(Run { begun: Instant::now(), at: None });
    Beat(())
}

/// The run has come to this.
pub(super) fn at(kind: Kind, place: Place) {
    if let Some(run) = &mut *lock() {
        run.at = Some((kind, place));
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        *lock() = None;
    }
}

/// What the loop hangs in, if it does.
pub(crate) fn stuck() -> Option<Stuck> {
    let run = *lock();
    run.and_then(|run| judge(run, Instant::now(), process::running()))
}

fn judge(run: Run, now: Instant, tool: Option<String>) -> Option<Stuck> {
    let lasts = now.saturating_duration_since(run.begun);
    let mut at = run.at.map_or_else(
        || "a look at the node".to_owned(),
        |(kind, place)| format!("{} in {}", kind.name(), place.name()),
    );
    if let Some(tool) = tool {
        at = format!("{at}, by {tool}");
    }
    (lasts >= LONG).then_some(Stuck { seconds: lasts.as_secs(), at })
}

/// Looks all the time, and logs when the loop hangs and when it goes on.
pub(crate) async fn watch() {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut former: Option<Stuck> = None;
    loop {
        looks.tick().await;
        let now = stuck();
        match (&former, &now) {
            (None, Some(stuck)) => tracing::warn!("{stuck}"),
            (Some(former), None) => tracing::info!("the loop goes on; it had been at {}", former.at),
            _ => {}
        }
        former = now;
    }
}

/// As the log and status say it.
impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one run has been under way for {} s; it is at {}", self.seconds, self.at)
    }
}

fn lock() -> MutexGuard<'static, Option<Run>> {
    RUN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_of_only_if_it_takes_long() {
        let begun = Instant::now();
        let run = Run { begun, at: Some((Kind::Chain, Place::Proxy)) };
        assert_eq!(judge(run, begun + LONG / 2, None), None);
        let stuck = judge(run, begun + LONG, Some("iptables-legacy-restore".into())).unwrap();
        assert_eq!(stuck.at, "chain in ztunnel's namespace, by iptables-legacy-restore");
        assert_eq!(stuck.seconds, LONG.as_secs());
        assert_eq!(judge(Run { begun, at: None }, begun + LONG, None).unwrap().at, "a look at the node");
    }

    #[test]
    fn a_run_that_is_over_is_not_told_of() {
        let beat = begin();
        at(Kind::Map, Place::Node);
        assert!(lock().is_some_and(|run| run.at == Some((Kind::Map, Place::Node))));
        drop(beat);
        assert!(lock().is_none() && stuck().is_none());
    }
}
