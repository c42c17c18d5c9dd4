//! Reads what the programs write, on a thread of its own: whatever pods send, nothing else waits for it. The kernel's buffer has
//! a size, each processor writes so many lines a second, and here so many are shown; the rest is counted.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::line;

/// Lines that are shown in a second.
const MOST: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// Between the loop, which opens and closes it, and the thread that reads.
#[derive(Default, Debug)]
pub(crate) struct Tap {
    open: AtomicBool,
    lost: AtomicU64,
    window: Mutex<Window>,
}

/// A second, and the lines in it.
#[derive(Default, Debug)]
struct Window {
    begun: Option<Instant>,
    lines: u32,
}

/// Throws away what was left by earlier agents, and goes on reading what the programs write.
pub(crate) fn start(ebpf: &mut Ebpf) -> anyhow::Result<Arc<Tap>> {
    let tap = Arc::new(Tap::default());
    let mut reader = EbpfLogger::init_with_logger(ebpf, Shown(Arc::clone(&tap))).context("read the programs' log")?;
    reader.flush();
    let body = move || {
        while wait(&reader) {
            reader.flush();
        }
    };
    thread::Builder::new().name("trace".into()).spawn(body).context("start to read the programs' log")?;
    Ok(tap)
}

/// Waits until something was written; whether it is worth to go on.
fn wait(reader: &EbpfLogger<Shown>) -> bool {
    loop {
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) => return true,
            Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "the programs' log cannot be read any more");
                return false;
            }
        }
    }
}

impl Tap {
    /// Whether lines are shown from now on.
    pub(crate) fn set(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// Lines that were not shown, since the agent started.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether one more line may be shown at `now`.
    fn admits(&self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.begun.is_none_or(|begun| now.duration_since(begun) >= SECOND) {
            *window = Window { begun: Some(now), lines: 0 };
        }
        window.lines += 1;
        let admits = window.lines <= MOST;
        drop(window);
        if !admits {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        admits
    }
}

/// Where aya-log puts lines.
struct Shown(Arc<Tap>);

impl Log for Shown {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        self.0.open.load(Ordering::Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || !self.0.admits(Instant::now()) {
            return;
        }
        let text = record.args().to_string();
        if let Some(line) = line::read(&text) {
            tracing::info!(target: "redirect_agent::trace", "{line}");
        } else {
            tracing::warn!(target: "redirect_agent::trace", text, "a program wrote what this agent cannot read");
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_the_rest_is_counted() {
        let (tap, now) = (Tap::default(), Instant::now());
        let shown = (0..MOST + 7).filter(|_| tap.admits(now)).count();
        assert_eq!((shown, tap.lost()), (MOST as usize, 7));
        assert!(tap.admits(now + SECOND));
        assert_eq!(tap.lost(), 7);
    }
}
