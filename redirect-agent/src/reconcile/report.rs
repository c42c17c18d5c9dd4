//! What a run means for whoever asks: status from the loop's state, and the log of what is new.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::OnProxyLoss;
use crate::enrol::{Cluster, PodVerdict, State};
use crate::kernel::process;
use crate::proxy::Proxy;
use crate::resources::ledger::Problem;
use crate::status::{Former, ProxyState, ProxyStatus, SourceStatus, Status};

use super::Reconciler;

/// The status after a run.
pub(super) fn status(reconciler: &Reconciler, problems: Vec<Problem>) -> Status {
    let cluster = reconciler.cluster.clone();
    let proxy = proxy_status(reconciler, &cluster, &problems);
    let mut all = problems;
    all.extend(cluster.problems);
    let healthy = reconciler.settled.is_some();
    let pods: Vec<_> = cluster.pods.into_iter().map(|pod| with_datapath(pod, reconciler, &proxy, healthy)).collect();
    let bypassed = pods.iter().filter(|pod| pod.state == State::Bypassed).count() as u64;
    all.extend((bypassed > 0).then(bypass));
    let own = unredirected(&pods).into_iter().chain(reconciler.record.note());
    let notes = reconciler.notes.iter().cloned().chain(own).collect();
    let tunnel_port = reconciler.settled.as_ref().and_then(|plans| plans.node.links.first()).map(|link| link.port);
    Status {
        node: reconciler.config.node_name.clone(),
        mode: reconciler.mode.name().into(),
        requested_mode: reconciler.config.mode.name().into(),
        fallback_reason: reconciler.fallback.clone(),
        tc_attach: reconciler.bpf.as_ref().map(|bpf| bpf.borrow().kind.to_string()),
        backend: Some(reconciler.backend),
        ready: healthy,
        settled: healthy,
        reconciles: reconciler.reconciles,
        stuck: None,
        writes: reconciler.totals.clone(),
        repairs: reconciler.repairs.clone(),
        last_repairs: reconciler.last_repairs.list(),
        fights: reconciler.fights.problems().len() as u64,
        processes: process::started(),
        packets: reconciler.packets.clone(),
        blocked: reconciler.blocked.packets(),
        tunnel_port,
        cni: reconciler.attachments.status(),
        trace: reconciler.traced(),
        source: SourceStatus {
            kind: reconciler.config.source.to_owned(),
            complete: reconciler.snapshots.borrow().is_some(),
            stale_since: reconciler.health.borrow().stale_since,
        },
        cni_plugin: None,
        proxy,
        draining: reconciler.record.draining().map(|draining| former(&draining.proxy)),
        pods,
        bypassed,
        notes,
        problems: all,
    }
}

/// Without their number: it is one thing that is wrong, however many come and go.
fn bypass() -> Problem {
    Problem::new(
        "ztunnel",
        "is away, and the pods that are bypassed pass unproxied meanwhile, as --on-proxy-loss or their namespaces ask for",
    )
}

/// Of a pod with two addresses, what goes by the one passes unproxied.
fn unredirected(pods: &[PodVerdict]) -> Option<Problem> {
    let meshed = pods.iter().filter(|pod| matches!(pod.state, State::Meshed | State::Pending));
    let mut addresses = meshed.flat_map(|pod| &pod.ips);
    let what = "pods of the mesh have such addresses, and what goes by those is not redirected";
    addresses.any(IpAddr::is_ipv6).then(|| Problem::new("IPv6", what))
}

fn former(proxy: &Proxy) -> Former {
    let Proxy { namespace, name, uid, ip, host, .. } = proxy.clone();
    Former { namespace, name, uid, ip, veth: host.veth }
}

fn proxy_status(reconciler: &Reconciler, cluster: &Cluster, problems: &[Problem]) -> ProxyStatus {
    let programmed = reconciler.programmed.as_ref().map(|programmed| &programmed.proxy);
    let wanted = cluster.proxy.as_ref();
    let stands = reconciler.settled.is_some() && wanted.is_some_and(|pod| programmed.is_some_and(|p| p.uid == pod.uid));
    let state = match (wanted, stands) {
        (None, _) => ProxyState::Absent,
        (Some(_), true) => ProxyState::Programmed,
        (Some(_), false) => ProxyState::Pending,
    };
    let own_problem = wanted.and_then(|pod| {
        let object = format!("pod {}/{}", pod.namespace, pod.name);
        problems.iter().find(|problem| problem.object == object).map(|problem| problem.message.clone())
    });
    let other = (state == ProxyState::Pending && !problems.is_empty()).then(|| "see problems".to_owned());
    let shown = programmed.filter(|p| wanted.is_some_and(|pod| pod.uid == p.uid));
    ProxyStatus {
        state,
        namespace: wanted.map(|pod| pod.namespace.clone()),
        name: wanted.map(|pod| pod.name.clone()),
        uid: wanted.map(|pod| pod.uid.clone()),
        ip: wanted.map(|pod| pod.ip),
        veth: shown.map(|proxy| proxy.host.veth.clone()),
        netns: programmed.map(|proxy| proxy.netns),
        reason: cluster.proxy_reason.clone().or(own_problem).or(other),
    }
}

/// A pod that belongs to the mesh is meshed only when its datapath stands.
fn with_datapath(mut pod: PodVerdict, reconciler: &Reconciler, proxy: &ProxyStatus, healthy: bool) -> PodVerdict {
    if pod.state != State::Meshed {
        return pod;
    }
    let unplumbed = pod.ips.iter().find(|ip| ip.is_ipv4() && !reconciler.plumbed(**ip));
    let may_bypass = pod.on_proxy_loss == OnProxyLoss::Bypass;
    if unplumbed.is_none() && may_bypass && reconciler.record.proxy_is_away() {
        pod.state = State::Bypassed;
        pod.reason = Some("ztunnel is away; its TCP passes unproxied meanwhile".into());
        return pod;
    }
    let reason = match unplumbed {
        Some(ip) => Some(format!(
            "no veth and no bridge of this node leads to {ip} yet; behind a link of another kind a pod cannot be redirected"
        )),
        None if proxy.state == ProxyState::Absent => Some("waits for ztunnel; its TCP is blocked meanwhile".into()),
        None if !healthy || proxy.state != ProxyState::Programmed => {
            Some("the datapath is not in place yet; see problems".into())
        }
        None => None,
    };
    if reason.is_some() {
        pod.state = State::Pending;
        pod.reason = reason;
    }
    pod
}

/// Logs what the new status has and the old one had not.
pub(super) fn log(old: &Status, new: &Status) {
    let known: BTreeSet<_> = old.problems.iter().collect();
    for problem in new.problems.iter().filter(|problem| !known.contains(problem)) {
        tracing::warn!(object = problem.object, "{}", problem.message);
    }
    let still: BTreeSet<_> = new.problems.iter().collect();
    for problem in old.problems.iter().filter(|problem| !still.contains(problem)) {
        tracing::info!(object = problem.object, "solved: {}", problem.message);
    }
    let lost = |status: &Status| status.trace.as_ref().map_or(0, |traced| traced.lost);
    if let Some(traced) = new.trace.as_ref().filter(|_| lost(new) > lost(old)) {
        let more = lost(new) - lost(old);
        tracing::warn!(target: "redirect_agent::trace", pod = %traced.pod, "{more} more lines were too many to be shown");
    }
    if old.proxy != new.proxy {
        let proxy = &new.proxy;
        tracing::info!(state = ?proxy.state, name = proxy.name, ip = ?proxy.ip, reason = proxy.reason, "ztunnel");
    }
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let former: BTreeMap<_, _> = old.pods.iter().map(|pod| (&pod.uid, pod)).collect();
    for pod in new.pods.iter().filter(|pod| former.get(&pod.uid) != Some(pod)) {
        tracing::debug!(pod = format!("{}/{}", pod.namespace, pod.name), state = ?pod.state, reason = pod.reason, "pod");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_address_of_ipv6_is_noted_of_pods_of_the_mesh() {
        let pod = |state, ip: &str| PodVerdict {
            namespace: "a".into(),
            name: "b".into(),
            uid: "c".into(),
            ips: vec!["10.0.0.1".parse().unwrap(), ip.parse().unwrap()],
            ended: false,
            state,
            reason: None,
            on_proxy_loss: OnProxyLoss::Block,
        };
        assert!(unredirected(&[pod(State::Meshed, "fd00::1")]).is_some());
        assert_eq!(unredirected(&[pod(State::NotMeshed, "fd00::1"), pod(State::Meshed, "10.0.0.2")]), None);
    }
}
