//! Builds the BPF object: `redirect-ebpf/`, a workspace of its own, for the kernel's virtual machine.

mod linker;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::toolchain::Toolchain;
use crate::workspace::Workspace;
use crate::{process, progress, remap};

const PACKAGE: &str = "redirect-ebpf";
/// The feature that makes maps another version's.
pub(crate) const OTHER_LAYOUT: &str = "other-layout";
const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Installs what [`build`] needs and the machine lacks.
pub(crate) fn prepare(workspace: &Workspace) -> Result<()> {
    find_or_install(workspace).map(drop)
}

/// Builds it and returns where it is.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    build_as(workspace, PACKAGE, &[])
}

/// The same with maps of another layout, for the tests of upgrades.
pub(crate) fn build_other(workspace: &Workspace) -> Result<PathBuf> {
    build_as(workspace, &format!("{PACKAGE}-other"), &["--features", OTHER_LAYOUT])
}

fn build_as(workspace: &Workspace, name: &str, features: &[&str]) -> Result<PathBuf> {
    let (toolchain, linker) = find_or_install(workspace)?;
    progress::say(format!("building the BPF object {name} with {toolchain}"));
    let built = workspace.cache("ebpf")?;
    let mut command = toolchain.cargo();
    command.current_dir(workspace.root().join(PACKAGE)).args(["build", "--release", "-Z", "build-std=core"]);
    command.args(["--target", TARGET]).arg("--target-dir").arg(&built).args(features);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(workspace, &linker)?.join("\u{1f}"));
    process::run(&mut command)?;
    let object = workspace.cache("bpf")?.join(format!("{name}.o"));
    copy_if_changed(&built.join(TARGET).join("release").join(PACKAGE), &object)?;
    Ok(object)
}

/// What has not changed is left alone: the agent is built anew when its object is newer.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let built = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|known| known == built) {
        return Ok(());
    }
    fs::write(to, built).with_context(|| format!("write {}", to.display()))
}

fn find_or_install(workspace: &Workspace) -> Result<(Toolchain, PathBuf)> {
    if let Some(nightly) = Toolchain::nightly()
        && let Some(linker) = linker::on_path()
    {
        return Ok((nightly, linker));
    }
    let Some(debian) = Toolchain::debian()? else {
        bail!("no toolchain for BPF: neither a rustup nightly with rust-src, and bpf-linker, nor Debian's rustc-web");
    };
    Ok((debian, linker::install(workspace)?))
}

fn flags(workspace: &Workspace, linker: &Path) -> Result<Vec<String>> {
    let linker = format!("-Clinker={}", linker.display());
    // aya reads the calling convention of the machine's kernel from this.
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let mut flags = vec![linker, arch, "-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    flags.extend(remap::flags(workspace)?);
    Ok(flags)
}

/// A cargo or rustc that has nothing of the one that runs us.
fn other(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO") && text != "CARGO_HOME" || text.starts_with("RUST") && text != "RUSTUP_HOME" {
            command.env_remove(&name);
        }
    }
    command
}
