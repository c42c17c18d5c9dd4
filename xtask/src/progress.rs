//! Progress lines on standard error, each with the time since the start; standard output is for results.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Starts the clock; the first line does it otherwise.
pub(crate) fn start() {
    START.get_or_init(Instant::now);
}

/// Time since the start.
pub(crate) fn elapsed() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Prints one line.
pub(crate) fn say(text: impl AsRef<str>) {
    eprintln!("[{:7.1} s] {}", elapsed().as_secs_f32(), text.as_ref());
}
