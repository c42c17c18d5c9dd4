//! How much of the long form of a suite is done here: all of it, or, where several kernels do it together, a part.

use std::env;

/// `REDIRECT_LONG` asks for the long form: `2/4` for the second of four shares, and anything else for all of it.
const VARIABLE: &str = "REDIRECT_LONG";

/// The `number`th, from 1, of so many equal parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    number: usize,
    of: usize,
}

impl Share {
    const ALL: Self = Self { number: 1, of: 1 };

    /// What is asked for, if the long form is.
    #[must_use]
    pub fn wanted() -> Option<Self> {
        env::var_os(VARIABLE).map(|text| Self::parse(&text.to_string_lossy()).unwrap_or(Self::ALL))
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, of) = text.split_once('/')?;
        let (number, of) = (number.parse().ok()?, of.parse().ok()?);
        (1..=of).contains(&number).then_some(Self { number, of })
    }

    /// How often something is done here that all shares together do `whole` times.
    #[must_use]
    pub fn times(self, whole: usize) -> usize {
        let until = |number| whole * number / self.of;
        until(self.number) - until(self.number - 1)
    }

    /// Whether a thing of many is done here, by its place among them.
    #[must_use]
    pub fn has(self, place: usize) -> bool {
        place % self.of + 1 == self.number
    }
}

/// How often something is done: `long` times by all shares together where the long form is asked for.
#[must_use]
pub fn often(short: usize, long: usize) -> usize {
    Share::wanted().map_or(short, |share| share.times(long))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        assert_eq!(Share::parse("2/4"), Some(Share { number: 2, of: 4 }));
        for text in ["1", "0/4", "5/4", "1/0", "a/4", ""] {
            assert_eq!(Share::parse(text), None, "{text}");
        }
    }

    #[test]
    fn shares_are_the_whole_together() {
        for (of, whole) in [(1, 100), (4, 100), (4, 18), (3, 20)] {
            let shares: Vec<_> = (1..=of).map(|number| Share { number, of }).collect();
            assert_eq!(shares.iter().map(|share| share.times(whole)).sum::<usize>(), whole);
            for place in 0..whole {
                assert_eq!(shares.iter().filter(|share| share.has(place)).count(), 1);
            }
        }
    }
}
