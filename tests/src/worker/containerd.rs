//! containerd, with the interface that kubelet speaks (CRI), and its images.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::network::{CONF_DIR, PLUGIN_DIR};
use crate::command::Cmd;
use crate::harness::eventually;

pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";
/// The image that all pods of the lab are made of, also the sandbox that holds a pod's namespaces: `redirect-lab` and its
/// libraries (`xtask/src/test/cluster/image.rs` writes it).
pub const IMAGE: &str = "docker.io/library/redirect-lab:test";
const CONFIGURATION: &str = "/etc/containerd/config.toml";
const READY: Duration = Duration::from_mins(1);
/// Digests of a hundred megabytes take their time.
const IMPORT: Duration = Duration::from_mins(5);

pub(super) fn command() -> Result<Command> {
    let folder = Path::new(CONFIGURATION).parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).context("make a folder")?;
    fs::write(CONFIGURATION, configuration()).with_context(|| format!("write {CONFIGURATION}"))?;
    let mut command = Command::new("containerd");
    command.args(["--config", CONFIGURATION]);
    Ok(command)
}

pub(super) fn await_ready() -> Result<()> {
    eventually(READY, || ctr(&["version"]).run()).context("containerd").map(drop)
}

/// Makes the archives of a folder known as images.
pub(super) fn import(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let archive = entry?.path();
        ctr(&["images", "import"]).args([&archive]).deadline(IMPORT).run()?;
    }
    Ok(())
}

fn ctr(words: &[&str]) -> Cmd {
    Cmd::new("ctr").args(["--address", SOCKET, "--namespace", "k8s.io"]).args(words)
}

fn configuration() -> String {
    format!(
        r#"version = 2
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGIN_DIR}"
conf_dir = "{CONF_DIR}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}
