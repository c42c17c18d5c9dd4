//! What commands print. Who reads may stop reading (`| head`), which is no failure of ours.

use std::io::{self, ErrorKind, Write as _};

use anyhow::Context as _;

/// Prints `text`, and ends its last line if it does not.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let end: &[u8] = if text.ends_with('\n') || text.is_empty() { b"" } else { b"\n" };
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end)).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to standard output"),
    }
}
