//! Asks the running agent.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::kernel::process::{ends_within, pidfd};
use crate::serve::{Answer, Request, SOCKET};

/// As long as the agent takes at most for a cleanup, and a little.
const PATIENCE: Duration = Duration::from_secs(200);
/// How long an agent takes to end after its last answer.
const END: Duration = Duration::from_secs(30);
/// Larger than the status of the largest node.
const ANSWER_LIMIT: u64 = 256 << 20;

/// Sends `request` to the agent whose state is in `directory`.
pub(crate) fn ask<T: DeserializeOwned>(directory: &Path, request: &Request) -> anyhow::Result<T> {
    let stream = connect(directory)?.with_context(|| {
        let path = directory.join(SOCKET);
        format!("no agent runs here (nobody listens on {}); start one with `redirect-agent run`", path.display())
    })?;
    exchange(stream, request)
}

/// Sends `request` to the agent at the other end of `stream`, and waits until that has ended.
pub(crate) fn ask_and_outlive<T: DeserializeOwned>(stream: UnixStream, request: &Request) -> anyhow::Result<T> {
    let agent = Pid::from_raw(getsockopt(&stream, sockopt::PeerCredentials)?.pid());
    let process = pidfd(agent).context("watch the agent")?;
    let answer = exchange(stream, request)?;
    if !ends_within(&process, END)? {
        bail!("the agent (pid {agent}) answered but does not end");
    }
    Ok(answer)
}

/// The way to the agent whose state is in `directory`; `None` if nobody listens there.
pub(crate) fn connect(directory: &Path) -> anyhow::Result<Option<UnixStream>> {
    let path = directory.join(SOCKET);
    match UnixStream::connect(&path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("connect to {}", path.display())),
    }
}

fn exchange<T: DeserializeOwned>(mut stream: UnixStream, request: &Request) -> anyhow::Result<T> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[serde_json::to_vec(request)?, b"\n".to_vec()].concat())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_LIMIT)).read_line(&mut line).context("wait for the agent's answer")?;
    match serde_json::from_str(&line).context("the agent hung up (are you root?)")? {
        Answer::Ok(answer) => Ok(answer),
        Answer::Error(reason) => bail!(reason),
    }
}
