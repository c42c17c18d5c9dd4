//! How long things take to be put back, by kind.

use std::collections::BTreeMap;
use std::time::Duration;

const COLUMNS: &str = "@columns repairs | kind | the kernel tells | times | p50 ms | p99 ms\n";

/// Times by kind of thing and what was done to it, and whether the kernel told of it.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<(bool, String), Vec<Duration>>);

impl Figures {
    /// One more.
    pub fn add(&mut self, told: bool, kind: &str, time: Duration) {
        self.0.entry((told, kind.to_owned())).or_default().push(time);
    }

    /// How many kinds there are.
    #[must_use]
    pub fn kinds(&self) -> usize {
        self.0.len()
    }

    /// A line for each kind, and one for all that the kernel tells of and all others.
    #[must_use]
    pub fn lines(&self) -> String {
        let line = |kind: &str, told: bool, times: &[Duration]| {
            let told = if told { "yes" } else { "no" };
            let (p50, p99) = (percentile(times, 50).as_millis(), percentile(times, 99).as_millis());
            format!("@figure repairs | {kind} | {told} | {} | {p50} | {p99}\n", times.len())
        };
        let mut text = COLUMNS.to_owned();
        text.extend(self.0.iter().rev().map(|((told, kind), times)| line(kind, *told, times)));
        for told in [true, false] {
            let all: Vec<_> =
                self.0.iter().filter(|(key, _)| key.0 == told).flat_map(|(_, times)| times).copied().collect();
            text.push_str(&line("all", told, &all));
        }
        text
    }
}

/// The time that so many of a hundred do not exceed (nearest rank).
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let mut figures = Figures::default();
        for ms in 1..=4 {
            figures.add(true, "link", Duration::from_millis(ms));
        }
        figures.add(false, "set", Duration::from_millis(900));
        let expected = "@figure repairs | link | yes | 4 | 2 | 4\n\
            @figure repairs | set | no | 1 | 900 | 900\n\
            @figure repairs | all | yes | 4 | 2 | 4\n\
            @figure repairs | all | no | 1 | 900 | 900\n";
        assert_eq!(figures.lines().strip_prefix(COLUMNS), Some(expected));
        assert_eq!(figures.kinds(), 2);
    }
}
