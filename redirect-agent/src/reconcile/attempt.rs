//! One run: from the snapshot and the node as it is, by way of the plan, to the kernel.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::apply::{self, Place, Task};
use super::cause::{Cause, Classes};
use super::rollout::Turn;
use super::scope::Scope;
use super::seen::Seen;
use super::{Plans, Programmed, RECONSIDER, Reconciler, cleanup, events};
use crate::bpf;
use crate::cni::book::Book;
use crate::config::Mode;
use crate::enrol::{self, Cluster};
use crate::facts::{self, Facts};
use crate::kernel::links;
use crate::kernel::netns::NetnsId;
use crate::leaving;
use crate::plan::{self, Beside, Inputs, Plan};
use crate::proxy::{self, Hints, Proxy, Seated};
use crate::resources::blocked;
use crate::resources::chain::backend;
use crate::resources::ledger::Ledger;

/// What one run goes by.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) cause: Cause,
    pub(super) facts: &'a Facts,
    pub(super) cluster: &'a Cluster,
    pub(super) node_ip: Option<Ipv4Addr>,
}

impl Reconciler {
    /// One run. `None` before the first complete snapshot: until then what stands is right.
    pub(super) fn attempt(&mut self, cause: Cause, ledger: &mut Ledger) -> anyhow::Result<Option<Plans>> {
        let look = self.attachments.look()?;
        let Some(snapshot) = self.snapshots.borrow_and_update().clone() else { return Ok(None) };
        self.reconsider_backend();
        self.reconsider_mode();
        let facts = Facts::observe(&mut self.node)?;
        ledger.blocked.extend(blocked::of_tunnels(&facts.links));
        let leaving = leaving::look(self.node.id(), &snapshot, &look.book, self.record.known())?;
        let cluster = enrol::decide(
            &snapshot,
            &enrol::Rules {
                node_name: &self.config.node_name,
                proxy_namespace: &self.config.proxy_namespace,
                on_proxy_loss: self.config.on_proxy_loss,
                node_addresses: &facts.addresses,
                attachments: &look.book,
                known: self.record.known(),
                leaving: &leaving,
            },
        );
        // Before anything is made of them: an agent that starts anew must know them too.
        self.record.set_known(cluster.known())?;
        self.look_for_loss(&cluster)?;
        self.follow_trace(&cluster);
        let node_ip = self.node_ip(&cluster, &facts, ledger);
        self.release_ended(&cluster);
        self.look_after_drain(&cluster)?;
        let next = self.next_proxy(&cluster, &look.book, &facts, ledger);
        let plans = self.converge(Run { cause, facts: &facts, cluster: &cluster, node_ip }, next, ledger)?;
        if ledger.problems.is_empty() {
            self.clean_retired(ledger);
        }
        self.attachments.judged(&look, &cluster);
        self.facts = Some(facts);
        self.cluster = cluster;
        Ok(Some(plans))
    }

    /// The node's address that tunnels end at: configured, else what the pods' status says, else what it was.
    fn node_ip(&self, cluster: &Cluster, facts: &Facts, ledger: &mut Ledger) -> Option<Ipv4Addr> {
        let Some(ip) = self.config.node_ip.or(cluster.host_ip).or(self.record.node_ip()) else {
            if let Some(pod) = &cluster.proxy {
                let message = "its status has no IPv4 hostIP that its tunnels could end at; set --node-ip";
                ledger.problem(format!("pod {}/{}", pod.namespace, pod.name), message);
            }
            return None;
        };
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
    fn next_proxy(&mut self, cluster: &Cluster, book: &Book, facts: &Facts, ledger: &mut Ledger) -> Option<Programmed> {
        let pod = cluster.proxy.as_ref()?;
        if let Some(current) = &mut self.programmed
            && current.proxy.uid == pod.uid
            && current.proxy.ip == pod.ip
            && proxy::still_there(&mut self.node, &mut current.netns, &current.proxy).unwrap_or_default()
        {
            return None;
        }
        let attached = book.all().iter().find(|known| cluster.attached.get(&known.id) == Some(&pod.uid));
        let recorded = || self.record.proxy().filter(|known| known.uid == pod.uid).map(|known| known.netns);
        let hints = Hints {
            netns: attached.map(|known| NetnsId::told(known.netns)).or_else(recorded),
            device: facts.device_of(pod.ip).map(|link| link.name.as_str()),
        };
        let located = proxy::locate(&mut self.node, pod, hints).and_then(|(proxy, netns)| {
            let events = events::watch(&netns, Place::Proxy, &self.doorbell)?;
            Ok(Programmed { proxy, netns, seen: Seen::default(), _events: events })
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
    fn converge(&mut self, mut run: Run<'_>, next: Option<Programmed>, ledger: &mut Ledger) -> anyhow::Result<Plans> {
        self.record.add_mode(self.mode)?;
        self.record.add_backend(self.backend)?;
        let another = next.is_some();
        let mut candidate = next.or_else(|| self.programmed.take());
        let present = run.cluster.proxy.is_some() && candidate.is_some();
        let mut plans = Plans::default();
        if let Some(programmed) = candidate.as_mut().filter(|_| present) {
            let modes = self.record.modes();
            let inputs = self.inputs(run, Some(programmed), None, &modes)?;
            plans.proxy = plan::proxy(&inputs);
            let before = ledger.problems.len();
            self.record.touch(programmed.netns.id())?;
            let standing = self.settled.as_ref().map(|settled| &settled.proxy);
            let scope = self.scope(run.cause.proxy, &plans.proxy, standing.filter(|_| !another));
            let (backend, bpf_dir) = (self.backend, self.config.bpf_dir.as_path());
            let seen = Some(&programmed.seen);
            let task = Task { plan: &plans.proxy, place: Place::Proxy, backend, bpf: None, bpf_dir, seen, scope };
            apply::settle(&mut programmed.netns, &mut self.record, ledger, task);
            if ledger.problems.len() > before && self.record.proxy() != Some(&programmed.proxy) {
                // The node stays with the former one; this one is tried again.
                candidate = self.programmed.take();
            }
        }
        if let Some(programmed) = candidate.take_if(|_| present) {
            match self.turn_to(run, programmed, ledger)? {
                Turn::Made(next) => candidate = Some(next),
                Turn::Left { next, beside } => {
                    candidate = Some(next);
                    // All of it has just been read back: what is left is to turn.
                    self.settled = Some(Plans { node: beside, proxy: plans.proxy.clone() });
                    run.cause = Cause::node(Classes::ROUTING);
                }
                Turn::Failed { former, beside } => {
                    // What stands of the next one's is in nobody's way, and the next try goes on from there.
                    plans.node = beside;
                    self.programmed = Some(former);
                    return Ok(plans);
                }
            }
        }
        let before = ledger.problems.len();
        plans.node = self.converge_node(run, candidate.as_mut(), None, ledger)?;
        if self.loss_ends(run.cluster, candidate.as_ref(), ledger)? {
            // Who has passed is redirected now that all of the way stands.
            self.settled = Some(plans.clone());
            plans.node = self.converge_node(run, candidate.as_mut(), None, ledger)?;
        }
        if ledger.problems.len() == before {
            self.has_turned()?;
        }
        self.leave_other_backends(candidate.as_mut(), ledger)?;
        self.programmed = candidate;
        Ok(plans)
    }

    /// Brings the node to the plan, with `coming` beside the ztunnel that it is for. While it changes over to another mode both stand;
    /// the former goes when the new one is whole.
    pub(super) fn converge_node(
        &mut self,
        run: Run<'_>,
        mut programmed: Option<&mut Programmed>,
        coming: Option<&Proxy>,
        ledger: &mut Ledger,
    ) -> anyhow::Result<Plan> {
        let mut modes = self.record.modes();
        if self.bpf.is_none() {
            // Nothing new of it can be made; what stands goes on marking until the rules do.
            modes.retain(|mode| *mode != Mode::Ebpf);
        }
        loop {
            let over = self.record.modes() != [self.mode] && modes == [self.mode];
            let inputs = self.inputs(run, programmed.as_deref_mut(), coming, &modes)?;
            let plan = plan::node(&inputs);
            let standing = self.settled.as_ref().map(|settled| &settled.node);
            let scope = self.scope(run.cause.node, &plan, standing.filter(|_| !over));
            let (backend, bpf, bpf_dir) = (self.backend, self.bpf.as_ref(), self.config.bpf_dir.as_path());
            let seen = Some(&self.node_seen);
            let task = Task { plan: &plan, place: Place::Node, backend, bpf, bpf_dir, seen, scope };
            apply::settle(&mut self.node, &mut self.record, ledger, task);
            if plan.maps.is_some() && ledger.problems.is_empty() {
                bpf::forget_other_layouts(&self.config.bpf_dir)?;
            }
            if over && ledger.problems.is_empty() {
                tracing::info!(mode = self.mode.name(), "only this mode stands now");
                self.record.keep_mode(self.mode)?;
            }
            if modes == [self.mode] || !ledger.problems.is_empty() {
                return Ok(plan);
            }
            modes = vec![self.mode];
        }
    }

    /// What of `plan` is looked at. While the node changes over to another iptables, or where nothing stands, all of it.
    fn scope(&self, classes: Classes, plan: &Plan, standing: Option<&Plan>) -> Scope {
        match standing {
            Some(standing) if self.record.backends() == [self.backend] => {
                Scope::of(classes, self.backend, plan, standing)
            }
            _ => Scope::EVERYTHING,
        }
    }

    fn inputs<'a>(
        &'a self,
        run: Run<'a>,
        programmed: Option<&'a mut Programmed>,
        coming: Option<&'a Proxy>,
        modes: &'a [Mode],
    ) -> anyhow::Result<Inputs<'a>> {
        let mut all_rp_filter = plan::AllRpFilter { node: apply::all_rp_filter(&self.node)?, proxy: 0 };
        let (proxy, links) = match programmed {
            Some(programmed) => {
                all_rp_filter.proxy = apply::all_rp_filter(&programmed.netns)?;
                let links = links::dump(programmed.netns.netlink())?;
                (Some(&programmed.proxy), links)
            }
            // Its address may belong to another pod by now, whose packets must not be taken for a proxy's.
            None => (self.record.proxy().filter(|proxy| !run.cluster.has_given_away(proxy)), Vec::new()),
        };
        let tunnel_port = facts::tunnel_port(&run.facts.links, &links);
        let seat = self.record.seat();
        let on_other = |proxy| Seated { seat: seat.other(), proxy };
        let draining = || self.record.draining().map(|draining| Beside::Draining(on_other(&draining.proxy)));
        Ok(Inputs {
            facts: run.facts,
            meshed: &run.cluster.meshed,
            may_bypass: &run.cluster.may_bypass,
            proxy_is_away: self.record.proxy_is_away(),
            traced: &self.trace.addresses,
            proxy: proxy.map(|proxy| Seated { seat: self.record.seat_of(proxy.netns), proxy }),
            beside: coming.map(|coming| Beside::Coming(on_other(coming))).or_else(draining),
            node_ip: run.node_ip,
            tunnel_port,
            modes,
            all_rp_filter,
        })
    }

    /// kubelet and kube-proxy may start after the agent, in the backend that it did not guess.
    fn reconsider_backend(&mut self) {
        if self.backend_is_certain || self.reconsidered.elapsed() < RECONSIDER {
            return;
        }
        self.reconsidered = Instant::now();
        if let Ok(detected) = backend::detect() {
            if detected.backend != self.backend {
                tracing::warn!(from = %self.backend, to = %detected.backend, "the host uses another iptables; moving over");
            }
            (self.backend, self.backend_is_certain) = (detected.backend, detected.certain);
        }
    }

    /// Chains of ours in a backend that is not used any more go when the new ones stand: in between, both mark alike.
    fn leave_other_backends(&mut self, programmed: Option<&mut Programmed>, ledger: &mut Ledger) -> anyhow::Result<()> {
        let others: Vec<_> = self.record.backends().iter().copied().filter(|other| *other != self.backend).collect();
        // In the namespace of one that drains they stay as long as it does, and then are taken out of it (`clean_retired`).
        let may_be_elsewhere = self.record.draining().is_some() || !self.record.retired().is_empty();
        if others.is_empty() || !ledger.problems.is_empty() || may_be_elsewhere {
            return Ok(());
        }
        let mut proxy = programmed.map(|programmed| &mut programmed.netns);
        for other in others {
            apply::remove_chains(&mut self.node, &mut self.record, ledger, Place::Node, other);
            if let Some(netns) = proxy.as_deref_mut() {
                apply::remove_chains(netns, &mut self.record, ledger, Place::Proxy, other);
            }
        }
        if ledger.problems.is_empty() { self.record.keep_backend(self.backend) } else { Ok(()) }
    }

    /// Takes what is ours out of the namespaces of former proxies, as far as they still exist.
    fn clean_retired(&mut self, ledger: &mut Ledger) {
        for id in self.record.retired() {
            let before = ledger.problems.len();
            match proxy::find(self.node.id(), id) {
                Ok(Some(mut netns)) => {
                    let backends = self.record.backends().to_vec();
                    let bpf_dir = &self.config.bpf_dir;
                    cleanup::remove(&mut netns, &mut self.record, ledger, Place::Proxy, &backends, bpf_dir);
                }
                Ok(None) => {}
                Err(error) => ledger.problem("a former ztunnel's namespace", format!("{error:#}")),
            }
            if ledger.problems.len() == before
                && let Err(error) = self.record.forget_netns(id)
            {
                ledger.problem("record", format!("{error:#}"));
            }
        }
    }
}
