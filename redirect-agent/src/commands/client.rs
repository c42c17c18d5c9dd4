//! Asks the running agent.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use crate::serve::{Answer, Request, SOCKET};

/// As long as the agent takes at most for a cleanup, and a little.
const PATIENCE: Duration = Duration::from_secs(200);
/// Larger than the status of the largest node.
const ANSWER_LIMIT: u64 = 256 << 20;

/// Sends `request` to the agent whose state is in `directory`.
pub(crate) fn ask<T: DeserializeOwned>(directory: &Path, request: Request) -> anyhow::Result<T> {
    let path = directory.join(SOCKET);
    let mut stream = match UnixStream::connect(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            bail!("no agent runs here (nobody listens on {}); start one with `redirect-agent run`", path.display())
        }
        other => other.with_context(|| format!("connect to {}", path.display()))?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[serde_json::to_vec(&request)?, b"\n".to_vec()].concat())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_LIMIT)).read_line(&mut line).context("wait for the agent's answer")?;
    match serde_json::from_str(&line).context("the agent hung up (are you root?)")? {
        Answer::Ok(answer) => Ok(answer),
        Answer::Error(reason) => bail!(reason),
    }
}
