//! Gets the source package, and the packages of what is not built, which are unpacked and not installed: installed, etcd
//! would be a running service of the machine, and kubectl may be there from elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::begin;
use crate::apt::{Apt, Suites};
use crate::{process, progress};

const SOURCE: &str = "kubernetes";
/// The last Debian that has the source package.
pub(super) const SUITES: Suites =
    Suites { ordinary: &["bookworm"], security: &["bookworm-security"], kinds: &["deb", "deb-src"] };
/// Packages, and the program of each that is wanted.
const CLIENTS: [(&str, &str); 3] =
    [("etcd-client", "etcdctl"), ("etcd-server", "etcd"), ("kubernetes-client", "kubectl")];

/// Downloads everything into `folder`, once; returns the version of the source package.
pub(super) fn get(apt: &Path, folder: &Path) -> Result<String> {
    let stamp = folder.join("version");
    if let Ok(version) = fs::read_to_string(&stamp) {
        return Ok(version);
    }
    begin(folder)?;
    let apt = Apt::open(apt, &SUITES)?;
    progress::say("downloading the sources of Kubernetes, etcd and kubectl");
    let source = ["source", "--download-only", "--only-source", SOURCE];
    process::quiet(apt.command("apt-get").current_dir(folder).args(source))?;
    let clients = CLIENTS.map(|(package, _)| package);
    process::quiet(apt.command("apt-get").current_dir(folder).arg("download").args(clients))?;
    let version = version(&description(folder)?)?;
    fs::write(&stamp, &version).with_context(|| format!("write {}", stamp.display()))?;
    Ok(version)
}

/// The file that describes the source package.
pub(super) fn description(folder: &Path) -> Result<PathBuf> {
    find(folder, &format!("{SOURCE}_"), ".dsc")
}

fn version(description: &Path) -> Result<String> {
    let name = description.file_stem().unwrap_or_default().to_string_lossy();
    let version = name.split_once('_').map(|(_, version)| version.to_owned());
    version.with_context(|| format!("{name} has no version"))
}

/// Puts the programs of the packages in `from` into `programs`, unless they are there.
pub(super) fn unpack_clients(from: &Path, programs: &Path) -> Result<()> {
    for (package, program) in CLIENTS {
        let wanted = programs.join(program);
        if wanted.exists() {
            continue;
        }
        let unpacked = programs.join("unpacked");
        begin(&unpacked)?;
        process::quiet(Command::new("dpkg").arg("-x").arg(find(from, &format!("{package}_"), ".deb")?).arg(&unpacked))?;
        let there = unpacked.join("usr/bin").join(program);
        fs::rename(&there, &wanted).with_context(|| format!("the package {package} has no {program}"))?;
        fs::remove_dir_all(&unpacked).context("remove what else is in a package")?;
    }
    Ok(())
}

/// The one file whose name begins and ends so.
pub(super) fn find(folder: &Path, begin: &str, end: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(begin) && name.ends_with(end) {
            found.push(path);
        }
    }
    ensure!(found.len() == 1, "{} holds {} files {begin}*{end}", folder.display(), found.len());
    found.pop().context("no file")
}
