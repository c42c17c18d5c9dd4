//! `bpf-linker`: the linker for BPF objects. It must be built with an LLVM that reads the compiler's bitcode.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, cargo};
use crate::{process, progress};

const NAME: &str = "bpf-linker";
const VERSION: &str = "0.13.0";
/// The LLVM of Debian's `rustc-web`.
const FEATURE: &str = "llvm-22";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// One that the machine has; who installed it did so for their nightly.
pub(super) fn on_path() -> Option<PathBuf> {
    process::find(NAME).ok()
}

/// One for Debian's compiler, in the cache.
pub(super) fn install(workspace: &Workspace) -> Result<PathBuf> {
    let tools = workspace.cache("tools")?;
    let linker = tools.join("bin").join(NAME);
    if !linker.exists() {
        progress::say(format!("building {NAME} {VERSION} (about a minute)"));
        let mut command = cargo();
        command.args([
            "install",
            NAME,
            "--locked",
            "--version",
            VERSION,
            "--no-default-features",
            "--features",
            FEATURE,
        ]);
        command.arg("--root").arg(&tools).arg("--target-dir").arg(tools.join("build")).env("LLVM_PREFIX", LLVM_PREFIX);
        process::run(&mut command).with_context(|| format!("build {NAME}"))?;
    }
    Ok(linker)
}
