//! `bpf-linker`: the linker for BPF objects. It must be built with an LLVM that reads the compiler's bitcode.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;
use crate::tools::Tool;
use crate::workspace::Workspace;

/// With the LLVM of Debian's `rustc-web`.
const LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    options: &["--no-default-features", "--features", "llvm-22"],
    variables: &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
};

/// One that the machine has; who installed it did so for their nightly.
pub(super) fn on_path() -> Option<PathBuf> {
    process::find(LINKER.name).ok()
}

/// One for Debian's compiler.
pub(super) fn install(workspace: &Workspace) -> Result<PathBuf> {
    LINKER.get(workspace)
}
