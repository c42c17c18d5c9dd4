//! `cargo xtask image`: an OCI image without a Docker engine. A root of Debian packages (or a base from a registry), our
//! programs as users build them, and every licence; put together by buildah, and the same bytes each time.

pub(crate) mod archive;
mod builder;
mod crates;
mod date;
mod debian;
mod programs;
mod recipe;
mod root;
pub(crate) mod unpacked;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::stat::{Mode, umask};

use crate::workspace::Workspace;
use crate::{lock, packages, progress};
pub(crate) use archive::Archive;
use recipe::{AGENT, LAB, Recipe};

/// What an image may have, unpacked: it is pulled by every node of a cluster.
pub(crate) const LIMIT: u64 = 120 << 20;

/// What is asked for.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Puts the programs on this image instead of on packages of our own: REGISTRY/IMAGE, or what else buildah can read
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
    /// The image's name, with a tag [default: docker.io/library/redirect-agent:VERSION]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Builds the image of the lab's programs, with the stand-in for ztunnel, for tests in a cluster
    #[arg(long)]
    lab: bool,
}

/// Builds it, and prints where it is and what it is called.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let recipe = if arguments.lab { &LAB } else { &AGENT };
    let archive = build(workspace, recipe, arguments.base.as_deref(), arguments.name.as_deref())?;
    println!("{}\n{}\n{}", archive.path.display(), archive.name, archive.digest);
    Ok(ExitCode::SUCCESS)
}

/// The agent's image, as it is released.
pub(crate) fn agent(workspace: &Workspace) -> Result<Archive> {
    build(workspace, &AGENT, None, None)
}

fn build(workspace: &Workspace, recipe: &Recipe, base: Option<&str>, name: Option<&str>) -> Result<Archive> {
    packages::install(packages::BASE)?;
    packages::install(packages::IMAGE)?;
    let folder = workspace.cache("image")?;
    let _lock = lock::Lock::take(&folder.join("lock"))?;
    let files = programs::build(workspace, recipe)?;
    // Of the folders that we make; the rest say what they have.
    umask(Mode::from_bits_truncate(0o022));
    let root = folder.join("root");
    clear(&root)?;
    if base.is_none() {
        debian::unpack(&workspace.cache("image/apt")?, &workspace.cache("image/packages")?, &root)?;
    }
    root::add(&root, recipe, &files)?;
    crates::add(workspace, recipe, &root)?;
    // What a runtime takes `redirect-agent:VERSION` for, as `deploy/` has it.
    let default = format!("docker.io/library/{}:{}", recipe.name, env!("CARGO_PKG_VERSION"));
    let order = builder::Order {
        folder: &folder,
        root: &root,
        recipe,
        base,
        name: name.unwrap_or(&default),
        date: date::of(workspace)?,
    };
    let archive = builder::commit(&order)?;
    let size = archive.size;
    progress::say(format!("{}: {:.1} MB unpacked, {}", archive.name, megabytes(size), archive.digest));
    ensure!(size <= LIMIT, "the image has {:.1} MB, more than {:.0}", megabytes(size), megabytes(LIMIT));
    Ok(archive)
}

/// For people.
pub(crate) fn megabytes(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

/// An empty folder.
fn clear(folder: &PathBuf) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}
