//! Standard input: bounded in size and in time. A runtime writes a few KiB and closes it.

use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::deadline::Deadline;

/// Bytes that are read at most. Runtimes take files of 2 MiB at most, of all plugins together.
pub const LIMIT: usize = 1 << 20;

/// Why there is no input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It does not come, or cannot be read.
    #[error("cannot read standard input: {0}")]
    Read(#[from] io::Error),
    /// There is more of it than is taken.
    #[error("more than {LIMIT} bytes on standard input")]
    TooLarge,
    /// It is not text.
    #[error("standard input is not UTF-8: {0}")]
    NotText(#[from] std::string::FromUtf8Error),
}

/// All of it.
pub fn read(mut source: impl Read + AsFd, deadline: Deadline) -> Result<String, InputError> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        wait(&source, deadline)?;
        match source.read(&mut chunk) {
            Ok(0) => return Ok(String::from_utf8(bytes)?),
            Ok(length) if bytes.len() + length > LIMIT => return Err(InputError::TooLarge),
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait(source: &impl AsFd, deadline: Deadline) -> io::Result<()> {
    loop {
        // Rounded up, lest the last millisecond is spent polling.
        let left = PollTimeout::try_from(deadline.remaining()?.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn given(bytes: &[u8]) -> Result<String, InputError> {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let bytes = bytes.to_vec();
        let thread = std::thread::spawn(move || {
            // Refused input is not read to its end.
            drop(writer.write_all(&bytes));
        });
        let answer = read(reader, Deadline::after(Duration::from_secs(10)));
        thread.join().unwrap();
        answer
    }

    #[test]
    fn the_limit_is_exact() {
        assert_eq!(given(&vec![b' '; LIMIT]).unwrap().len(), LIMIT);
        assert!(matches!(given(&vec![b' '; LIMIT + 1]), Err(InputError::TooLarge)));
    }

    #[test]
    fn what_is_not_text_is_refused() {
        assert!(matches!(given(b"{\"\xff\"}"), Err(InputError::NotText(_))));
    }

    #[test]
    fn a_writer_that_says_nothing_is_not_waited_for() {
        let (_writer, reader) = UnixStream::pair().unwrap();
        let answer = read(reader, Deadline::after(Duration::from_millis(30)));
        assert!(matches!(answer, Err(InputError::Read(error)) if error.kind() == io::ErrorKind::TimedOut));
    }
}
