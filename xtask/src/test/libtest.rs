//! Reads what test programs print, as Rust's own test harness makes them.

use super::totals::Totals;

/// Judges one test program by its exit status and what it printed.
pub(super) fn judge(succeeded: bool, output: &str) -> Totals {
    let mut totals = sum(output);
    // It crashed, or ran out of time, or has no tests: no result that it printed says so.
    if !succeeded && totals.failed == 0 || totals == Totals::default() {
        totals.failed += 1;
    }
    totals
}

/// The sum of all results in the output of one or more test programs.
pub(super) fn sum(output: &str) -> Totals {
    output.lines().filter_map(result).sum()
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.08s`
fn result(line: &str) -> Option<Totals> {
    let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split(';').find_map(|part| part.trim().strip_suffix(what));
        part.and_then(|number| number.trim().parse().ok())
    };
    Some(Totals { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "running 3 tests\ntest a ... ok\n\n\
        test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.08s\n";
    const BAD: &str =
        "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";

    #[test]
    fn results_are_summed() {
        assert_eq!(sum(&format!("{GOOD}{BAD}")), Totals { passed: 4, failed: 2, skipped: 1 });
        assert_eq!(sum("test result: unreadable"), Totals::default());
    }

    #[test]
    fn a_crash_is_a_failure() {
        assert_eq!(judge(false, GOOD), Totals { passed: 3, failed: 1, skipped: 1 });
        assert_eq!(judge(false, "running 3 tests\n"), Totals { passed: 0, failed: 1, skipped: 0 });
        assert_eq!(judge(false, BAD), Totals { passed: 1, failed: 2, skipped: 0 });
    }

    #[test]
    fn no_tests_are_a_failure() {
        let nothing = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0.00s";
        assert_eq!(judge(true, nothing).failed, 1);
    }
}
