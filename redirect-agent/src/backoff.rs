//! How long to wait before the next try: twice as long each time, up to a cap, and never all agents of a cluster at once.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

/// The first wait, about.
const FIRST: Duration = Duration::from_millis(400);
/// The longest. A cluster's agents that come back within this time are a load that its API server knows from kubelets.
const LONGEST: Duration = Duration::from_secs(15);
/// After this long without a failure the next one is the first.
const CALM: Duration = Duration::from_mins(1);

/// The waits between tries.
#[derive(Default, Debug)]
pub(crate) struct Backoff {
    failures: u32,
    last: Option<Instant>,
}

impl Backoff {
    /// The wait after a failure at `now`.
    pub(crate) fn after_failure(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= CALM + LONGEST) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        wait(self.failures, random())
    }
}

/// The wait after so many failures in a row; `random` chooses in its upper half.
pub(crate) fn wait(failures: u32, random: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    let half = doubled / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// A number that differs from call to call and from node to node; the standard library seeds its hashers at random.
pub(crate) fn random() -> u32 {
    (RandomState::new().hash_one(Instant::now()) >> 32).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_cap_and_are_never_short() {
        let mut before = Duration::ZERO;
        for failures in 1..200 {
            let (least, most) = (wait(failures, 0), wait(failures, u32::MAX));
            assert!(least >= FIRST / 2 && most <= LONGEST && most >= before, "{failures}: {least:?} to {most:?}");
            before = most;
        }
        assert_eq!((wait(1, u32::MAX), wait(2, u32::MAX), wait(9, u32::MAX)), (FIRST, FIRST * 2, LONGEST));
        assert_eq!(wait(u32::MAX, 0), LONGEST / 2);
    }

    #[test]
    fn a_calm_time_begins_anew() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        for _ in 0..10 {
            backoff.after_failure(start);
        }
        assert!(backoff.after_failure(start + CALM) > FIRST);
        assert!(backoff.after_failure(start + CALM * 3) <= FIRST);
    }

    #[test]
    fn agents_do_not_wait_alike() {
        let waits: std::collections::BTreeSet<_> = (0..16).map(|_| wait(5, random())).collect();
        assert!(waits.len() > 8, "{waits:?}");
    }
}
