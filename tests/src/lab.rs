//! A lab: making one, finding one that stands, removing one. Pods are in `pods`, the agent in `agent`.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use redirect_common::names::{LABEL_MODE, MODE_AMBIENT};

use crate::cni::Network;
use crate::layout::{
    MESH_NAMESPACE, PLAIN_NAMESPACE, POD_PORT, PROXY_NAMESPACE, REMOTE, REMOTE_SERVER, SERVICE_APP_B, SERVICE_REMOTE,
    bpf_dir, state_root,
};
use crate::manifests::Manifests;
use crate::netns::Netns;
use crate::pod;
use crate::process::{self, Process};
use crate::services::{self, Service};
use crate::state::{Options, State, lab_dir};
use crate::{daemons, node};

/// A lab that stands. Dropping the value leaves it standing.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    pub(crate) state: State,
}

impl Lab {
    /// Makes a lab with its default pods, without an agent.
    pub fn up(options: Options) -> Result<Self> {
        check_prefix(&options.prefix)?;
        let dir = lab_dir(&options.prefix);
        if dir.exists() {
            let prefix = &options.prefix;
            bail!("lab {prefix} already stands; `redirect-lab --prefix {prefix} down` removes it");
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut lab = Self { dir, state: State::new(options) };
        lab.save()?;
        lab.build().with_context(|| {
            format!("lab {0} is incomplete; `redirect-lab --prefix {0} down` removes what was made", lab.name())
        })?;
        Ok(lab)
    }

    /// The lab called `prefix`.
    pub fn open(prefix: &str) -> Result<Self> {
        let dir = lab_dir(prefix);
        let state = State::load(&dir)?.with_context(|| format!("no lab {prefix}: `redirect-lab up` makes one"))?;
        Ok(Self { dir, state })
    }

    /// Removes the lab called `prefix`, whole or not; whether there was anything.
    pub fn down(prefix: &str) -> Result<bool> {
        check_prefix(prefix)?;
        let dir = lab_dir(prefix);
        if !dir.exists() {
            return Ok(false);
        }
        if let Some(state) = State::load(&dir)? {
            for process in state.processes.iter().rev() {
                process.end()?;
            }
            for netns in state.netns.iter().filter(|netns| netns.exists()) {
                end_stragglers(netns)?;
            }
            for netns in state.netns.iter().rev() {
                netns.delete()?;
            }
            if state.bpf {
                remove_pins(&bpf_dir(prefix))?;
            }
        }
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        // Others' labs may keep the folder; then it stays.
        let _ = fs::remove_dir(state_root());
        Ok(true)
    }

    /// Its name, the prefix of its network namespaces.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.options.prefix
    }

    /// What was chosen when it was made.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.state.options
    }

    /// The node's netns.
    #[must_use]
    pub fn node(&self) -> Netns {
        Netns::named(format!("{}-node", self.name()))
    }

    /// The second node's netns.
    #[must_use]
    pub fn remote(&self) -> Netns {
        Netns::named(format!("{}-{REMOTE}", self.name()))
    }

    /// The folder that the agent watches.
    #[must_use]
    pub fn manifests_dir(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// The manifests in it.
    #[must_use]
    pub fn manifests(&self) -> Manifests {
        Manifests::in_dir(self.manifests_dir())
    }

    /// Everything the lab keeps.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a netns, recorded before it is made.
    pub(crate) fn create_netns(&mut self, netns: &Netns) -> Result<()> {
        ensure!(!netns.exists(), "netns {} belongs to someone else", netns.name());
        self.state.netns.push(netns.clone());
        self.save()?;
        netns.create()
    }

    pub(crate) fn delete_netns(&mut self, netns: &Netns) -> Result<()> {
        netns.delete()?;
        self.state.netns.retain(|other| other != netns);
        self.save()
    }

    pub(crate) fn save(&self) -> Result<()> {
        self.state.save(&self.dir)
    }

    pub(crate) fn process(&self, role: &str) -> Option<&Process> {
        self.state.processes.iter().find(|process| process.role == role)
    }

    pub(crate) fn remember(&mut self, process: Process) -> Result<()> {
        self.state.processes.push(process);
        self.save()
    }

    pub(crate) fn forget(&mut self, role: &str) -> Result<()> {
        self.state.processes.retain(|process| process.role != role);
        self.save()
    }

    /// Ends the process known by `role`, if there is one.
    pub(crate) fn end(&mut self, role: &str) -> Result<()> {
        if let Some(process) = self.process(role) {
            process.end()?;
        }
        self.forget(role)
    }

    fn build(&mut self) -> Result<()> {
        node::load_modules();
        let (node, remote) = (self.node(), self.remote());
        self.create_netns(&node)?;
        self.create_netns(&remote)?;
        node::connect(&node, &remote, self.options())?;
        self.manifests().create()?;
        self.label_namespace(MESH_NAMESPACE, LABEL_MODE, Some(MODE_AMBIENT))?;
        self.mark_namespace(PLAIN_NAMESPACE, |_| {})?;
        self.mark_namespace(PROXY_NAMESPACE, |_| {})?;
        daemons::serve(self, REMOTE, &remote, REMOTE_SERVER.port())?;
        for pod in pod::defaults()? {
            self.add_pod(pod)?;
        }
        self.install_services()
    }

    /// kube-proxy's rules for the Services that there are.
    pub(crate) fn install_services(&self) -> Result<()> {
        services::install(&self.node(), self.options().backend, &self.services()?)
    }

    /// The Services that kube-proxy writes rules for.
    pub fn services(&self) -> Result<[Service; 2]> {
        let app_b = SocketAddrV4::new(self.pod("app-b")?.ip()?, POD_PORT);
        Ok([
            Service { name: "default/remote", id: "REMOTE", cluster_ip: SERVICE_REMOTE, endpoint: REMOTE_SERVER },
            Service { name: "mesh/app-b", id: "APPB", cluster_ip: SERVICE_APP_B, endpoint: app_b },
        ])
    }

    /// How pods are plumbed here; `data_dir` outlives the pods.
    pub(crate) fn with_network<T>(&self, work: impl FnOnce(&Network<'_>) -> Result<T>) -> Result<T> {
        let data_dir = self.dir.join("ipam");
        work(&Network { topology: self.options().topology, node: &self.node(), data_dir: &data_dir })
    }
}

/// Ends what a lab started and had not yet recorded when it was interrupted. Other programs in there are people's.
fn end_stragglers(netns: &Netns) -> Result<()> {
    let me = i32::try_from(std::process::id())?;
    let ours =
        |process: &Process| matches!(process.role.as_str(), "redirect-lab" | "redirect-agent") && process.pid != me;
    process::inside(netns)?.iter().filter(|process| ours(process)).try_for_each(Process::end)
}

/// A pin is a file, and with the last pin goes what it holds.
fn remove_pins(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Prefixes become file names and parts of `ip netns` names.
fn check_prefix(prefix: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    ensure!(
        (1..=12).contains(&prefix.len()) && prefix.chars().all(allowed),
        "a lab's prefix is 1 to 12 lower-case letters and digits, not {prefix:?}"
    );
    Ok(())
}
