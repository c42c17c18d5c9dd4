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
use crate::resources::blocked::{self, Blocked, Packets};
use crate::resources::chain::backend::{self, Backend, Detected};
use crate::resources::ledger::{Ledger, Problem, Writes};
use crate::resources::program::Obstacle;
use crate::sources::{Health, Snapshots};
use crate::status::Status;

pub(crate) mod apply;
mod attempt;
pub(crate) mod cause;
pub(crate) mod cleanup;
mod datapath;
pub(crate) mod doorbell;
mod events;
mod fights;
mod first;
pub(crate) mod heart;
mod loss;
mod pins;
mod programs;
mod rehearsal;
pub(crate) mod repairs;
mod report;
mod rollout;
mod schedule;
mod scope;
mod seen;
mod trace;

use apply::Place;
use cause::Cause;
use doorbell::{Doorbell, Ring};
use schedule::{Part, Schedule};
use seen::Seen;

/// How long events gather before they are acted on: one change of the node comes as a burst of them. A pod that waits to start
/// is not kept waiting by it.
const GATHER: Duration = Duration::from_millis(5);
/// From the begin of one run to that of the next, at least, where a neighbour never stops changing the node.
const PACE: Duration = Duration::from_millis(50);
/// How long a guessed backend is kept before it is looked at again.
const RECONSIDER: Duration = Duration::from_secs(10);
/// After a failure the next try comes this much later; one that fails for good is tried less often where a run takes long (`pause`).
const RETRY: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// What fails for good and takes long is tried no more often than it has to, and no less often than this.
const LONG_PAUSE: Duration = Duration::from_secs(10);

/// The proxy that is programmed, with its namespace held open.
struct Programmed {
    proxy: Proxy,
    netns: Netns,
    /// What of nftables was found right in there.
    seen: Seen,
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
    /// What of nftables was found right in there.
    node_seen: Seen,
    _node_events: events::Watch,
    /// In ebpf mode.
    pins: Option<pins::Watch>,
    record: Record,
    /// What the CNI plugin has said.
    attachments: Attachments,
    backend: Backend,
    /// Neither configured nor said by Kubernetes: looked at again now and then.
    backend_is_certain: bool,
    /// When that was.
    reconsidered: Instant,
    /// The mode in force.
    mode: Mode,
    /// Why it is not the one that was asked for.
    fallback: Option<String>,
    /// What on the node is the reason, if it is that.
    obstacle: Option<Obstacle>,
    /// How often it was tried.
    tries: datapath::Tries,
    bpf: Option<RefCell<Bpf>>,
    trace: trace::Trace,
    programmed: Option<Programmed>,
    /// The namespace of the one before it, while that drains: held open, so that it is nobody else's.
    draining: Option<Netns>,
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
    /// What the programs have counted.
    packets: Packets,
    blocked: Blocked,
    /// What the timer looks at, and when.
    schedule: Schedule,
    /// What it looks at in the run that is under way.
    part: Option<Part>,
    /// The last run left that for what had rung.
    yielded: bool,
    /// Events that can wait while something is fought over.
    later: fights::Later,
    /// What stood at the end of the last run that needed nothing more, whatever has happened since.
    stood: Option<repairs::Stood>,
    last_repairs: repairs::Last,
    fights: fights::Fights,
    reconciles: u64,
    failures: usize,
    /// The last run.
    took: Duration,
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
        let _beat = heart::begin();
        let node = Netns::current()?;
        let record = Record::open(&config.state_dir, node.id())?;
        let detected = match config.backend {
            Some(backend) => Detected { backend, certain: true },
            None => backend::detect().context("find out which iptables the host uses")?,
        };
        let (bpf, fallback) = datapath::start(&config)?;
        let mode = if bpf.is_some() { Mode::Ebpf } else { Mode::Iptables };
        let events = events::watch(&node, Place::Node, &doorbell)?;
        let schedule = Schedule::new(config.resync, Instant::now());
        let pins = bpf.is_some().then(|| pins::watch(&config.bpf_dir, &doorbell)).flatten();
        Ok(Self {
            config,
            snapshots,
            health,
            doorbell,
            status,
            node,
            node_seen: Seen::default(),
            _node_events: events,
            pins,
            record,
            attachments,
            backend: detected.backend,
            backend_is_certain: detected.certain,
            reconsidered: Instant::now(),
            mode,
            fallback,
            obstacle: None,
            tries: datapath::Tries::begin(),
            bpf: bpf.map(RefCell::new),
            trace: trace::Trace::default(),
            programmed: None,
            draining: None,
            facts: None,
            cluster: Cluster::default(),
            settled: None,
            notes: Vec::new(),
            totals: Writes::default(),
            repairs: Writes::default(),
            packets: Packets::new(),
            blocked: Blocked::default(),
            schedule,
            part: None,
            yielded: false,
            later: fights::Later::default(),
            stood: None,
            last_repairs: repairs::Last::default(),
            fights: fights::Fights::default(),
            reconciles: 0,
            failures: 0,
            took: Duration::ZERO,
        })
    }

    /// Runs until it is told to stop. The datapath stays, unless the last order was to clean up.
    pub(crate) fn run(mut self) -> anyhow::Result<End> {
        let mut cause = Cause::ANYTHING;
        loop {
            let begun = Instant::now();
            cause = cause | self.later.take(begun, self.fights.rest(begun).1);
            self.part = self.next_part(cause, begun);
            let whole = self.settled.is_none();
            self.reconcile(cause | self.part.map_or(Cause::NOTHING, Part::cause));
            self.took = begun.elapsed();
            if whole || self.settled.is_none() {
                // What does not stand is looked at whole.
                self.schedule.all_done(Instant::now());
            } else if let Some(part) = self.part {
                self.schedule.done(part, begun, Instant::now());
            }
            match self.doorbell.wait(self.timeout()) {
                Ring::Stop => return Ok(End::Stopped),
                Ring::Cleanup(answer) => {
                    let _beat = heart::begin();
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
                    let now = Instant::now();
                    let (fought_over, rest) = self.fights.rest(now);
                    if self.schedule.due(now).is_none() && fought_over.includes(cause) {
                        self.doorbell.gather_while(rest, fought_over);
                    } else {
                        cause = self.put_off(cause);
                    }
                }
                Ring::Timeout => cause = Cause::NOTHING,
            }
        }
    }

    /// What of the timer's look is done beside what has rung: nothing, but every other time, so that who rings waits for one part at most
    /// and never keeps the rest from being looked at; ipset and legacy iptables tell nothing.
    fn next_part(&mut self, rung: Cause, now: Instant) -> Option<Part> {
        self.yielded = rung != Cause::NOTHING && !self.yielded;
        if self.yielded { None } else { self.schedule.due(now) }
    }

    /// How long nothing needs to be done if nobody rings.
    fn timeout(&self) -> Duration {
        let now = Instant::now();
        let usual = match self.failures {
            0 => self.schedule.wait(now).min(self.drain_wait()),
            failed => self.pause(failed),
        };
        self.later.wait(now, self.fights.rest(now).1).map_or(usual, |put_off| put_off.min(usual))
    }

    /// Before the next try after so many that failed. What fails for good is looked at whole each time, and gets a quarter of a processor.
    fn pause(&self, failed: usize) -> Duration {
        let pause = RETRY[failed.min(RETRY.len()) - 1].min(self.config.resync);
        if failed > RETRY.len() { pause.max((self.took * 3).min(LONG_PAUSE)) } else { pause }
    }

    fn reconcile(&mut self, cause: Cause) {
        // What rang while the events gathered is looked at by this run too.
        let (rung, hurry) = self.doorbell.clear();
        let cause = cause | if hurry { rung } else { self.put_off(rung) };
        if hurry && !Cause::WANTED.includes(cause) && self.settled.is_some() {
            // A pod that waits to start does not wait for a look at all rules of the node, which takes seconds where there are many.
            self.once(Cause::WANTED);
        }
        self.once(cause);
    }

    /// What of it cannot wait: all, or nothing if it is only about what is fought over, and was just put back.
    fn put_off(&mut self, cause: Cause) -> Cause {
        let now = Instant::now();
        if !self.fights.rest(now).0.includes(cause) {
            return cause;
        }
        self.later.put(cause, now);
        Cause::NOTHING
    }

    /// One run, and what there is to say of it.
    fn once(&mut self, cause: Cause) {
        let _beat = heart::begin();
        let stood_routes = self.stood.as_ref().map(repairs::Stood::routes).unwrap_or_default();
        let mut ledger = Ledger { stood_routes, fought_over: self.fights.objects(), ..Ledger::default() };
        let outcome = self.attempt(cause, &mut ledger);
        if let Some(pins) = &mut self.pins {
            pins.renew();
        }
        // Of the timer's, those that end a round count, and those that look at everything because something does not stand.
        let counts = |part| self.settled.is_none() || self.schedule.ends_with(part);
        self.reconciles += u64::from(self.part.is_none_or(counts));
        self.totals.add(&ledger.writes);
        self.count_packets(&ledger);
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
        if let Some(plans) = &plans {
            self.tell_repairs(plans, &ledger);
        }
        self.settled = plans.filter(|_| ledger.problems.is_empty());
        if let Some(obstacle) = ledger.obstacles.pop() {
            self.fall_back(obstacle);
        }
        self.failures = if self.settled.is_some() { 0 } else { self.failures + 1 };
        if let Some(notes) = ledger.notes {
            self.notes = notes;
        }
        self.publish(ledger.problems);
    }

    /// Reads what the programs count, and adds up what all counters say.
    fn count_packets(&mut self, ledger: &Ledger) {
        self.packets = self.bpf.as_ref().map(|bpf| counts(&bpf.borrow())).unwrap_or_default();
        let readings = ledger.blocked.iter().copied().chain(blocked::of_programs(&self.packets));
        readings.for_each(|reading| self.blocked.add(reading));
    }

    /// Whether an interface of the node leads to `ip`.
    fn plumbed(&self, ip: std::net::IpAddr) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.device_of(ip).is_some())
    }

    fn publish(&self, mut problems: Vec<Problem>) {
        // They are the source's, and others', not the datapath's: it is as ready as it was.
        problems.extend(self.health.borrow().problems.iter().cloned());
        problems.extend(self.fights.problems());
        let status = report::status(self, problems);
        report::log(&self.status.borrow(), &status);
        self.status.send_replace(status);
    }
}

fn counts(bpf: &Bpf) -> Packets {
    bpf.counts().unwrap_or_else(|error| {
        tracing::debug!(error = format!("{error:#}"), "the counters cannot be read");
        Packets::new()
    })
}
