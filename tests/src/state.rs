//! What a lab has made, on disk before it is made: `down` works from it, also after a crash.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::agent::AgentOptions;
use crate::backend::Backend;
use crate::cni::Topology;
use crate::layout::state_root;
use crate::manifests::Marks;
use crate::netns::Netns;
use crate::pod::Pod;
use crate::process::Process;

/// What a person chooses about a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Start of the names of its network namespaces, and its name.
    pub prefix: String,
    /// How pods hang on the node.
    pub topology: Topology,
    /// Whose rules kube-proxy's are.
    pub backend: Backend,
    /// `net.ipv4.conf.default.rp_filter` in every netns before it has links; systemd's is 2.
    pub rp_filter: u8,
}

/// The content of `state.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) netns: Vec<Netns>,
    pub(crate) processes: Vec<Process>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) namespaces: BTreeMap<String, Marks>,
    /// How the agent was started last.
    pub(crate) agent: Option<AgentOptions>,
    /// Whether it may have pinned anything.
    pub(crate) bpf: bool,
}

impl State {
    pub(crate) fn new(options: Options) -> Self {
        let (netns, processes, pods) = (Vec::new(), Vec::new(), Vec::new());
        Self { options, netns, processes, pods, namespaces: BTreeMap::new(), agent: None, bpf: false }
    }

    /// The state of the lab in `dir`; `None` if there is no lab.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>> {
        match fs::read(file(dir)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file(dir).display())),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is not a lab's state", file(dir).display())),
        }
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        let temporary = dir.join(".state.json");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&temporary, file(dir)))
            .with_context(|| format!("cannot write {}", file(dir).display()))
    }
}

/// The folder of the lab called `prefix`.
#[must_use]
pub fn lab_dir(prefix: &str) -> PathBuf {
    state_root().join(prefix)
}

fn file(dir: &Path) -> PathBuf {
    dir.join("state.json")
}
