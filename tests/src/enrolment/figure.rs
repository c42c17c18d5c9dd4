//! Figures of many measurements.

use std::time::Duration;

use serde::Serialize;

/// The middle of some times, and how far they lie apart. Milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// The shortest.
    pub min: f64,
    /// Half took no longer.
    pub p50: f64,
    /// Of a hundred, one took longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Spread {
    /// Of these times; zero if there are none.
    pub(crate) fn of(times: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
        let at = |percent| at(percent).copied().unwrap_or_default();
        Self { min: at(0), p50: at(50), p99: at(99), max: at(100) }
    }

    pub(crate) fn columns(&self) -> String {
        format!("{:>10.2}{:>10.2}{:>10.2}{:>10.2}", self.min, self.p50, self.p99, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_one_is_longer() {
        let times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let Spread { min, p50, p99, max } = Spread::of(&times);
        let near = |time: f64, other: f64| (time - other).abs() < 0.5;
        assert!(near(min, 1.0) && near(p50, 101.0) && near(p99, 199.0) && near(max, 200.0));
        assert_eq!(Spread::of(&[]).columns().trim_start().chars().next(), Some('0'));
    }
}
