//! A real node of a real cluster, made of the guest that this process runs in: containerd, kubelet, kube-proxy and a chain of
//! CNI plugins, each started by hand. The rest of the cluster is beside the guest (`redirect-lab control-plane`). Not for the
//! host: what is made here ends with the guest.

mod containerd;
mod kubelet;
mod machine;
mod network;
mod wait;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cni::Topology;
use crate::command::Cmd;
use crate::kubernetes::accounts::node_files;
use crate::kubernetes::api::Api;
use crate::layout::NODE_NAME;
use crate::process::Process;

pub use containerd::IMAGE;
pub use network::{CONF_DIR, PLUGIN_DIR};

/// Where `cargo xtask test cluster` puts what the control plane has written for nodes.
const FILES: &str = "/copy/node-files";
/// And the archives of images.
const IMAGES: &str = "/copy/images";
const LOGS: &str = "/var/log";
/// Where kubelet has what containers write.
const CONTAINERS: &str = "/var/log/pods";

/// The node.
#[derive(Debug)]
pub struct Worker {
    api: Api,
    daemons: Vec<Process>,
}

impl Worker {
    /// Makes the guest a node, and waits until it is one.
    pub fn start(topology: Topology) -> Result<Self> {
        machine::prepare()?;
        network::configure(topology)?;
        let api = Api::of_kubeconfig(&Path::new(FILES).join(node_files::ADMIN))?;
        let mut worker = Self { api, daemons: Vec::new() };
        worker.daemon("containerd", containerd::command()?)?;
        containerd::await_ready()?;
        worker.daemon("kubelet", kubelet::kubelet(Path::new(FILES))?)?;
        worker.daemon("kube-proxy", kubelet::kube_proxy(Path::new(FILES)))?;
        containerd::import(Path::new(IMAGES))?;
        worker.await_node()?;
        Ok(worker)
    }

    /// The API server as the administrator sees it.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// An echo server outside of the node: `IP:PORT`.
    pub fn remote(&self) -> Result<std::net::SocketAddrV4> {
        let path = Path::new(FILES).join(node_files::REMOTE);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.parse().with_context(|| format!("not an address: {text}"))
    }

    /// kubectl as the administrator. Emulated, it takes many seconds.
    #[must_use]
    pub fn kubectl(&self) -> Cmd {
        Cmd::new("kubectl").env("KUBECONFIG", Path::new(FILES).join(node_files::ADMIN)).deadline(2 * wait::PATIENCE)
    }

    /// The ends of all logs, for an error that nobody expected.
    #[must_use]
    pub fn logs(&self) -> String {
        let daemons = self.daemons.iter().map(|daemon| log(&daemon.role));
        let logs = daemons.chain(containers(Path::new(CONTAINERS)));
        let texts: Vec<String> = logs.map(|path| format!("== {}\n{}\n", path.display(), tail(&path))).collect();
        texts.concat()
    }

    fn daemon(&mut self, name: &str, mut command: Command) -> Result<()> {
        command.stdout(Stdio::null());
        let (process, _child) = Process::start(name, &mut command, None, &log(name))?;
        self.daemons.push(process);
        Ok(())
    }

    fn await_node(&self) -> Result<()> {
        let path = format!("/api/v1/nodes/{NODE_NAME}");
        let ready = self.eventually("the node is Ready", || {
            let node = self.api.get(&path)?.good()?;
            ensure!(wait::condition(&node, "Ready"), "conditions: {}", node["status"]["conditions"]);
            Ok(())
        });
        ready.with_context(|| self.logs())
    }

    /// That the node's programs still run.
    fn is_alive(&self) -> Result<()> {
        let ended: Vec<&str> =
            self.daemons.iter().filter(|daemon| !daemon.alive()).map(|daemon| daemon.role.as_str()).collect();
        ensure!(ended.is_empty(), "{} ended\n{}", ended.join(" and "), self.logs());
        Ok(())
    }
}

fn log(name: &str) -> PathBuf {
    Path::new(LOGS).join(format!("{name}.log"))
}

/// The logs of containers. Those that cannot be read are not there.
fn containers(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { containers(&path) } else { vec![path] }).collect()
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
