//! Reads what the programs write, on a thread of its own: whatever pods send, nothing else waits for it. The kernel's buffer has
//! a size, each processor writes so many lines a second, and here so many are shown; the rest is counted.

use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::AsFd;
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

/// What the loop has of the thread that reads, which ends with this.
#[derive(Debug)]
pub(crate) struct Reader {
    tap: Arc<Tap>,
    /// Never written to: that it is closed is what the thread waits for.
    _runs: PipeWriter,
}

/// Between the loop, which opens and closes it, and the thread that reads.
#[derive(Default, Debug)]
struct Tap {
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
pub(crate) fn start(ebpf: &mut Ebpf) -> anyhow::Result<Reader> {
    let tap = Arc::new(Tap::default());
    let mut log = EbpfLogger::init_with_logger(ebpf, Shown(Arc::clone(&tap))).context("read the programs' log")?;
    log.flush();
    let (end, runs) = pipe().context("make a pipe")?;
    let body = move || {
        while wait(&log, &end) {
            log.flush();
        }
    };
    thread::Builder::new().name("trace".into()).spawn(body).context("start to read the programs' log")?;
    Ok(Reader { tap, _runs: runs })
}

/// Waits until something was written; whether it is worth to go on.
fn wait(log: &impl AsFd, end: &PipeReader) -> bool {
    loop {
        let mut both = [PollFd::new(log.as_fd(), PollFlags::POLLIN), PollFd::new(end.as_fd(), PollFlags::empty())];
        match poll(&mut both, PollTimeout::NONE) {
            Ok(_) => return !both[1].any().unwrap_or(true),
            Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "the programs' log cannot be read any more");
                return false;
            }
        }
    }
}

impl Reader {
    /// Whether lines are shown from now on.
    pub(crate) fn set(&self, open: bool) {
        self.tap.open.store(open, Ordering::Relaxed);
    }

    /// Lines that were not shown, since the programs were loaded.
    pub(crate) fn lost(&self) -> u64 {
        self.tap.lost.load(Ordering::Relaxed)
    }
}

impl Tap {
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
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn so_many_lines_a_second_and_the_rest_is_counted() {
        let (tap, now) = (Tap::default(), Instant::now());
        let shown = (0..MOST + 7).filter(|_| tap.admits(now)).count();
        let lost = || tap.lost.load(Ordering::Relaxed);
        assert_eq!((shown, lost()), (MOST as usize, 7));
        assert!(tap.admits(now + SECOND));
        assert_eq!(lost(), 7);
    }

    #[test]
    fn who_reads_ends_with_who_asked_for_it() {
        let ((mut log, mut program), (end, runs)) = (pipe().unwrap(), pipe().unwrap());
        program.write_all(b"line").unwrap();
        assert!(wait(&log, &end));
        log.read_exact(&mut [0; 4]).unwrap();
        let thread = thread::spawn(move || wait(&log, &end));
        drop(runs);
        assert!(!thread.join().unwrap());
    }
}
