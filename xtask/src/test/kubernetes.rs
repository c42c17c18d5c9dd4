//! The suites on a real Kubernetes: those about the API server alone on the host, and those of a node of it where there are
//! tunnels, on the host or, with the servers, in a guest.

use std::path::{Path, PathBuf};

use anyhow::Result;
use redirect_init::places;

use super::matrix::{self, Equipment, Job};
use super::suites::{self, Breadth, Program, Suite};
use super::totals::Totals;
use super::{Arguments, host};
use crate::kernels::DEFAULT;
use crate::workspace::Workspace;
use crate::{kubernetes, process, programs};

/// Environment variables that name the folder of the manifests, and say how long the API server stays away.
const DEPLOY: &str = "REDIRECT_DEPLOY";
const OUTAGE: &str = "REDIRECT_OUTAGE_SECONDS";
/// What speaks with the API server, and makes its keys. Guests have it only here.
const CLIENTS: [&str; 2] = ["curl", "openssl"];
/// The programs that a guest needs. Others are there too once a whole cluster has been asked for, and are large.
const SERVERS: [&str; 4] = ["etcd", "etcdctl", "kube-apiserver", "kubectl"];
/// It is the only guest.
const CPUS: u8 = 2;
/// The servers as files, and as processes.
const MEMORY_MB: u32 = 3072;
/// For a suite, beside the outage: an API server in a guest takes minutes to come up when the machine does something else too.
const SECONDS: u32 = 1200;

/// Runs them all.
pub(super) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    let servers = kubernetes::get(workspace, kubernetes::CONTROL_PLANE)?;
    let deploy = workspace.root().join("deploy");
    let built = programs::build(workspace)?;
    let tests = suites::build(workspace, "")?.into_iter().filter(Program::needs_kubernetes);
    let tests: Vec<Program> = tests.filter(|program| program.is_like(&arguments.suite)).collect();
    let (nodes, anywhere): (Vec<_>, Vec<_>) = tests.iter().partition(|program| program.needs_node());
    let outage = (OUTAGE, arguments.outage.to_string());
    let variables =
        [(kubernetes::VARIABLE, servers.display().to_string()), (DEPLOY, deploy.display().to_string()), outage.clone()];
    let mut totals = host::run_with(&built, &chosen(arguments, anywhere), &variables)?;
    let nodes = chosen(arguments, nodes);
    if nodes.is_empty() {
        return Ok(totals);
    }
    if host::has_geneve()? {
        totals += host::run_with(&built, &nodes, &variables)?;
    } else {
        let series = arguments.kernel.first().copied().unwrap_or(DEFAULT);
        let seconds = SECONDS + u32::from(arguments.outage);
        let equipment = Equipment { seconds, ..equipment(&servers, deploy, outage)? };
        totals += matrix::run(workspace, &built, &[Job { series, suites: nodes, equipment }])?;
    }
    Ok(totals)
}

/// In one mode: what a cluster tells the agent is the same in both.
fn chosen<'a>(arguments: &Arguments, tests: impl IntoIterator<Item = &'a Program>) -> Vec<Suite> {
    suites::suites(tests, Breadth::Usual, Some(arguments.mode.as_deref().unwrap_or("ebpf")))
}

fn equipment(servers: &Path, deploy: PathBuf, outage: (&'static str, String)) -> Result<Equipment> {
    let inside = |folder: &PathBuf| {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        format!("{}/{}", places::COPY, name.unwrap_or_default())
    };
    let variables = vec![(kubernetes::VARIABLE, places::COPY.to_owned()), (DEPLOY, inside(&deploy)), outage];
    let mut copies = vec![deploy];
    copies.extend(SERVERS.map(|program| servers.join(program)));
    for client in CLIENTS {
        copies.push(process::find(client)?);
    }
    Ok(Equipment { cpus: CPUS, memory_mb: MEMORY_MB, copies, variables, ..Equipment::default() })
}
