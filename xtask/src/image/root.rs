//! What is ours in the image's root, and whether what it needs is there.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::recipe::{EXPECTED, Recipe};
use crate::process;

const USERS: &str = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\n";
const NAMES: &str = "passwd: files\ngroup: files\nhosts: files dns\n";
/// Where programs are looked for.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Adds programs, and the files that no package has.
pub(super) fn add(root: &Path, recipe: &Recipe, files: &[PathBuf]) -> Result<()> {
    for (program, file) in recipe.programs.iter().zip(files) {
        let path = root.join(program.path.trim_start_matches('/'));
        put(&path, &fs::read(file).with_context(|| format!("read {}", file.display()))?, 0o755)?;
    }
    // A base has users of its own.
    if !root.join("usr/bin").is_dir() {
        return Ok(());
    }
    for (path, text) in [("etc/passwd", USERS), ("etc/group", GROUPS), ("etc/nsswitch.conf", NAMES)] {
        put(&root.join(path), text.as_bytes(), 0o644)?;
    }
    for folder in ["dev", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("create /{folder}"))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    link_run(root)
}

/// Runtimes name network namespaces by `/var/run/netns`, and `deploy/` mounts them at `/run/netns`. The package base-files has a
/// folder there, which its installation replaces; here nothing is installed.
fn link_run(root: &Path) -> Result<()> {
    let run = root.join("var/run");
    if run.is_symlink() {
        return Ok(());
    }
    if run.exists() {
        fs::remove_dir(&run).context("remove the folder /var/run")?;
    }
    fs::create_dir_all(root.join("var"))?;
    symlink("../run", run).context("link /var/run")
}

/// Writes a file, and the folders it is in.
pub(super) fn put(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Starts what has to be in `root`, in it: a program that lacks a library fails here and not on a node.
pub(super) fn verify(root: &Path, recipe: &Recipe) -> Result<()> {
    let lacking = |name: &&&str| !PATH.split(':').any(|folder| there(root, folder, name));
    let missing: Vec<&str> = EXPECTED.iter().filter(lacking).copied().collect();
    ensure!(missing.is_empty(), "the image has no {} on its PATH ({PATH})", missing.join(", "));
    let programs = recipe.programs.iter().filter(|program| program.path.starts_with("/usr/"));
    for name in EXPECTED.iter().copied().chain(programs.map(|program| program.path)) {
        let mut command = Command::new("chroot");
        command.arg(root).env_clear().env("PATH", PATH);
        match name {
            "sh" => command.args(["sh", "-c", ":"]),
            "test" => command.args(["test", "a"]),
            _ => command.args([name, "--version"]),
        };
        process::quiet(&mut command).with_context(|| format!("{name} does not run in the image"))?;
    }
    Ok(())
}

/// Links count: what they lead to is seen by starting the program.
fn there(root: &Path, folder: &str, name: &str) -> bool {
    root.join(folder.trim_start_matches('/')).join(name).symlink_metadata().is_ok()
}
