//! Suites one after another in one guest: the script that runs them, and what comes back.

use std::fmt::Write as _;

use redirect_init::places;

use super::libtest;
use super::suites::Suite;
use super::totals::Totals;

/// What the script prints around each suite's output.
const BEGIN: &str = "@suite begin ";
const END: &str = "@suite end ";
/// The script for bash; `environment` is for all suites, and each may take so many seconds.
pub(super) fn script(suites: &[Suite], environment: &[(&str, String)], seconds: u32) -> String {
    let mut script = String::new();
    for (name, value) in environment {
        let _ = writeln!(script, "export {name}={value}");
    }
    for (number, suite) in suites.iter().enumerate() {
        let variables =
            suite.setting.variables().iter().map(|(name, value)| format!("{name}={value} ")).collect::<Vec<_>>();
        let variables = variables.concat();
        let program = format!("{}/{}", places::COPY, file_name(suite));
        let _ = write!(
            script,
            "printf '\\n{BEGIN}{number}\\n'\n\
             {variables}timeout --kill-after=10 {seconds} {program} --test-threads=1 --nocapture --color=never\n\
             printf '\\n{END}%s\\n' $?\n"
        );
    }
    script
}

fn file_name(suite: &Suite) -> String {
    suite.program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A suite that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    /// Its place in the script.
    pub(super) number: usize,
    pub(super) totals: Totals,
    pub(super) output: String,
}

/// Splits the script's output into suites.
#[derive(Default)]
pub(super) struct Splitter {
    partial: Vec<u8>,
    current: Option<(usize, String)>,
}

impl Splitter {
    /// Takes what the guest wrote; returns the suites that ended with it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Ended> {
        let mut ended = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.partial).into_owned();
                self.partial.clear();
                ended.extend(self.line(&line));
            } else {
                self.partial.push(*byte);
            }
        }
        ended
    }

    /// The suite that had begun and not ended, and its output so far.
    pub(super) fn unfinished(&self) -> Option<(usize, &str)> {
        self.current.as_ref().map(|(number, output)| (*number, output.as_str()))
    }

    fn line(&mut self, line: &str) -> Option<Ended> {
        if let Some(number) = line.strip_prefix(BEGIN).and_then(|number| number.parse().ok()) {
            self.current = Some((number, String::new()));
            return None;
        }
        if let Some(status) = line.strip_prefix(END) {
            let (number, output) = self.current.take()?;
            return Some(Ended { number, totals: libtest::judge(status == "0", &output), output });
        }
        if let Some((_, output)) = &mut self.current {
            output.push_str(line);
            output.push('\n');
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str =
        "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.08s";

    #[test]
    fn output_is_split_into_suites() {
        let text = format!("noise\n@suite begin 0\n{RESULT}\n\n@suite end 0\n\n@suite begin 1\nx\n\n@suite end 124\n");
        let mut splitter = Splitter::default();
        let (first, second) = text.as_bytes().split_at(40);
        let mut ended = splitter.take(first);
        ended.extend(splitter.take(second));
        let totals: Vec<Totals> = ended.iter().map(|ended| ended.totals).collect();
        assert_eq!(totals, [Totals { passed: 2, failed: 0, skipped: 0 }, Totals { passed: 0, failed: 1, skipped: 0 }]);
        assert_eq!(splitter.unfinished(), None);
    }

    #[test]
    fn a_suite_that_was_cut_off_is_known() {
        let mut splitter = Splitter::default();
        assert!(splitter.take(b"@suite begin 7\ntest a ... \ntest b").is_empty());
        assert_eq!(splitter.unfinished(), Some((7, "test a ... \n")));
    }
}
