//! A real cluster: its control plane on the host's loopback address, its node a guest. Each suite has a cluster of its own, and
//! makes a node of the guest itself (`redirect_lab::worker`); here everything is put in place for it.

mod image;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::image::LAB;
use super::Arguments;
use super::matrix::{self, Equipment, Job};
use super::suites::{self, Breadth, Program, Suite};
use super::totals::Totals;
use crate::guest::folder::RunFolder;
use crate::kernels::{DEFAULT, Series};
use crate::kubernetes::{self, ControlPlane};
use crate::programs::{self, Programs};
use crate::workspace::Workspace;
use crate::{packages, process, progress};

/// What a node runs, of the servers.
const SERVERS: [&str; 3] = ["kubelet", "kube-proxy", "kubectl"];
const RUNTIME: [&str; 4] = ["containerd", "containerd-shim-runc-v2", "ctr", "runc"];
/// Of the host; the guest speaks with the API server by it.
const TOOLS: [&str; 1] = ["curl"];
const CPUS: u8 = 2;
const MEMORY_MB: u32 = 3584;
const SECONDS: u32 = 1500;

/// Runs all suites for workers on each kernel that is asked for.
pub(super) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    packages::install(packages::KUBERNETES)?;
    let servers = kubernetes::get(workspace, kubernetes::CLUSTER)?;
    let runtime = kubernetes::runtime()?;
    let programs = programs::build(workspace)?;
    let tests = suites::build(workspace, suites::WORKER)?.into_iter().filter(Program::is_for_worker);
    let tests: Vec<Program> = tests.filter(|program| program.is_like(&arguments.suite)).collect();
    let suites = arguments.suites(&tests, Breadth::Usual);
    let images = RunFolder::new(workspace)?;
    let parts = Parts {
        images: &write_images(workspace, &programs, arguments.image.as_deref(), images.path())?,
        servers: &servers,
        runtime: &runtime,
        programs: &programs,
    };
    let default: &[Series] = &[DEFAULT];
    let kernels = if arguments.kernel.is_empty() { default } else { &arguments.kernel };
    let mut totals = Totals::default();
    for series in kernels {
        for suite in &suites {
            totals += one(workspace, *series, suite, &parts).unwrap_or_else(|error| {
                progress::say(format!("{suite}: {error:#}"));
                Totals::never_run(1)
            });
        }
    }
    Ok(totals)
}

/// What every cluster is made of.
struct Parts<'a> {
    programs: &'a Programs,
    servers: &'a Path,
    runtime: &'a Path,
    images: &'a Path,
}

fn one(workspace: &Workspace, series: Series, suite: &Suite, parts: &Parts<'_>) -> Result<Totals> {
    let folder = RunFolder::new(workspace)?;
    let node_files = folder.path().join("node-files");
    fs::create_dir(&node_files).context("make a folder")?;
    let _control_plane = ControlPlane::start(parts.programs, parts.servers, &node_files)?;
    let mut copies = vec![node_files, parts.images.to_owned(), workspace.root().join("deploy")];
    copies.extend(SERVERS.map(|program| parts.servers.join(program)));
    copies.extend(RUNTIME.map(|program| parts.runtime.join(program)));
    copies.extend(TOOLS.iter().map(|program| process::find(program)).collect::<Result<Vec<_>>>()?);
    let equipment = Equipment {
        cpus: CPUS,
        memory_mb: MEMORY_MB,
        copies,
        network: true,
        seconds: SECONDS,
        log: format!("cluster-{}", suite.setting.mode()),
        ..Equipment::default()
    };
    matrix::run(workspace, parts.programs, &[Job { series, suites: vec![suite.clone()], equipment }])
}

/// The images that a node is given, as archives.
fn write_images(workspace: &Workspace, programs: &Programs, given: Option<&Path>, folder: &Path) -> Result<PathBuf> {
    let agent = match given {
        Some(archive) => archive.to_owned(),
        None => crate::image::agent(workspace)?.path,
    };
    let images = folder.join("images");
    fs::create_dir(&images).context("make a folder")?;
    fs::copy(&agent, images.join("agent.tar")).with_context(|| format!("copy {}", agent.display()))?;
    image::write(&image::lab(programs)?, LAB, folder, &images.join("lab.tar"))?;
    Ok(images)
}
