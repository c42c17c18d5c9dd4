//! The servers of a cluster beside its node: `redirect-lab control-plane`, which ends when we do, however that is.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::VARIABLE;
use crate::programs::Programs;

/// Running servers; they end with the value.
pub(crate) struct ControlPlane {
    child: Child,
}

impl ControlPlane {
    /// Starts them, of the programs in `servers`, and waits until they are ready. What a node needs is then in `node_files`.
    pub(crate) fn start(programs: &Programs, servers: &Path, node_files: &Path) -> Result<Self> {
        let lab = programs.tools.iter().find(|tool| tool.ends_with("redirect-lab")).context("no redirect-lab")?;
        let mut command = Command::new(lab);
        command.args(["control-plane", "--node-files"]).arg(node_files).env(VARIABLE, servers);
        // An interrupt is for us; the servers end because their input does, and then leave nothing behind.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut control_plane = Self { child: command.spawn().context("start the control plane")? };
        let mut line = String::new();
        let stdout = control_plane.child.stdout.take().context("no pipe")?;
        BufReader::new(stdout).read_line(&mut line).context("hear of the control plane")?;
        ensure!(line == "ready\n", "the control plane does not start");
        Ok(control_plane)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // It has a deadline of its own for everything that it does then.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
