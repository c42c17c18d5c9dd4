//! Wakes the loop. Any number of rings before the loop looks are one, so nobody who rings can make it grow.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::cause::Cause;
use super::cleanup::Outcome;
use crate::trace::Target;

/// Why the loop woke.
#[derive(Debug)]
pub(crate) enum Ring {
    /// Something may have changed.
    Changed(Cause),
    /// Nobody rang.
    Timeout,
    /// The agent ends; the datapath stays.
    Stop,
    /// Everything is to be taken away; then the agent ends.
    Cleanup(oneshot::Sender<Outcome>),
}

#[derive(Default, Debug)]
struct State {
    changed: Cause,
    hurry: bool,
    stop: bool,
    trace: Option<Target>,
    cleanup: Option<oneshot::Sender<Outcome>>,
}

/// The bell.
#[derive(Default, Debug)]
pub(crate) struct Doorbell {
    state: Mutex<State>,
    woken: Condvar,
}

impl Doorbell {
    /// Something may have changed.
    pub(crate) fn ring(&self, cause: Cause) {
        self.change(|state| state.changed = state.changed | cause);
    }

    /// As [`Cause::WANTED`], and somebody waits.
    pub(crate) fn hurry(&self) {
        self.change(|state| {
            state.changed = state.changed | Cause::WANTED;
            state.hurry = true;
        });
    }

    /// This pod is to be traced from now on, or none.
    pub(crate) fn trace(&self, pod: Option<Target>) {
        self.change(|state| {
            state.trace = pod;
            state.changed = state.changed | Cause::WANTED;
        });
    }

    /// Which pod that is.
    pub(super) fn traced(&self) -> Option<Target> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).trace.clone()
    }

    /// The loop is to end.
    pub(crate) fn stop(&self) {
        self.change(|state| state.stop = true);
    }

    /// Everything is to be taken away; the outcome comes back.
    pub(crate) fn cleanup(&self) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        self.change(|state| state.cleanup = Some(sender));
        receiver
    }

    /// What has rung so far is being looked at: what was it, and does somebody wait for what comes of it?
    pub(super) fn clear(&self) -> (Cause, bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut state.changed), std::mem::take(&mut state.hurry))
    }

    /// Lets rings gather for this long, unless somebody waits for what comes of one.
    pub(super) fn gather(&self, time: Duration) {
        self.gather_while(time, Cause::ANYTHING);
    }

    /// As [`Self::gather`], as long as there are only rings that `can_wait`.
    pub(super) fn gather_while(&self, time: Duration, can_wait: Cause) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let nobody_waits = |state: &mut State| {
            !state.hurry && !state.stop && state.cleanup.is_none() && can_wait.includes(state.changed)
        };
        drop(self.woken.wait_timeout_while(state, time, nobody_waits));
    }

    /// Waits for a ring, at most `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Ring {
        let end = Instant::now() + timeout;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(answer) = state.cleanup.take() {
                return Ring::Cleanup(answer);
            }
            if state.stop {
                return Ring::Stop;
            }
            let cause = std::mem::take(&mut state.changed);
            if cause != Cause::NOTHING {
                return Ring::Changed(cause);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ring::Timeout;
            }
            state = self.woken.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.woken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_kept_until_heard_and_heard_once() {
        let bell = Doorbell::default();
        bell.ring(Cause::ANYTHING);
        bell.ring(Cause::WANTED);
        assert!(matches!(bell.wait(Duration::ZERO), Ring::Changed(Cause::ANYTHING)));
        assert!(matches!(bell.wait(Duration::ZERO), Ring::Timeout));
        bell.ring(Cause::WANTED);
        bell.stop();
        assert!(matches!(bell.wait(Duration::ZERO), Ring::Stop));
    }

    #[test]
    fn who_hurries_is_not_kept_waiting_and_others_gather() {
        let bell = Doorbell::default();
        let gathered = |time| {
            let begun = Instant::now();
            bell.gather(time);
            begun.elapsed()
        };
        bell.ring(Cause::ANYTHING);
        assert!(gathered(Duration::from_millis(20)) >= Duration::from_millis(20));
        bell.hurry();
        assert!(gathered(Duration::from_mins(1)) < Duration::from_secs(30));
        assert_eq!(bell.clear(), (Cause::ANYTHING, true));
        assert!(gathered(Duration::from_millis(20)) >= Duration::from_millis(20), "that was one run");
        bell.ring(Cause::WANTED);
        let begun = Instant::now();
        bell.gather_while(Duration::from_mins(1), Cause::NOTHING);
        assert!(begun.elapsed() < Duration::from_secs(30), "it cannot wait");
        assert_eq!(bell.clear(), (Cause::WANTED, false));
        bell.hurry();
        assert!(matches!(bell.wait(Duration::ZERO), Ring::Changed(Cause::WANTED)));
        assert_eq!(bell.clear(), (Cause::NOTHING, true));
    }
}
