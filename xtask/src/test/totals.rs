//! How many tests passed, failed and did not run.

use std::fmt;
use std::iter::Sum;
use std::ops::AddAssign;

/// Counted over one or more suites.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Totals {
    pub(super) passed: u32,
    pub(super) failed: u32,
    pub(super) skipped: u32,
}

impl Totals {
    /// One test with this outcome.
    pub(super) fn one(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), skipped: 0 }
    }

    /// Tests that never came to run, because something before them broke.
    pub(super) fn never_run(count: usize) -> Self {
        Self { failed: u32::try_from(count).unwrap_or(u32::MAX), ..Self::default() }
    }

    /// Whether there were tests, and all of them ran and passed. A test that did not run proves nothing.
    pub(super) fn are_good(self) -> bool {
        self.passed > 0 && self.failed == 0 && self.skipped == 0
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |mut sum, totals| {
            sum += totals;
            sum
        })
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_and_absent_tests_are_not_good() {
        assert!(Totals { passed: 1, failed: 0, skipped: 0 }.are_good());
        assert!(!Totals { passed: 1, failed: 0, skipped: 1 }.are_good());
        assert!(!Totals { passed: 1, failed: 1, skipped: 0 }.are_good());
        assert!(!Totals::default().are_good());
    }
}
