//! A real Kubernetes to test against: its servers, built of Debian's source package (no binary package has them), and etcd
//! and the clients, which are packages. Made when they are first asked for, and then kept for every checkout.

mod build;
mod control_plane;
mod download;
mod runtime;
mod version;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lock::Lock;
use crate::workspace::Workspace;
use crate::{packages, progress};

pub(crate) use control_plane::ControlPlane;
pub(crate) use runtime::get as runtime;

/// Environment variable that names the folder of the programs, for tests.
pub(crate) const VARIABLE: &str = "REDIRECT_KUBERNETES";
/// The servers without which there is no API.
pub(crate) const CONTROL_PLANE: &[&str] = &["kube-apiserver"];
/// All servers of a cluster with nodes. Their code is generated together.
pub(crate) const CLUSTER: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet"];
/// Raised when the same sources make other programs, because they are built in another way.
const RECIPE: u32 = 1;

/// The folder that holds these servers, and etcd, etcdctl and kubectl. What is there is not made again; what is made again,
/// after an interruption or a change of the recipe, is made from the beginning.
pub(crate) fn get(workspace: &Workspace, servers: &[&str]) -> Result<PathBuf> {
    let kept = Workspace::kept("kubernetes")?;
    let _lock = Lock::take(&kept.join("lock"))?;
    packages::install(packages::KUBERNETES)?;
    let packages = kept.join("packages");
    let version = download::get(&Workspace::kept("apt/kubernetes")?, &packages)?;
    let identity = format!("recipe {RECIPE}, {version}");
    let programs = kept.join("programs");
    if !is_of(&programs, &identity) {
        begin(&programs)?;
        finish(&programs, &identity)?;
    }
    download::unpack_clients(&packages, &programs)?;
    // Each program comes here whole, by renaming: one that is here is done.
    let missing: Vec<&str> = servers.iter().copied().filter(|server| !programs.join(server).exists()).collect();
    if !missing.is_empty() {
        packages::install(packages::KUBERNETES_BUILD)?;
        let go = workspace.cache("kubernetes")?.join("go");
        if !is_of(&go, &identity) {
            begin(&go)?;
            build::prepare(&download::description(&packages)?, &go)?;
            finish(&go, &identity)?;
        }
        build::build(&go, &version, &missing, &programs)?;
    }
    progress::say(format!("Kubernetes {}: {}", version::upstream(&version), programs.display()));
    Ok(programs)
}

/// Written when everything else in a folder is.
const STAMP: &str = "made-of";

fn is_of(folder: &Path, identity: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|text| text == identity)
}

/// An empty folder, whatever an interrupted run or another version left there.
fn begin(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

fn finish(folder: &Path, identity: &str) -> Result<()> {
    fs::write(folder.join(STAMP), identity).with_context(|| format!("note that {} is done", folder.display()))
}
