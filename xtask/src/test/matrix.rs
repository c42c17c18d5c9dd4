//! Suites in guests: each kernel boots once and runs them all. As many guests at a time as the host has processors, unless they are to have
//! them all, each with a log of its own.

use std::cmp::Reverse;
use std::fs::File;
use std::io::Write;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::batch::{Ended, Splitter, script};
use super::suites::Suite;
use super::totals::Totals;
use crate::guest::Guest;
use crate::kernels::{Kernel, Series};
use crate::process::tail;
use crate::programs::Programs;
use crate::progress;
use crate::workspace::Workspace;

/// Processors of each guest, and its memory, where nothing else is asked for. One that is alone has up to so many of the host's.
const CPUS: u8 = 1;
const MOST_CPUS: usize = 4;
const MEMORY_MB: u32 = 1024;
/// For one suite.
const SECONDS: u32 = 600;
/// For one kernel with its share of the suites. CI has the time for two of these one after the other.
const DEADLINE: Duration = Duration::from_mins(40);
/// How much of a failed suite's output is shown; the log has the rest.
const SHOWN_LINES: usize = 120;

/// What one kernel is to run.
pub(super) struct Job {
    pub(super) series: Series,
    pub(super) suites: Vec<Suite>,
    pub(super) equipment: Equipment,
}

/// What a guest has for its suites.
#[derive(Clone, Debug)]
pub(super) struct Equipment {
    pub(super) cpus: u8,
    pub(super) memory_mb: u32,
    /// One after another, with what processors the host has: for suites of many threads, which wait for one another.
    pub(super) alone: bool,
    /// Files and folders, below `/copy`.
    pub(super) copies: Vec<PathBuf>,
    /// For the suites' environment, beside their settings.
    pub(super) variables: Vec<(&'static str, String)>,
    /// Whether it has a network, behind which the host is.
    pub(super) network: bool,
    /// How long a suite may take.
    pub(super) seconds: u32,
    /// How long all of them may take.
    pub(super) deadline: Duration,
    /// What its logs are called, before the kernel.
    pub(super) log: String,
}

impl Default for Equipment {
    /// For one of many guests.
    fn default() -> Self {
        Self {
            cpus: CPUS,
            memory_mb: MEMORY_MB,
            alone: false,
            copies: Vec::new(),
            variables: Vec::new(),
            network: false,
            seconds: SECONDS,
            deadline: DEADLINE,
            log: "test".to_owned(),
        }
    }
}

/// Does all jobs.
pub(super) fn run(workspace: &Workspace, programs: &Programs, jobs: &[Job]) -> Result<Totals> {
    let get = |job: &Job| Kernel::get(workspace, job.series);
    let kernels = jobs.iter().map(get).collect::<Result<Vec<_>>>()?;
    let mut pairs: Vec<(&Job, &Kernel)> = jobs.iter().zip(&kernels).collect();
    // The longest first: the last one has the machine to itself, and leaves most of it idle.
    pairs.sort_by_key(|(job, _)| Reverse(job.suites.len()));
    let next = AtomicUsize::new(0);
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let alone = jobs.iter().any(|job| job.equipment.alone);
    let at_a_time = if alone { 1 } else { processors.min(pairs.len()).max(1) };
    let worker = || {
        let mut totals = Totals::default();
        while let Some((job, kernel)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            totals += one_kernel(workspace, kernel, programs, job, processors / at_a_time);
        }
        totals
    };
    let parts: Vec<Totals> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(worker)).collect();
        // A worker that panicked has counted nothing: that must not look like success.
        workers.into_iter().map(|worker| worker.join().unwrap_or(Totals::one(false))).collect()
    });
    Ok(parts.into_iter().sum())
}

/// `processors` are those that no other guest has.
fn one_kernel(workspace: &Workspace, kernel: &Kernel, programs: &Programs, job: &Job, processors: usize) -> Totals {
    let Job { suites, equipment, .. } = job;
    let name = kernel.series.name;
    let mut run = match Run::new(workspace, name, suites, &equipment.log) {
        Ok(run) => run,
        Err(error) => {
            progress::say(format!("kernel {name}: {error:#}"));
            return Totals::never_run(suites.len());
        }
    };
    progress::say(format!(
        "kernel {name} ({}): {} suites, log in {}",
        kernel.release,
        suites.len(),
        run.log_path.display()
    ));
    let mut copies: Vec<PathBuf> = suites.iter().map(|suite| suite.program.clone()).collect();
    copies.sort();
    copies.dedup();
    copies.extend(equipment.copies.iter().cloned());
    let script = script(suites, &equipment.variables, equipment.seconds);
    let guest = Guest::new(kernel.clone(), programs.clone(), script)
        .copy(copies)
        .cpus(equipment.cpus.max(u8::try_from(processors.min(MOST_CPUS)).unwrap_or(CPUS)))
        .memory_mb(equipment.memory_mb)
        .network(equipment.network)
        .deadline(equipment.deadline)
        .name(format!("{}-{name}", equipment.log));
    let outcome = guest.run(workspace, &mut |bytes| run.take(bytes));
    match outcome {
        Ok(outcome) => progress::say(format!("kernel {name}: done after {:.0} s", outcome.total.as_secs_f32())),
        Err(error) => progress::say(format!("kernel {name}: {error:#}")),
    }
    run.finish()
}

/// Where everything is that a kernel's guest writes.
pub(super) fn log_path(workspace: &Workspace, log: &str, kernel: &str) -> Result<PathBuf> {
    Ok(workspace.cache("vm/logs")?.join(format!("{log}-{kernel}.log")))
}

/// What is known of one kernel's suites.
struct Run<'a> {
    kernel: &'static str,
    suites: &'a [Suite],
    log: File,
    log_path: PathBuf,
    splitter: Splitter,
    since: Instant,
    ended: usize,
    totals: Totals,
}

impl<'a> Run<'a> {
    fn new(workspace: &Workspace, kernel: &'static str, suites: &'a [Suite], log: &str) -> Result<Self> {
        let log_path = log_path(workspace, log, kernel)?;
        let log = File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
        let (splitter, since) = (Splitter::default(), Instant::now());
        Ok(Self { kernel, suites, log, log_path, splitter, since, ended: 0, totals: Totals::default() })
    }

    fn take(&mut self, bytes: &[u8]) {
        // What decides is counted here; the log is for people.
        let _ = self.log.write_all(bytes);
        for ended in self.splitter.take(bytes) {
            self.end(&ended);
        }
    }

    fn end(&mut self, ended: &Ended) {
        let seconds = self.since.elapsed().as_secs_f32();
        self.since = Instant::now();
        self.ended += 1;
        self.totals += ended.totals;
        progress::say(format!(
            "kernel {} {}: {} in {seconds:.0} s",
            self.kernel,
            self.name(ended.number),
            ended.totals
        ));
        if !ended.totals.are_good() {
            progress::say(tail(&ended.output, SHOWN_LINES));
        }
    }

    /// Suites that did not come to their end have failed.
    fn finish(mut self) -> Totals {
        if let Some((number, output)) = self.splitter.unfinished() {
            let (name, output) = (self.name(number), tail(output, SHOWN_LINES));
            progress::say(format!("kernel {} {name}: did not end\n{output}", self.kernel));
        }
        self.totals += Totals::never_run(self.suites.len().saturating_sub(self.ended));
        self.totals
    }

    fn name(&self, number: usize) -> String {
        self.suites.get(number).map(Suite::to_string).unwrap_or_default()
    }
}
