//! The loop: observe, plan, apply, read back. Woken by sources, by netlink and by a timer; what failed stays pending and is
//! tried again.
//!
//! It runs on one thread of its own, because a network namespace belongs to a thread and because nothing here may run twice
//! at once.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::config::Config;
use crate::enrol::{self, Cluster};
use crate::facts::{self, Facts};
use crate::kernel::netns::Netns;
use crate::plan::{self, Inputs, Plan};
use crate::proxy::{self, Proxy};
use crate::record::Record;
use crate::resources::chain::backend::{self, Backend};
use crate::resources::ledger::{Ledger, Problem, Writes};
use crate::sources::Snapshots;
use crate::status::Status;

pub(crate) mod apply;
pub(crate) mod cleanup;
pub(crate) mod doorbell;
mod events;
mod report;

use apply::{Place, Scope, Task};
use doorbell::{Cause, Doorbell, Ring};

/// How long events gather before they are acted on: one change of the node comes as a burst of them.
const GATHER: Duration = Duration::from_millis(5);
/// A neighbour that never stops changing the node costs us at most this share of a core's time.
const PACE: Duration = Duration::from_millis(50);
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

/// The loop's state.
pub(crate) struct Reconciler {
    config: Config,
    snapshots: Snapshots,
    doorbell: Arc<Doorbell>,
    status: watch::Sender<Status>,
    node: Netns,
    _node_events: events::Watch,
    record: Record,
    backend: Backend,
    programmed: Option<Programmed>,
    /// The node as the last run found it.
    facts: Option<Facts>,
    /// What stood at the end of the last run that needed nothing more.
    settled: Option<Plans>,
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
        doorbell: Arc<Doorbell>,
        status: watch::Sender<Status>,
    ) -> anyhow::Result<Self> {
        let node = Netns::current()?;
        let record = Record::open(&config.state_dir, node.id())?;
        let backend = match config.backend {
            Some(backend) => backend,
            None => backend::detect().context("find out which iptables the host uses")?,
        };
        let events = events::watch(&node, &doorbell)?;
        Ok(Self {
            config,
            snapshots,
            doorbell,
            status,
            node,
            _node_events: events,
            record,
            backend,
            programmed: None,
            facts: None,
            settled: None,
            totals: Writes::default(),
            repairs: Writes::default(),
            reconciles: 0,
            failures: 0,
        })
    }

    /// Runs until it is told to stop. The datapath stays, unless the last order was to clean up.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let mut cause = Cause::Anything;
        loop {
            let begun = Instant::now();
            self.reconcile(cause);
            let timeout = match self.failures {
                0 => self.config.resync,
                failed => RETRY[failed.min(RETRY.len()) - 1].min(self.config.resync),
            };
            match self.doorbell.wait(timeout) {
                Ring::Stop => return Ok(()),
                Ring::Cleanup(answer) => {
                    let outcome = cleanup::everything(&mut self.node, self.record, self.programmed.map(|p| p.netns));
                    let _ = answer.send(outcome);
                    return Ok(());
                }
                Ring::Changed(what) => {
                    cause = what;
                    std::thread::sleep(GATHER.max(PACE.saturating_sub(begun.elapsed())));
                }
                Ring::Timeout => cause = Cause::Anything,
            }
        }
    }

    fn reconcile(&mut self, cause: Cause) {
        // What rang while the events gathered is looked at by this run too.
        let cause = cause.max(self.doorbell.clear());
        let mut ledger = Ledger::default();
        let outcome = self.attempt(cause, &mut ledger);
        self.reconciles += 1;
        self.totals.add(&ledger.writes);
        let (cluster, plans) = match outcome {
            Ok(Some(done)) => done,
            Ok(None) => {
                self.publish_waiting();
                return;
            }
            Err(error) => {
                ledger.problem("node", format!("{error:#}"));
                (None, None)
            }
        };
        let complete = ledger.problems.is_empty() && plans.is_some();
        if self.settled.is_some() && self.settled == plans {
            self.repairs.add(&ledger.writes);
        }
        self.failures = if complete { 0 } else { self.failures + 1 };
        self.settled = plans.filter(|_| complete);
        self.publish(cluster, &ledger);
    }

    /// One run. `None` before the first complete snapshot: until then what stands is right.
    #[allow(clippy::type_complexity, reason = "the two halves of one result, taken apart at the only caller")]
    fn attempt(
        &mut self,
        cause: Cause,
        ledger: &mut Ledger,
    ) -> anyhow::Result<Option<(Option<Cluster>, Option<Plans>)>> {
        let Some(snapshot) = self.snapshots.borrow_and_update().clone() else { return Ok(None) };
        let facts = Facts::observe(&mut self.node)?;
        let cluster = enrol::decide(
            &snapshot,
            &enrol::Rules {
                node_name: &self.config.node_name,
                proxy_namespace: &self.config.proxy_namespace,
                node_addresses: &facts.addresses,
            },
        );
        let node_ip = self.node_ip(&cluster, &facts, ledger);
        self.release_ended(&cluster);
        let next = self.next_proxy(&cluster, ledger);
        let plans = self.converge(cause, &facts, &cluster, node_ip, next, ledger)?;
        self.clean_retired(ledger);
        self.facts = Some(facts);
        Ok(Some((Some(cluster), Some(plans))))
    }

    /// The node's address that tunnels end at: configured, else what the pods' status says, else what it was.
    fn node_ip(&self, cluster: &Cluster, facts: &Facts, ledger: &mut Ledger) -> Option<Ipv4Addr> {
        let ip = self.config.node_ip.or(cluster.host_ip).or(self.record.node_ip())?;
        if facts.addresses.contains(&ip.into()) {
            return Some(ip);
        }
        let message = format!("{ip} is not an address of this node; set the right one with --node-ip");
        ledger.problem("node address", message);
        self.record.node_ip()
    }

    /// Lets go of the namespace of a proxy whose pod is gone: holding it open would keep it, and its veth, alive.
    fn release_ended(&mut self, cluster: &Cluster) {
        let there = |programmed: &Programmed| cluster.pods.iter().any(|pod| pod.uid == programmed.proxy.uid);
        self.programmed = self.programmed.take().filter(there);
    }

    /// The proxy to program now, when it is another than the one that is programmed.
    fn next_proxy(&mut self, cluster: &Cluster, ledger: &mut Ledger) -> Option<Programmed> {
        let pod = cluster.proxy.as_ref()?;
        if let Some(current) = &mut self.programmed
            && current.proxy.uid == pod.uid
            && current.proxy.ip == pod.ip
            && proxy::still_there(&mut self.node, &mut current.netns, &current.proxy).unwrap_or_default()
        {
            return None;
        }
        let located = proxy::locate(&mut self.node, pod).and_then(|(proxy, netns)| {
            let events = events::watch(&netns, &self.doorbell)?;
            Ok(Programmed { proxy, netns, _events: events })
        });
        match located {
            Ok(programmed) => Some(programmed),
            Err(error) => {
                ledger.problem(format!("pod {}/{}", pod.namespace, pod.name), format!("{error:#}"));
                None
            }
        }
    }

    /// Brings the kernel to the plan: ztunnel's side first, and the node towards a new ztunnel only when that is whole.
    fn converge(
        &mut self,
        cause: Cause,
        facts: &Facts,
        cluster: &Cluster,
        node_ip: Option<Ipv4Addr>,
        next: Option<Programmed>,
        ledger: &mut Ledger,
    ) -> anyhow::Result<Plans> {
        let another = next.is_some();
        let mut candidate = next.or_else(|| self.programmed.take());
        let present = cluster.proxy.is_some() && candidate.is_some();
        let mut plans = Plans::default();
        if let Some(programmed) = candidate.as_mut().filter(|_| present) {
            let inputs = self.inputs(facts, cluster, node_ip, Some(programmed))?;
            plans.proxy = plan::proxy(&inputs);
            let before = ledger.problems.len();
            let same = self.settled.as_ref().is_some_and(|settled| settled.proxy.same_filter(&plans.proxy));
            let scope = if same && !another { cause.scope() } else { Scope::Everything };
            let task = Task { plan: &plans.proxy, place: Place::Proxy, backend: self.backend, scope };
            apply::settle(&mut programmed.netns, &mut self.record, ledger, task);
            if ledger.problems.len() > before && self.record.proxy() != Some(&programmed.proxy) {
                // The node stays with the former one; this one is tried again.
                candidate = self.programmed.take();
            }
        }
        if let Some(programmed) = candidate.as_ref().filter(|_| present) {
            self.record.set_proxy(&programmed.proxy, node_ip)?;
        }
        let inputs = self.inputs(facts, cluster, node_ip, candidate.as_mut())?;
        plans.node = plan::node(&inputs);
        self.change_backend(ledger)?;
        let same = self.settled.as_ref().is_some_and(|settled| settled.node.same_filter(&plans.node));
        let scope = if same { cause.scope() } else { Scope::Everything };
        let task = Task { plan: &plans.node, place: Place::Node, backend: self.backend, scope };
        apply::settle(&mut self.node, &mut self.record, ledger, task);
        self.programmed = candidate;
        Ok(plans)
    }

    fn inputs<'a>(
        &'a self,
        facts: &'a Facts,
        cluster: &'a Cluster,
        node_ip: Option<Ipv4Addr>,
        programmed: Option<&'a mut Programmed>,
    ) -> anyhow::Result<Inputs<'a>> {
        let mut all_rp_filter = plan::AllRpFilter { node: apply::all_rp_filter(&self.node)?, proxy: 0 };
        let (proxy, links) = match programmed {
            Some(programmed) => {
                all_rp_filter.proxy = apply::all_rp_filter(&programmed.netns)?;
                let links = crate::kernel::links::dump(programmed.netns.netlink())?;
                (Some(&programmed.proxy), links)
            }
            None => (self.record.proxy(), Vec::new()),
        };
        let tunnel_port = facts::tunnel_port(&facts.links, &links);
        Ok(Inputs { facts, meshed: &cluster.meshed, proxy, node_ip, tunnel_port, all_rp_filter })
    }

    /// Chains of ours in the backend that is not used any more go when the new ones stand; here they are only noted.
    fn change_backend(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        if let Some(former) = self.record.backend().filter(|former| *former != self.backend) {
            apply::remove_chains(&mut self.node, &mut self.record, ledger, Place::Node, former);
            if let Some(programmed) = &mut self.programmed {
                apply::remove_chains(&mut programmed.netns, &mut self.record, ledger, Place::Proxy, former);
            }
        }
        self.record.set_backend(self.backend)
    }

    /// Takes what is ours out of the namespaces of former proxies, as far as they still exist.
    fn clean_retired(&mut self, ledger: &mut Ledger) {
        for id in self.record.retired() {
            let before = ledger.problems.len();
            if let Some(mut netns) = proxy::find(self.node.id(), id) {
                let (plan, scope) = (&Plan::default(), Scope::Everything);
                let task = Task { plan, place: Place::Proxy, backend: self.backend, scope };
                apply::settle(&mut netns, &mut self.record, ledger, task);
            }
            if ledger.problems.len() == before
                && let Err(error) = self.record.forget_netns(id)
            {
                ledger.problem("record", format!("{error:#}"));
            }
        }
    }

    /// Whether an interface of the node leads to `ip`.
    fn plumbed(&self, ip: std::net::IpAddr) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.device_of(ip).is_some())
    }

    fn publish(&self, cluster: Option<Cluster>, ledger: &Ledger) {
        let status = report::status(self, cluster.unwrap_or_default(), ledger.problems.clone());
        report::log(&self.status.borrow(), &status);
        self.status.send_replace(status);
    }

    fn publish_waiting(&self) {
        let problem = Problem::new("source", "the first complete list of pods is not there yet; nothing is changed");
        let status = report::status(self, Cluster::default(), vec![problem]);
        self.status.send_replace(status);
    }
}
