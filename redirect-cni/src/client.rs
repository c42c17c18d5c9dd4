//! The plugin's side of the agent's socket: connect, ask, read the answer, all of it before one deadline.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::unistd::Uid;

use crate::deadline::Deadline;
use crate::protocol::{self, ANSWER_LIMIT, Answer, ProtocolError, Request};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no agent listens: {0}")]
    Absent(#[source] Errno),
    /// Somebody listens who is neither root nor who the plugin is run by.
    #[error("the socket belongs to uid {0}, not to the agent")]
    Stranger(u32),
    /// It did not come in time, or the connection broke.
    #[error("no answer: {0}")]
    Broken(#[from] io::Error),
    /// It makes no sense.
    #[error("the answer is {0}")]
    Protocol(#[from] ProtocolError),
}

/// Asks the agent that listens at `path`.
pub fn ask(path: &Path, request: &Request, deadline: Deadline) -> Result<Answer, AskError> {
    let line = protocol::encode_request(request)?;
    let stream = dial(path, deadline)?;
    let peer = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?.uid();
    if peer != 0 && peer != Uid::effective().as_raw() {
        return Err(AskError::Stranger(peer));
    }
    let mut timed = Timed { stream, deadline };
    timed.write_all(&line)?;
    // The writing end stays open: that it closes tells the agent that nobody waits any more.
    Ok(protocol::decode_answer(&read_line(&mut timed)?)?)
}

/// A unix socket's connect waits as long as a send may when the listener's queue is full (`unix_stream_connect` in
/// `net/unix/af_unix.c` takes `sock_sndtimeo`), so the timeout is set before.
fn dial(path: &Path, deadline: Deadline) -> Result<UnixStream, AskError> {
    let address = UnixAddr::new(path).map_err(AskError::Absent)?;
    let descriptor =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(io::Error::from)?;
    let stream = UnixStream::from(descriptor);
    stream.set_write_timeout(Some(deadline.remaining()?))?;
    match connect(stream.as_raw_fd(), &address) {
        Ok(()) => Ok(stream),
        Err(Errno::EAGAIN) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        Err(error) => Err(AskError::Absent(error)),
    }
}

fn read_line(source: &mut impl Read) -> Result<Vec<u8>, AskError> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = match source.read(&mut chunk) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let end = chunk[..length].iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&chunk[..end.unwrap_or(length)]);
        if line.len() > ANSWER_LIMIT {
            return Err(ProtocolError::TooLong(ANSWER_LIMIT).into());
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}

/// A stream that is given up on at the deadline, also by one who sends a byte at a time.
struct Timed {
    stream: UnixStream,
    deadline: Deadline,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.deadline.remaining()?))?;
        self.stream.read(buffer).map_err(late)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.deadline.remaining()?))?;
        self.stream.write(bytes).map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A socket's timeout comes as `EAGAIN`, which reads as if trying again would help.
fn late(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};
    use std::time::{Duration, Instant};

    use tempfile::TempDir;

    use super::*;

    /// Accepts one connection, reads the request's line and then does as it is told.
    fn listener(act: impl FnOnce(UnixStream) + Send + 'static) -> (TempDir, JoinHandle<()>) {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {}
            act(stream);
        });
        (directory, thread)
    }

    fn asked(patience: u64, act: impl FnOnce(UnixStream) + Send + 'static) -> Result<Answer, AskError> {
        let (directory, thread) = listener(act);
        let answer =
            ask(&directory.path().join("s"), &Request::Status, Deadline::after(Duration::from_millis(patience)));
        thread.join().unwrap();
        answer
    }

    fn timed_out(answer: &Result<Answer, AskError>) -> bool {
        matches!(answer, Err(AskError::Broken(error)) if error.kind() == io::ErrorKind::TimedOut)
    }

    #[test]
    fn an_answer_in_pieces_is_an_answer() {
        let answer = asked(10_000, |mut stream| {
            for piece in ["{\"version\":1,", "\"message\":", "\"done\"}", "\n"] {
                stream.write_all(piece.as_bytes()).unwrap();
            }
        });
        assert_eq!(answer.unwrap(), Answer::Done);
    }

    #[test]
    fn half_an_answer_is_none() {
        let answer = asked(10_000, |mut stream| stream.write_all(b"{\"version\":1,\"message\":\"done\"}").unwrap());
        assert!(matches!(answer, Err(AskError::Broken(error)) if error.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn an_endless_answer_is_cut_off() {
        let answer = asked(10_000, |mut stream| while stream.write_all(&[b' '; 4096]).is_ok() {});
        assert!(matches!(answer, Err(AskError::Protocol(ProtocolError::TooLong(_)))));
    }

    #[test]
    fn silence_and_dripping_end_at_the_deadline() {
        let silent = asked(50, |mut stream| drop(stream.read(&mut [0])));
        assert!(timed_out(&silent), "{silent:?}");
        let begun = Instant::now();
        let dripping = asked(200, |mut stream| {
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(timed_out(&dripping), "{dripping:?}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_full_queue_ends_at_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let queue = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(queue.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&queue, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        // One fits into a queue of length 0.
        let _waiting = UnixStream::connect(&path).unwrap();
        let begun = Instant::now();
        let answer = ask(&path, &Request::Status, Deadline::after(Duration::from_millis(50)));
        assert!(timed_out(&answer), "{answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn nobody_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let soon = || Deadline::after(Duration::from_secs(10));
        assert!(matches!(ask(&path, &Request::Status, soon()), Err(AskError::Absent(Errno::ENOENT))));
        // Its agent was killed.
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(ask(&path, &Request::Status, soon()), Err(AskError::Absent(Errno::ECONNREFUSED))));
    }
}
