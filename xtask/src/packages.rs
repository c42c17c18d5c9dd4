//! Debian packages: the one list of what the workspace needs of the machine, and their installation.

use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::{process, progress};

/// What every command needs: a linker, the guest's machine, and the tools that nodes are made of (they run on the host and
/// are copied into the guest).
pub(crate) const BASE: &[&str] = &[
    "bash",
    "bpftool",
    "ca-certificates",
    "conntrack",
    "containernetworking-plugins",
    "coreutils",
    "debian-archive-keyring",
    "diffutils",
    "ethtool",
    "findutils",
    "gcc",
    "grep",
    "hostname",
    "iproute2",
    "ipset",
    "iptables",
    "iputils-ping",
    "ipvsadm",
    "kmod",
    "libc-bin",
    "libc6-dev",
    "mawk",
    "netbase",
    "nftables",
    "procps",
    "qemu-system-x86",
    "sed",
    "tcpdump",
    "util-linux",
    "xz-utils",
];

/// A compiler with the sources of `core`, and the LLVM that it was built with, for machines without a rustup nightly.
pub(crate) const EBPF: &[&str] =
    &["cargo-web", "libpolly-22-dev", "libzstd-dev", "llvm-22-dev", "rust-web-src", "rustc-web", "zlib1g-dev"];

/// What speaks with a Kubernetes API server, and makes its keys. etcd and kubectl are unpacked and not installed
/// (`kubernetes`).
pub(crate) const KUBERNETES: &[&str] = &["curl", "openssl"];

/// What puts an image together, and finds its date.
pub(crate) const IMAGE: &[&str] = &["buildah", "git", "tar"];

/// What builds Kubernetes' servers.
pub(crate) const KUBERNETES_BUILD: &[&str] = &["dpkg-dev", "golang-go", "jq", "make", "rsync"];

/// Installs those that are not there.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !geteuid().is_root() {
        bail!("Debian packages are missing ({}) and only root can install them", missing.join(" "));
    }
    progress::say(format!("installing Debian packages: {}", missing.join(" ")));
    update()?;
    process::quiet(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing))
        .context("install Debian packages")
}

/// Fetches the machine's package lists.
pub(crate) fn update() -> Result<()> {
    process::quiet(apt_get().arg("update")).context("update apt's package lists")
}

/// Those that are not installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let query = ["-W", "-f", "${Package} ${db:Status-Abbrev}\n"];
    // It fails when one of them is unknown, and lists the others all the same.
    let output = Command::new("dpkg-query").args(query).args(packages).output();
    let output = output.context("ask dpkg-query (is this a Debian machine?)")?;
    let installed = installed(&String::from_utf8_lossy(&output.stdout));
    Ok(packages.iter().copied().filter(|package| !installed.iter().any(|name| name == package)).collect())
}

fn installed(listing: &str) -> Vec<String> {
    let lines = listing.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(_, state)| state.trim() == "ii").map(|(name, _)| name.to_owned()).collect()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").args(["-qq", "-o", "Acquire::Retries=3"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        assert_eq!(installed("bash ii \nfoo rc \nbar un \n"), ["bash"]);
    }

    #[test]
    fn lists_are_sorted_and_without_repetition() {
        for list in [BASE, EBPF, IMAGE, KUBERNETES, KUBERNETES_BUILD] {
            assert!(list.is_sorted_by(|a, b| a < b));
        }
    }
}
