//! Which pod is traced, as the loop has it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::Reconciler;
use crate::bpf::Bpf;
use crate::enrol::{Cluster, State};
use crate::trace::{Target, Traced};

/// The pod, and what of it the plan needs.
#[derive(Default, Debug)]
pub(super) struct Trace {
    pod: Option<Target>,
    /// Its addresses, while it is meshed.
    pub(super) addresses: BTreeSet<Ipv4Addr>,
    /// Lines that had been lost before it was traced.
    lost_before: u64,
}

impl Reconciler {
    /// Takes over what was asked for, and looks the pod up.
    pub(super) fn follow_trace(&mut self, cluster: &Cluster) {
        let Some(bpf) = &self.bpf else { return };
        let wanted = self.doorbell.traced();
        if wanted != self.trace.pod {
            bpf.borrow().reader.set(wanted.is_some());
            self.trace.lost_before = lost(&bpf.borrow());
            self.trace.pod = wanted;
        }
        self.trace.addresses = self.trace.pod.as_ref().map(|pod| addresses(cluster, pod)).unwrap_or_default();
    }

    /// For status.
    pub(super) fn traced(&self) -> Option<Traced> {
        let lost = self.bpf.as_ref().map_or(0, |bpf| lost(&bpf.borrow()));
        let pod = self.trace.pod.clone()?;
        Some(Traced { pod, lost: lost.saturating_sub(self.trace.lost_before) })
    }
}

fn addresses(cluster: &Cluster, wanted: &Target) -> BTreeSet<Ipv4Addr> {
    let is_wanted = |namespace: &str, name: &str| namespace == wanted.namespace && name == wanted.name;
    let pods = cluster.pods.iter().filter(|pod| pod.state == State::Meshed && is_wanted(&pod.namespace, &pod.name));
    pods.flat_map(|pod| &pod.ips)
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        })
        .collect()
}

fn lost(bpf: &Bpf) -> u64 {
    bpf.lost_lines().unwrap_or_else(|error| {
        tracing::debug!(error = format!("{error:#}"), "lost lines cannot be counted");
        0
    })
}
