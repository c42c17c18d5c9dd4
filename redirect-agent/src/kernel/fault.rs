//! Failures on demand, for the tests that show what a node is like after a write that failed.
//!
//! Each write to the node is a point, whichever way it takes: netlink ([`super::netlink`]), a batch for a tool
//! ([`super::process`]), bpf(2) ([`super::bpf`]), a file ([`super::file`]). What is the agent's own business and nothing of the
//! node's (its lock, its sockets, temporary files) is none.
//!
//! `REDIRECT_TEST_FAULTS` names a file. While that file is there, each point is appended as a line to the log beside it
//! (`FILE.log`); which one fails is said by what the file holds, where N is how many points are in the log ahead of it:
//!
//! * `count`: none.
//! * `error N`: the write is not made, and is said to have failed.
//! * `late N`: the write is made, and is said to have failed.
//! * `abort N`: the agent is killed in place of the write.
//! * `hang N`: the write waits until the file is gone.
//!
//! But for the last, the file is then removed. A build without debug checks, as is deployed, does not look at any of this.

use std::io;

/// A way to write to the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Netlink,
    Batch,
    Bpf,
    File,
}

/// Makes one write to the node, unless a test wants it to fail.
#[cfg(not(debug_assertions))]
pub(crate) fn write<T, E: From<io::Error>>(
    _way: Way,
    _what: impl FnOnce() -> String,
    write: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    write()
}

/// Makes one write to the node, unless a test wants it to fail.
#[cfg(debug_assertions)]
pub(crate) fn write<T, E: From<io::Error>>(
    way: Way,
    what: impl FnOnce() -> String,
    write: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let failure = || io::Error::other("a test wants this write to fail").into();
    match rehearsal::due(way, what) {
        None => write(),
        Some(rehearsal::How::Error) => Err(failure()),
        Some(rehearsal::How::Late) => write().and_then(|_| Err(failure())),
        Some(rehearsal::How::Abort) => rehearsal::die(),
        Some(rehearsal::How::Hang) => {
            rehearsal::hang();
            write()
        }
    }
}

#[cfg(debug_assertions)]
mod rehearsal {
    use std::fs::{self, OpenOptions};
    use std::io::{self, Write as _};
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::Duration;
    use std::{env, process, thread};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getpid;

    use super::Way;

    /// Between two looks whether it is time to go on.
    const LOOK: Duration = Duration::from_millis(50);

    /// How a write fails.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) enum How {
        Error,
        Late,
        Abort,
        Hang,
    }

    /// The file of orders; locked, because points are counted one by one.
    static ORDERS: LazyLock<Option<Mutex<PathBuf>>> =
        LazyLock::new(|| env::var_os("REDIRECT_TEST_FAULTS").map(|file| Mutex::new(file.into())));

    /// How the write that is about to be made is to fail, if it is.
    pub(super) fn due(way: Way, what: impl FnOnce() -> String) -> Option<How> {
        let orders = ORDERS.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let order = fs::read_to_string(&*orders).ok()?;
        match point(&orders, &order, way, &what()) {
            Ok(how) => how,
            Err(error) => {
                tracing::error!(%error, order, "what a test wants to fail cannot be made out");
                None
            }
        }
    }

    /// Counts a point and says what becomes of it.
    pub(super) fn point(orders: &Path, order: &str, way: Way, what: &str) -> io::Result<Option<How>> {
        let log = orders.with_added_extension("log");
        let ahead = fs::read_to_string(&log).unwrap_or_default().lines().count();
        let how = parse(order)?.filter(|(_, skip)| *skip == ahead).map(|(how, _)| how);
        let way = format!("{way:?}").to_lowercase();
        let line = format!("{way} {}\n", what.replace('\n', " "));
        OpenOptions::new().create(true).append(true).open(&log)?.write_all(line.as_bytes())?;
        if how.is_some() {
            if how != Some(How::Hang) {
                fs::remove_file(orders)?;
            }
            tracing::warn!(?how, what, "a fault, as a test wants it");
        }
        Ok(how)
    }

    /// How, and after how many points; `None` where they are only counted.
    pub(super) fn parse(order: &str) -> io::Result<Option<(How, usize)>> {
        let (how, skip) = match order.split_whitespace().collect::<Vec<_>>()[..] {
            ["count"] => return Ok(None),
            ["error", skip] => (How::Error, skip),
            ["late", skip] => (How::Late, skip),
            ["abort", skip] => (How::Abort, skip),
            ["hang", skip] => (How::Hang, skip),
            _ => return Err(io::Error::other("neither count nor error, late, abort or hang with a number")),
        };
        Ok(Some((how, skip.parse().map_err(io::Error::other)?)))
    }

    /// As a file system or another's lock keeps one waiting.
    pub(super) fn hang() {
        let orders = ORDERS.as_ref().map(|orders| orders.lock().unwrap_or_else(PoisonError::into_inner).clone());
        while orders.as_ref().is_some_and(|orders| orders.exists()) {
            thread::sleep(LOOK);
        }
    }

    /// As the kernel ends a process that is out of memory: without a last word.
    pub(super) fn die() -> ! {
        let _ = kill(getpid(), Signal::SIGKILL);
        process::abort()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::path::Path;
    use std::{fs, io};

    use super::Way;
    use super::rehearsal::{How, parse, point};

    #[test]
    fn orders_are_understood() {
        assert_eq!(parse("count\n").unwrap(), None);
        assert_eq!(parse("error 0").unwrap(), Some((How::Error, 0)));
        assert_eq!(parse("late 12\n").unwrap(), Some((How::Late, 12)));
        assert_eq!(parse("abort 3").unwrap(), Some((How::Abort, 3)));
        assert_eq!(parse("hang 1").unwrap(), Some((How::Hang, 1)));
        for bad in ["", "error", "error x", "error -1", "count 1", "later 1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_point_that_is_meant_fails_once() {
        let directory = tempfile::tempdir().unwrap();
        let orders = directory.path().join("faults");
        let next = |order| point(&orders, order, Way::Netlink, "a\nb").unwrap();
        assert_eq!(next("count"), None);
        fs::write(&orders, "error 2").unwrap();
        assert_eq!(next("error 2"), None);
        assert!(orders.exists());
        assert_eq!(next("error 2"), Some(How::Error));
        assert!(!orders.exists(), "it would fail again");
        assert_eq!(fs::read_to_string(directory.path().join("faults.log")).unwrap(), "netlink a b\n".repeat(3));
    }

    /// Ways to write that are not to be taken anywhere but in the files named.
    const WRITES: [(&str, &[&str]); 13] = [
        ("fs::write(", &["kernel/file.rs"]),
        ("fs::rename(", &["kernel/file.rs"]),
        ("fs::create_dir", &[]),
        ("fs::set_permissions(", &["kernel/file.rs", "socket.rs"]),
        ("fs::remove_dir", &["kernel/file.rs"]),
        ("fs::remove_file(", &["kernel/file.rs", "socket.rs"]),
        ("DirBuilder", &["kernel/file.rs", "lock.rs"]),
        ("NamedTempFile", &[]),
        ("tempfile_in(", &["kernel/file.rs"]),
        ("Command::new(", &["kernel/process.rs"]),
        ("NLM_F_ACK", &["kernel/netlink.rs"]),
        ("setns(", &["kernel/netns.rs"]),
        (".attach_with_options(", &["kernel/tc/tcx.rs"]),
    ];

    #[test]
    fn nobody_writes_past_the_points() -> io::Result<()> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut wrong = Vec::new();
        look(&source, &source, &mut wrong)?;
        assert!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    }

    fn look(root: &Path, folder: &Path, wrong: &mut Vec<String>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            if path.is_dir() {
                look(root, &path, wrong)?;
            } else if !name.ends_with("tests.rs") && name != "kernel/fault.rs" {
                let text = fs::read_to_string(&path)?;
                let code = text.split_once("#[cfg(test)]").map_or(text.as_str(), |(code, _)| code);
                let found = WRITES.iter().filter(|(way, places)| code.contains(way) && !places.contains(&&*name));
                wrong.extend(found.map(|(way, _)| format!("{name}: {way}")));
            }
        }
        Ok(())
    }
}
