//! A stand-in for the agent at its socket, and a network namespace for its pod.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use redirect_cni::protocol::{self, Answer, Request};
use tempfile::TempDir;

/// A network namespace that lives as long as a thread.
pub(crate) struct Netns {
    pub(crate) path: String,
    _alive: Sender<()>,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (alive, ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root is needed for a network namespace");
            tell.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())).unwrap();
            _ = ended.recv();
        });
        Self { path: told.recv().unwrap(), _alive: alive }
    }
}

/// Takes requests and answers each with the same bytes, or never where there are none.
pub(crate) struct Agent {
    directory: TempDir,
    requests: Receiver<Request>,
}

impl Agent {
    pub(crate) fn saying(answer: &Answer) -> Self {
        Self::writing(&protocol::encode_answer(answer).unwrap())
    }

    pub(crate) fn writing(bytes: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("cni.sock")).unwrap();
        Self::listening(directory, bytes, move || listener)
    }

    /// As [`Self::saying`], but not there from the beginning.
    pub(crate) fn saying_late(answer: &Answer, late: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cni.sock");
        Self::listening(directory, &protocol::encode_answer(answer).unwrap(), move || {
            thread::sleep(late);
            UnixListener::bind(path).unwrap()
        })
    }

    fn listening(directory: TempDir, bytes: &[u8], listener: impl FnOnce() -> UnixListener + Send + 'static) -> Self {
        let (tell, requests) = mpsc::channel();
        let bytes = bytes.to_vec();
        thread::spawn(move || {
            for stream in listener().incoming() {
                serve(stream.unwrap(), &bytes, &tell);
            }
        });
        Self { directory, requests }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("cni.sock")
    }

    pub(crate) fn asked(&self) -> Request {
        self.requests.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    pub(crate) fn was_not_asked(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

fn serve(mut stream: UnixStream, answer: &[u8], tell: &Sender<Request>) {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    reader.read_until(b'\n', &mut line).unwrap();
    tell.send(protocol::decode_request(&line).unwrap()).ok();
    drop(stream.write_all(answer));
    if answer.is_empty() {
        // Until the plugin gives up.
        drop(reader.read_until(b'\n', &mut line));
    }
}
