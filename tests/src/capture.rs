//! Packets on a link, by tcpdump in the background.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::netns::Netns;
use crate::process::ended;

const PATIENCE: Duration = Duration::from_secs(30);

/// A capture that runs until [`Capture::finish`], or until the value goes.
#[derive(Debug)]
pub struct Capture {
    child: Child,
}

impl Capture {
    /// Starts one, and waits until it listens. Nothing else may be seen than few packets: they are read in the end.
    pub fn start(netns: &Netns, device: &str, filter: &str) -> Result<Self> {
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-l", "-i", device, filter]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = netns.run(|| command.spawn())?.context("cannot run tcpdump")?;
        let mut capture = Self { child };
        let mut said = BufReader::new(capture.child.stderr.take().context("no pipe")?);
        let mut line = String::new();
        // It ends by itself if it cannot listen, and with it the pipe.
        while said.read_line(&mut line)? > 0 {
            if line.contains("listening on") {
                capture.child.stderr = Some(said.into_inner());
                return Ok(capture);
            }
        }
        bail!("tcpdump does not listen: {line}");
    }

    /// Ends it and returns a line per packet.
    pub fn finish(mut self) -> Result<Vec<String>> {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        pidfd_send_signal(&pidfd, Signal::INT)?;
        ensure!(ended(&pidfd, PATIENCE)?, "tcpdump does not end");
        let mut text = String::new();
        self.child.stdout.take().context("no pipe")?.read_to_string(&mut text)?;
        // It ends with an empty line, lest the last one was not whole.
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It has ended already, or its packets are of no use any more.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}
