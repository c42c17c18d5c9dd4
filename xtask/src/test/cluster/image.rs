//! Images of a file tree, as archives of the form that `docker save` writes: a list, a configuration and one layer. containerd
//! reads them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::guest::libraries;
use crate::guest::tree::Tree;
use crate::process;
use crate::programs::Programs;

/// `redirect-lab` and its libraries: ztunnel, the pods, and the process that holds a pod's namespaces.
pub(super) const LAB: &str = "docker.io/library/redirect-lab:test";
const PATH: &str = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn lab(programs: &Programs) -> Result<Tree> {
    let mut tree = Tree::default();
    for (path, target) in [("/lib", "usr/lib"), ("/lib64", "usr/lib64")] {
        tree.symlink(path, target);
    }
    let lab = programs.tools.iter().find(|tool| tool.ends_with("redirect-lab")).context("no redirect-lab")?;
    tree.copy_as(lab, "/usr/local/bin/redirect-lab")?;
    libraries::add(&mut tree, &BTreeSet::new())?;
    Ok(tree)
}

/// Writes a tree as the image `name` to `archive`; `folder` is for what is needed in between.
pub(super) fn write(tree: &Tree, name: &str, folder: &Path, archive: &Path) -> Result<()> {
    let (root, parts) = (folder.join("root"), folder.join("parts"));
    for folder in [&root, &parts] {
        fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    tree.unpack(&root)?;
    tar(&parts.join("layer.tar"), &root, &["."])?;
    let sum = process::output(Command::new("sha256sum").arg(parts.join("layer.tar")))?;
    let sum = sum.split_whitespace().next().context("sha256sum says nothing")?;
    let configuration = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": [PATH], "Entrypoint": ["/usr/local/bin/redirect-lab", "pause"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
    });
    let list = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    fs::write(parts.join("config.json"), configuration.to_string()).context("write an image's configuration")?;
    fs::write(parts.join("manifest.json"), list.to_string()).context("write an image's list")?;
    tar(archive, &parts, &["manifest.json", "config.json", "layer.tar"])?;
    for folder in [&root, &parts] {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

fn tar(archive: &Path, folder: &Path, what: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--file"]);
    process::quiet(tar.arg(archive).arg("--directory").arg(folder).args(what))
}
