//! What every message of one attempt begins with, and of no other one: by it bytes are known wherever they are seen, under whatever
//! addresses.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// What all of them begin with.
const BEGIN: &[u8] = b"@judge:";
const DIGITS: usize = 8;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One attempt's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Cookie(u32);

impl Cookie {
    /// One that this process has not given away yet.
    pub fn fresh() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The one that the bytes begin with.
    #[must_use]
    pub fn at_start_of(bytes: &[u8]) -> Option<Self> {
        let digits = bytes.strip_prefix(BEGIN)?.get(..DIGITS)?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok().map(Self)
    }
}

/// As it is sent, so that people find it too.
impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:08x} ", String::from_utf8_lossy(BEGIN), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_again_and_no_other() {
        let (first, second) = (Cookie::fresh(), Cookie::fresh());
        let text = format!("{first}and more");
        assert_eq!(Cookie::at_start_of(text.as_bytes()), Some(first));
        assert_ne!(first, second);
        for other in ["", "@judge:0000", "@judge:zzzzzzzz ", "{\"server\":\"remote\"}"] {
            assert_eq!(Cookie::at_start_of(other.as_bytes()), None, "{other}");
        }
    }
}
