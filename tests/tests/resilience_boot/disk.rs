//! What a node has on disk: the runtime's folders, with what the agent has put there.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::cni_bench;
use redirect_lab::folders::{Folders, LIST};
use redirect_lab::harness::watchful;
use redirect_lab::lab::Lab;
use redirect_lab::runtime::Chain;
use redirect_lab::status::{CniPlugin, Status};

const DEADLINE: Duration = Duration::from_mins(1);

pub(crate) struct Disk(Folders);

impl Disk {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        Ok(Self(Folders::new(lab)?))
    }

    /// How the node's agent is started.
    pub(crate) fn agent(&self) -> Result<AgentOptions> {
        self.0.options(watchful())
    }

    /// What a runtime makes of it: the entry as it is in the list, and the program that is there.
    pub(crate) fn chain(&self, lab: &Lab) -> Result<Chain> {
        let (entry, program) = (self.0.entry()?, self.0.program());
        ensure!(program.exists(), "{} is not there", program.display());
        let socket = entry["socket"].as_str().context("the entry names no socket")?.into();
        let exclude = serde_json::from_value(entry["excludeNamespaces"].clone())?;
        Ok(Chain { socket, exclude, program: Some(program), ..cni_bench::chain(lab) })
    }

    /// Nothing of the agent's is there any more.
    pub(crate) fn is_as_before(&self) -> Result<()> {
        ensure!(fs::read(self.0.list())? == LIST.as_bytes(), "the list is not what it was");
        let left = self.0.files()?;
        ensure!(left == [self.0.list()], "there is more than the list: {left:?}");
        Ok(())
    }
}

/// The agent has put its plugin there.
pub(crate) fn is_complete(lab: &Lab) -> Result<()> {
    let is = |plugin: &CniPlugin| plugin.state == "installed";
    let has = |status: &Status| status.cni_plugin.as_ref().is_some_and(is);
    lab.wait_until(DEADLINE, "there with its plugin", has).map(drop)
}
