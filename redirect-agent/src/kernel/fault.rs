//! Failures on demand, for the tests that show what a node is like after a write that failed.
//!
//! Each write to the node is a point, whichever way it takes: netlink ([`super::netlink`]), a batch for a tool
//! ([`super::process`]), bpf(2) ([`super::bpf`]), a file ([`super::file`]). What is the agent's own business and nothing of the
//! node's (its lock, its sockets, temporary files) is none.
//!
//! `REDIRECT_TEST_FAULTS` names a file. While that file is there, each point is appended as a line to the log beside it
//! (`FILE.log`); which one fails is said by what the file holds, where N is how many points are in the log ahead of it. Behind N a
//! line of the log may follow: then only points that make this line count, and one of them fails. A `*` in it is anything: pins are
//! named by the index of an interface, which is another for one that is made anew.
//!
//! * `count`: none.
//! * `error N`: the write is not made, and is said to have failed.
//! * `late N`: the write is made, and is said to have failed, whatever the kernel says.
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
        Some(rehearsal::How::Late) => {
            // What is passed over when the kernel says it, as that something has gone already, would not be the failure that is wanted.
            drop(write());
            Err(failure())
        }
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
        let line = format!("{} {}", format!("{way:?}").to_lowercase(), what.replace('\n', " "));
        let ahead = fs::read_to_string(&log).unwrap_or_default();
        let how = parse(order)?.filter(|fault| fault.is_meant(&line, &ahead)).map(|fault| fault.how);
        OpenOptions::new().create(true).append(true).open(&log)?.write_all(format!("{line}\n").as_bytes())?;
        if how.is_some() {
            if how != Some(How::Hang) {
                fs::remove_file(orders)?;
            }
            tracing::warn!(?how, what, "a fault, as a test wants it");
        }
        Ok(how)
    }

    /// A point that is to fail.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Fault<'a> {
        pub(super) how: How,
        /// So many others come first.
        pub(super) skip: usize,
        /// Of those that make this line.
        pub(super) line: Option<&'a str>,
    }

    impl Fault<'_> {
        /// Whether it is the point of this line, with those `ahead` of it.
        fn is_meant(self, line: &str, ahead: &str) -> bool {
            let is_like = |other: &str| self.line.is_none_or(|wanted| is_like(wanted, other));
            is_like(line) && ahead.lines().filter(|other| is_like(other)).count() == self.skip
        }
    }

    fn is_like(wanted: &str, line: &str) -> bool {
        wanted
            .split_once('*')
            .map_or(wanted == line, |(begin, end)| line.strip_prefix(begin).is_some_and(|rest| rest.ends_with(end)))
    }

    /// The point that is to fail; `None` where they are only counted.
    pub(super) fn parse(order: &str) -> io::Result<Option<Fault<'_>>> {
        let mut words = order.trim_end().splitn(3, ' ');
        let how = match words.next() {
            Some("count") if words.next().is_none() => return Ok(None),
            Some("error") => How::Error,
            Some("late") => How::Late,
            Some("abort") => How::Abort,
            Some("hang") => How::Hang,
            _ => return Err(io::Error::other("neither count nor error, late, abort or hang with a number")),
        };
        let skip = words.next().unwrap_or_default().parse().map_err(io::Error::other)?;
        Ok(Some(Fault { how, skip, line: words.next() }))
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
    use super::rehearsal::{Fault, How, parse, point};

    #[test]
    fn orders_are_understood() {
        assert_eq!(parse("count\n").unwrap(), None);
        let fault = |how, skip, line| Some(Fault { how, skip, line });
        assert_eq!(parse("error 0").unwrap(), fault(How::Error, 0, None));
        assert_eq!(parse("late 12\n").unwrap(), fault(How::Late, 12, None));
        assert_eq!(parse("abort 3 netlink new link\n").unwrap(), fault(How::Abort, 3, Some("netlink new link")));
        assert_eq!(parse("hang 1").unwrap(), fault(How::Hang, 1, None));
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

    #[test]
    fn only_points_of_the_line_count_where_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let orders = directory.path().join("faults");
        fs::write(&orders, "").unwrap();
        let next = |what| point(&orders, "late 1 netlink b/*-c", Way::Netlink, what).unwrap();
        assert_eq!(["a", "b/1-c", "a", "b/", "b/2-c"].map(next), [None, None, None, None, Some(How::Late)]);
        assert_eq!(point(&orders, "late 0 netlink a", Way::Netlink, "a b").unwrap(), None);
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
