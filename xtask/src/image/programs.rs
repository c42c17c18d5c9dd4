//! Our programs as users run them: optimised, and without the paths of the machine that built them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::recipe::{Kind, Program, Recipe};
use crate::programs::artifacts;
use crate::workspace::{Workspace, cargo};
use crate::{ebpf, process, progress, remap};

/// Named, so that flags are for programs and not for what runs while they are built.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Tells the agent's build where the BPF object is.
const OBJECT: &str = "REDIRECT_EBPF_OBJECT";

/// Builds the recipe's programs; their files, in its order.
pub(super) fn build(workspace: &Workspace, recipe: &Recipe) -> Result<Vec<PathBuf>> {
    let object = ebpf::build(workspace)?;
    recipe.programs.iter().map(|program| build_one(workspace, program, &object)).collect()
}

fn build_one(workspace: &Workspace, program: &Program, object: &Path) -> Result<PathBuf> {
    let folder = match program.kind {
        Kind::Release => "image/release",
        Kind::Static => "image/static",
        Kind::Lab => return lab(workspace, program.package),
    };
    progress::say(format!("building {} for the image", program.package));
    let mut command = workspace.cargo();
    command.args(["build", "--locked", "--release", "--target", TARGET, "--bin", program.package]);
    command.args(["--package", program.package]).arg("--target-dir").arg(workspace.cache(folder)?);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(workspace, program.kind)?.join("\u{1f}")).env(OBJECT, object);
    let built = artifacts(&mut command)?;
    let found = built.into_iter().find(|artifact| artifact.name == program.package);
    found.map(|artifact| artifact.executable).with_context(|| format!("cargo built no {}", program.package))
}

/// As the guests have it.
fn lab(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let built = crate::programs::build(workspace)?;
    let found = built.tools.into_iter().find(|tool| tool.file_name().is_some_and(|file| file == name));
    found.with_context(|| format!("cargo built no {name}"))
}

fn flags(workspace: &Workspace, kind: Kind) -> Result<Vec<String>> {
    let mut flags = remap::flags(workspace)?;
    if kind == Kind::Static {
        flags.push("-Ctarget-feature=+crt-static".to_owned());
    }
    Ok(flags)
}

/// What is known of the packages that `package` is built of, by cargo.
pub(super) fn metadata(workspace: &Workspace, manifest: &str) -> Result<String> {
    let words =
        ["metadata", "--locked", "--format-version=1", "--filter-platform", TARGET, "--manifest-path", manifest];
    process::output(cargo().args(words).current_dir(workspace.root()))
}
