//! The loop: observe, plan, apply, read back. Woken by sources, by netlink and by a timer; what failed stays pending and is
//! tried again.
//!
//! It runs on one thread of its own, because a network namespace belongs to a thread and because nothing here may run twice
//! at once.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::bpf::Bpf;
use crate::cni::attachments::Attachments;
use crate::config::Config;
use crate::config::Mode;
use crate::enrol::{Cluster, PodVerdict};
use crate::facts::Facts;
use crate::kernel::netns::Netns;
use crate::plan::Plan;
use crate::proxy::Proxy;
use crate::record::Record;
use crate::resources::chain::backend::{self, Backend, Detected};
use crate::resources::ledger::{Ledger, Problem, Writes};
use crate::sources::{Health, Snapshots};
use crate::status::Status;

pub(crate) mod apply;
mod attempt;
pub(crate) mod cleanup;
mod datapath;
pub(crate) mod doorbell;
mod events;
mod rehearsal;
mod report;
mod trace;

use doorbell::{Cause, Doorbell, Ring};

/// How long events gather before they are acted on: one change of the node comes as a burst of them. A pod that waits to start
/// is not kept waiting by it.
const GATHER: Duration = Duration::from_millis(5);
/// A neighbour that never stops changing the node costs us at most this share of a core's time.
const PACE: Duration = Duration::from_millis(50);
/// How many runs a guessed backend is kept before it is looked at again.
const RECONSIDER: u64 = 10;
/// After a failure the next try comes no later than this, and sooner at first.
const RETRY: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// The proxy that is programmed, with its namespace held open.
struct Programmed {
    proxy: Proxy,
    netns: Netns,
    /// Follows the namespace's netlink; ends with this.
    _events: events::Watch,
}

/// What must stand everywhere.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Plans {
    node: Plan,
    proxy: Plan,
}

/// How the loop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The datapath stands.
    Stopped,
    /// Nothing of ours stands any more, as far as it could be taken away.
    CleanedUp,
}

/// The loop's state.
pub(crate) struct Reconciler {
    config: Config,
    snapshots: Snapshots,
    /// How the source of the snapshots fares.
    health: watch::Receiver<Health>,
    doorbell: Arc<Doorbell>,
    status: watch::Sender<Status>,
    node: Netns,
    _node_events: events::Watch,
    record: Record,
    /// What the CNI plugin has said.
    attachments: Attachments,
    backend: Backend,
    /// Neither configured nor said by Kubernetes: looked at again now and then.
    backend_is_certain: bool,
    /// The mode in force.
    mode: Mode,
    /// Why it is not the one that was asked for.
    fallback: Option<String>,
    bpf: Option<RefCell<Bpf>>,
    trace: trace::Trace,
    programmed: Option<Programmed>,
    /// The node as the last whole run found it.
    facts: Option<Facts>,
    /// The pods, as that run judged them.
    cluster: Cluster,
    /// What stood at the end of the last run that needed nothing more.
    settled: Option<Plans>,
    /// What the last run that looked found worth telling.
    notes: Vec<Problem>,
    totals: Writes,
    repairs: Writes,
    reconciles: u64,
    failures: usize,
}

impl Reconciler {
    /// Opens the node's namespace and reads the record. Nothing is written yet.
    pub(crate) fn new(
        config: Config,
        snapshots: Snapshots,
        health: watch::Receiver<Health>,
        attachments: Attachments,
        doorbell: Arc<Doorbell>,
        status: watch::Sender<Status>,
    ) -> anyhow::Result<Self> {
        let node = Netns::current()?;
        let record = Record::open(&config.state_dir, node.id())?;
        let detected = match config.backend {
            Some(backend) => Detected { backend, certain: true },
            None => backend::detect().context("find out which iptables the host uses")?,
        };
        let (bpf, fallback) = datapath::start(&config)?;
        let mode = if bpf.is_some() { Mode::Ebpf } else { Mode::Iptables };
        let events = events::watch(&node, &doorbell)?;
        Ok(Self {
            config,
            snapshots,
            health,
            doorbell,
            status,
            node,
            _node_events: events,
            record,
            attachments,
            backend: detected.backend,
            backend_is_certain: detected.certain,
            mode,
            fallback,
            bpf: bpf.map(RefCell::new),
            trace: trace::Trace::default(),
            programmed: None,
            facts: None,
            cluster: Cluster::default(),
            settled: None,
            notes: Vec::new(),
            totals: Writes::default(),
            repairs: Writes::default(),
            reconciles: 0,
            failures: 0,
        })
    }

    /// Runs until it is told to stop. The datapath stays, unless the last order was to clean up.
    pub(crate) fn run(mut self) -> anyhow::Result<End> {
        let mut cause = Cause::Anything;
        let mut read_back = Instant::now();
        loop {
            let begun = Instant::now();
            // Events that look at a part must not put off the look at the whole: ipset and legacy iptables tell nothing.
            if read_back.elapsed() >= self.config.resync {
                cause = Cause::Anything;
            }
            if cause == Cause::Anything {
                read_back = begun;
            }
            self.reconcile(cause);
            let timeout = match self.failures {
                0 => self.config.resync.saturating_sub(read_back.elapsed()),
                failed => RETRY[failed.min(RETRY.len()) - 1].min(self.config.resync),
            };
            match self.doorbell.wait(timeout) {
                Ring::Stop => return Ok(End::Stopped),
                Ring::Cleanup(answer) => {
                    let outcome = cleanup::everything(
                        &mut self.node,
                        self.record,
                        self.programmed.map(|p| p.netns),
                        &self.config.bpf_dir,
                    );
                    self.status.send_modify(|status| status.pods.iter_mut().for_each(PodVerdict::take_out));
                    let _ = answer.send(outcome);
                    return Ok(End::CleanedUp);
                }
                Ring::Changed(what) => {
                    cause = what;
                    self.doorbell.gather(GATHER.max(PACE.saturating_sub(begun.elapsed())));
                }
                Ring::Timeout => cause = Cause::Anything,
            }
        }
    }

    fn reconcile(&mut self, cause: Cause) {
        // What rang while the events gathered is looked at by this run too.
        let (rung, hurry) = self.doorbell.clear();
        let cause = cause.max(rung);
        if hurry && cause == Cause::Anything && self.settled.is_some() {
            // A pod that waits to start does not wait for a look at all rules of the node, which takes seconds where there are many.
            self.once(Cause::Routing);
        }
        self.once(cause);
    }

    /// One run, and what there is to say of it.
    fn once(&mut self, cause: Cause) {
        let mut ledger = Ledger::default();
        let outcome = self.attempt(cause, &mut ledger);
        self.reconciles += 1;
        self.totals.add(&ledger.writes);
        let plans = match outcome {
            Ok(Some(plans)) => Some(plans),
            Ok(None) => {
                ledger.problem("source", "the first complete list of pods is not there yet; nothing is changed");
                None
            }
            Err(error) => {
                ledger.problem("node", format!("{error:#}"));
                None
            }
        };
        if self.settled.is_some() && self.settled == plans {
            self.repairs.add(&ledger.writes);
        }
        self.settled = plans.filter(|_| ledger.problems.is_empty());
        self.failures = if self.settled.is_some() { 0 } else { self.failures + 1 };
        if let Some(notes) = ledger.notes {
            self.notes = notes;
        }
        self.publish(ledger.problems);
    }

    /// Whether an interface of the node leads to `ip`.
    fn plumbed(&self, ip: std::net::IpAddr) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.device_of(ip).is_some())
    }

    fn publish(&self, mut problems: Vec<Problem>) {
        // They are the source's, not the datapath's: it is as ready as it was.
        problems.extend(self.health.borrow().problems.iter().cloned());
        let status = report::status(self, problems);
        report::log(&self.status.borrow(), &status);
        self.status.send_replace(status);
    }
}
