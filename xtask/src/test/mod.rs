//! `cargo xtask test`: every test there is, or a part of them by name. The last line is the sum; a test that was skipped, and
//! a suite without tests, are failures.

mod batch;
mod cluster;
pub(crate) mod host;
mod image;
mod kubernetes;
mod libtest;
mod matrix;
mod report;
mod resilience;
mod suites;
mod totals;
mod unit;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::matrix::{Equipment, Job};
use self::suites::{Breadth, Program, Suite, suites};
use self::totals::Totals;
use crate::kernels::{DEFAULT, MATRIX, Series};
use crate::workspace::Workspace;
use crate::{packages, programs, progress, setup, verifier};

/// What is asked for.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Which tests: one part after the other, and one sum
    #[arg(value_enum, default_value = "all")]
    parts: Vec<Part>,
    /// Only on these kernels, where guests are needed
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<Series>,
    /// Only suites whose name contains this (not for part unit)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    suite: String,
    /// Only nodes in this mode: iptables or ebpf (parts all, lab, vm, resilience and cluster; part kubernetes takes ebpf, if nothing is said)
    #[arg(long, value_name = "MODE", value_parser = ["iptables", "ebpf"])]
    mode: Option<String>,
    /// How long the API server stays away (part kubernetes)
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=300))]
    outage: u16,
    /// Takes the agent's image from this archive, and builds none (part cluster)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Everything as often as it is asked for, on every kernel; that takes hours (part resilience)
    #[arg(long)]
    long: bool,
    /// With --long: what is done over and over is shared among the four kernels, so that each mode has all of it once
    #[arg(long, requires = "long")]
    shared: bool,
    /// Writes what was measured to docs/resilience.md (part resilience)
    #[arg(long)]
    report: bool,
}

/// For one kernel with all suites in every way; two of them have the machine for three quarters of an hour.
const WHOLE: Duration = Duration::from_hours(2);

impl Arguments {
    fn suites<'a>(&self, tests: impl IntoIterator<Item = &'a Program>, breadth: Breadth) -> Vec<Suite> {
        suites(tests, breadth, self.mode.as_deref())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything but the image, Kubernetes and resilience, nothing twice, and the matrix without what only repeats it (see vm)
    All,
    /// Formatting, lints, licences, and the tests inside the crates
    Unit,
    /// The lab's suites, on the host as far as its kernel can, else in one guest
    Lab,
    /// The lab's suites on every kernel of the matrix, with both backends and topologies
    Vm,
    /// The agent's image: built twice, and the demo with what is in it, in a guest
    Image,
    /// The suites on a real Kubernetes API server, which is built the first time; that takes some minutes
    Kubernetes,
    /// A real cluster: its node is a guest with kubelet and containerd. All servers are built the first time
    Cluster,
    /// What breaks, restarts and replaces things under traffic, on two kernels of the matrix
    Resilience,
}

/// Runs them, and says by the exit code whether all is good. A part that fails does not keep the others from being run.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.parts.iter().all(|part| matches!(part, Part::Kubernetes | Part::Cluster)) {
        // They need no kernel, or one that they get themselves.
        packages::install(packages::BASE)?;
    } else {
        setup::run(workspace)?;
    }
    let (mut totals, mut good) = (Totals::default(), true);
    for part in &arguments.parts {
        let of_part = one(*part, workspace, arguments)?;
        if arguments.parts.len() > 1 {
            let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            progress::say(format!("part {name}: {of_part}"));
        }
        good &= of_part.are_good();
        totals += of_part;
    }
    progress::say(if good { "all is good" } else { "NOT all is good, see above" });
    println!("{totals}");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(part: Part, workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    match part {
        Part::Unit => unit::run(workspace),
        Part::Lab => lab(workspace, arguments),
        Part::Vm => vm(workspace, arguments),
        Part::Image => image::run(workspace, arguments.kernel.first().copied()),
        Part::Kubernetes => kubernetes::run(workspace, arguments),
        Part::Cluster => cluster::run(workspace, arguments),
        Part::Resilience => resilience::run(workspace, arguments),
        Part::All => all(workspace, arguments),
    }
}

fn lab(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    let built = programs::build(workspace)?;
    let tests = chosen(workspace, arguments)?;
    if host::has_geneve()? {
        return host::run(&built, &arguments.suites(&tests, Breadth::Usual));
    }
    let (nodes, anywhere): (Vec<_>, Vec<_>) = tests.iter().partition(|program| program.needs_node());
    let mut totals = host::run(&built, &arguments.suites(anywhere, Breadth::Usual))?;
    if !nodes.is_empty() {
        let job = Job {
            series: arguments.kernel.first().copied().unwrap_or(DEFAULT),
            suites: arguments.suites(nodes, Breadth::Usual),
            equipment: Equipment::default(),
        };
        totals += matrix::run(workspace, &built, &[job])?;
    }
    Ok(totals)
}

fn vm(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    let built = programs::build(workspace)?;
    let mut jobs = jobs(&chosen(workspace, arguments)?, arguments, Breadth::Matrix);
    for job in &mut jobs {
        job.equipment.deadline = WHOLE;
    }
    matrix::run(workspace, &built, &jobs)
}

/// What the verifier says, and on the host only what the matrix does not show: that the host's kernel can do it too.
fn all(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    let mut totals = unit::run(workspace)?;
    let built = programs::build(workspace)?;
    totals += Totals::one(verifier::holds(workspace, &built)?);
    let tests = chosen(workspace, arguments)?;
    let anywhere = tests.iter().filter(|program| !program.needs_node());
    totals += host::run(&built, &arguments.suites(anywhere, Breadth::Usual))?;
    totals += matrix::run(workspace, &built, &jobs(&tests, arguments, Breadth::Share))?;
    Ok(totals)
}

/// The tests that need no more than a kernel.
fn chosen(workspace: &Workspace, arguments: &Arguments) -> Result<Vec<Program>> {
    let tests = suites::build(workspace, "")?.into_iter();
    let apart =
        |program: &Program| program.needs_kubernetes() || program.is_for_worker() || program.is_for_resilience();
    let tests = tests.filter(|program| !apart(program));
    Ok(tests.filter(|program| program.is_like(&arguments.suite)).collect())
}

/// What each kernel of the matrix is to run. A kernel does the same whether or not the others are asked for too.
fn jobs(tests: &[Program], arguments: &Arguments, breadth: fn(usize) -> Breadth) -> Vec<Job> {
    let wanted = |series: &Series| arguments.kernel.is_empty() || arguments.kernel.contains(series);
    let kernels = MATRIX.into_iter().enumerate().filter(|(_, series)| wanted(series));
    let job = |(place, series)| Job {
        series,
        suites: arguments.suites(tests, breadth(place)),
        equipment: Equipment::default(),
    };
    kernels.map(job).collect()
}
