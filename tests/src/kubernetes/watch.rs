//! A watch: events of the API server, one JSON object per line, as they come.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::netns::Netns;

/// An open watch; closed when the value goes.
#[derive(Debug)]
pub struct Watch {
    curl: Child,
    lines: Receiver<String>,
}

/// What happened to an object.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED` or `ERROR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object; of an error, its `Status`.
    pub object: Value,
}

impl Watch {
    pub(super) fn start(mut curl: Command, netns: Option<&Netns>) -> Result<Self> {
        curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let spawned = match netns {
            Some(netns) => netns.run(|| curl.spawn())?,
            None => curl.spawn(),
        };
        let mut curl = spawned.context("start curl")?;
        let stdout = curl.stdout.take().context("no pipe")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            // It ends with curl, or when nobody wants the next line.
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { curl, lines })
    }

    /// The next event; `None` when the server has ended the watch.
    pub fn next(&mut self, deadline: Duration) -> Result<Option<Event>> {
        match self.lines.recv_timeout(deadline) {
            Ok(line) => serde_json::from_str(&line).with_context(|| format!("not an event: {line}")),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("no event in {} s", deadline.as_secs()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}
