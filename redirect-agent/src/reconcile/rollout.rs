//! One ztunnel follows another while the other still runs. The new one's side and its rows stand, and have been read back, before
//! anything points to it; what the former began goes on with it until it ends, or until a time has passed.
//!
//! What has to survive this agent is on record: who is on which seat, and until when the former drains.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::apply::Place;
use super::attempt::Run;
use super::seen::Seen;
use super::{Programmed, Reconciler, events};
use crate::enrol::Cluster;
use crate::kernel::netns::Netns;
use crate::kernel::sockets;
use crate::plan::Plan;
use crate::proxy::{self, Proxy};
use crate::resources::address;
use crate::resources::ledger::Ledger;

/// How far the node has turned to the next ztunnel.
pub(super) enum Turn {
    /// It is the one that the node's plan is for.
    Made(Programmed),
    /// The same, and what is planned `beside` the former stands, so that only the links and routes are left.
    Left { next: Programmed, beside: Plan },
    /// The former is, because `beside` could not be made whole.
    Failed { former: Programmed, beside: Plan },
}

impl Reconciler {
    /// Ends the drain of a former ztunnel when it has ended itself, or when its time is over.
    pub(super) fn look_after_drain(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let Some(draining) = self.record.draining().cloned() else {
            self.draining = None;
            return Ok(());
        };
        let held = self.draining.take().filter(|netns| netns.id() == draining.proxy.netns);
        self.draining = self.still_runs(cluster, &draining.proxy, held)?;
        let reason = match &self.draining {
            None => "it has ended",
            Some(_) if draining.is_over(now()?) => "its time is over",
            Some(_) => return Ok(()),
        };
        tracing::info!(name = draining.proxy.name, reason, "a former ztunnel drains no more");
        self.end_drain()
    }

    /// What the former still has is ended while the way back from it stands, so that clients and servers hear of it. Where that cannot be done,
    /// they are reset by the next ztunnel with the next that they send.
    fn end_drain(&mut self) -> anyhow::Result<()> {
        if let Some(mut former) = self.draining.take() {
            match end_connections(&mut former) {
                Ok(ended) => tracing::info!(ended, "connections of a former ztunnel were ended"),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "connections of a former ztunnel could not be ended");
                }
            }
        }
        self.record.end_drain()
    }

    /// Has `next` be the one that the node's plan is for. If it follows another, all that it needs on the node stands before that, and
    /// the other drains. Gives back who it is to be: not `next` when that could not be done, which is tried again. One that has ended is no
    /// reason to stay: what is wrong then, be it with another pod's route, would cut off all others.
    pub(super) fn turn_to(&mut self, run: Run<'_>, next: Programmed, ledger: &mut Ledger) -> anyhow::Result<Turn> {
        let Some(former) = self.record.proxy().filter(|former| former.netns != next.proxy.netns).cloned() else {
            self.record.set_proxy(&next.proxy, run.node_ip)?;
            return Ok(Turn::Made(next));
        };
        let seat_is_taken = self.record.draining().is_some_and(|draining| draining.proxy.netns != next.proxy.netns);
        if seat_is_taken {
            tracing::info!("a former ztunnel drains no more: a third one needs its seat");
            self.end_drain()?;
        }
        let (mut former, before) = (self.take_former(run.cluster, &former)?, ledger.problems.len());
        if seat_is_taken {
            // First the seat is nobody's: what is left on it comes to the one that stands, which resets it. From one whose veth is not known
            // yet, pods would not take a reset.
            self.converge_node(run, former.as_mut(), None, ledger)?;
        }
        let plan = self.converge_node(run, former.as_mut(), Some(&next.proxy), ledger)?;
        let failed = ledger.problems.len() > before;
        if let Some(former) = former.take_if(|_| failed) {
            return Ok(Turn::Failed { former, beside: plan });
        }
        let until = self.drained_at()?;
        self.record.follow(&next.proxy, run.node_ip, former.is_some().then_some(until))?;
        self.draining = former.map(|former| former.netns);
        Ok(if failed { Turn::Made(next) } else { Turn::Left { next, beside: plan } })
    }

    /// The node has turned to the one that it is to turn to: only now the former's time runs, however long the way here was. What it was given
    /// until then, it has begun a moment ago.
    pub(super) fn has_turned(&mut self) -> anyhow::Result<()> {
        if self.record.draining().is_some_and(|draining| draining.awaits_turn) {
            let until = self.drained_at()?;
            self.record.has_turned(until)?;
        }
        Ok(())
    }

    /// How long until the drain that is under way is over.
    pub(super) fn drain_wait(&self) -> Duration {
        let left = |now: u64| self.record.draining().map(|draining| draining.until.saturating_sub(now));
        // A clock that cannot be read is told of by the run.
        now().ok().and_then(left).map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.max(1)))
    }

    /// When a drain that begins now is over. The present second has begun, and does not count.
    fn drained_at(&self) -> anyhow::Result<u64> {
        let seconds = self.config.drain_timeout.as_secs();
        Ok(now()?.saturating_add(if seconds == 0 { 0 } else { seconds.saturating_add(1) }))
    }

    /// The ztunnel that is to be followed, if it still runs. After a restart it is on record only.
    fn take_former(&mut self, cluster: &Cluster, former: &Proxy) -> anyhow::Result<Option<Programmed>> {
        let held = self.programmed.take().filter(|programmed| programmed.proxy == *former);
        let Some(netns) = self.still_runs(cluster, former, held.map(|programmed| programmed.netns))? else {
            return Ok(None);
        };
        let events = events::watch(&netns, Place::Proxy, &self.doorbell)?;
        Ok(Some(Programmed { proxy: former.clone(), netns, seen: Seen::default(), _events: events }))
    }

    /// The namespace of a ztunnel whose pod is there and which is where it was.
    fn still_runs(&mut self, cluster: &Cluster, proxy: &Proxy, held: Option<Netns>) -> anyhow::Result<Option<Netns>> {
        let runs = cluster.pods.iter().any(|pod| pod.uid == proxy.uid && !pod.ended);
        if !runs || cluster.has_given_away(proxy) {
            return Ok(None);
        }
        let found = match held {
            Some(netns) => Some(netns),
            None => proxy::find(self.node.id(), proxy.netns)?,
        };
        let Some(mut netns) = found else { return Ok(None) };
        Ok(proxy::still_there(&mut self.node, &mut netns, proxy)?.then_some(netns))
    }
}

/// Ends what a ztunnel has in other's names, which is what it has by the tunnels. What it has in its own, its health checks among it, goes on.
fn end_connections(former: &mut Netns) -> anyhow::Result<usize> {
    let own: Vec<IpAddr> = address::observe(former.netlink())?.into_iter().map(|address| address.ip).collect();
    let of_others = |ip: Ipv4Addr| !ip.is_loopback() && !own.contains(&IpAddr::V4(ip));
    Ok(former.run(|| sockets::end_connections(of_others))??)
}

/// Seconds since boot, those of sleep among them: the record is of one boot.
fn now() -> anyhow::Result<u64> {
    Ok(u64::try_from(clock_gettime(ClockId::CLOCK_BOOTTIME)?.tv_sec())?)
}
