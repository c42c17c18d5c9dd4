//! Who is meshed, and which pod is ztunnel. Pure: from a snapshot and the node's addresses to a verdict on every pod.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Pod;
use redirect_common::names::{
    ANNOTATION_REDIRECTION, ANNOTATION_SIDECAR, LABEL_MODE, MODE_AMBIENT, PROXY_APP, REDIRECTION_DISABLED, TUNNELS,
};
use serde::{Deserialize, Serialize};

use crate::proxy::{Proxy, ProxyPod};
use crate::resources::ledger::Problem;
use crate::sources::Snapshot;

/// What enrolment depends on beside the snapshot.
pub(crate) struct Rules<'a> {
    /// This node's name, as in `spec.nodeName`.
    pub(crate) node_name: &'a str,
    /// Namespace where ztunnel runs.
    pub(crate) proxy_namespace: &'a str,
    /// The node's own addresses.
    pub(crate) node_addresses: &'a BTreeSet<IpAddr>,
}

/// The verdict on a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Its traffic goes to ztunnel.
    Meshed,
    /// It will be meshed when something has happened.
    Pending,
    /// It does not belong to the mesh.
    NotMeshed,
    /// It should be meshed, but something about it is wrong.
    Refused,
}

/// A pod of this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PodVerdict {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) ips: Vec<IpAddr>,
    /// Whether its phase says that its address may have been given away.
    #[serde(skip)]
    pub(crate) ended: bool,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
}

/// The verdict on every pod of the node.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Cluster {
    pub(crate) pods: Vec<PodVerdict>,
    /// IPv4 addresses of the meshed pods.
    pub(crate) meshed: BTreeSet<Ipv4Addr>,
    /// The Ready ztunnel of this node, newest first.
    pub(crate) proxy: Option<ProxyPod>,
    /// Why there is none.
    pub(crate) proxy_reason: Option<String>,
    /// The node's address as its pods' status names it.
    pub(crate) host_ip: Option<Ipv4Addr>,
    pub(crate) problems: Vec<Problem>,
}

impl Cluster {
    /// Whether another pod than `proxy`, one that has not ended, has its address.
    pub(crate) fn has_given_away(&self, proxy: &Proxy) -> bool {
        self.pods.iter().any(|pod| pod.uid != proxy.uid && !pod.ended && pod.ips.contains(&proxy.ip))
    }
}

/// Decides about every pod of this node.
pub(crate) fn decide(snapshot: &Snapshot, rules: &Rules<'_>) -> Cluster {
    let here: Vec<_> = snapshot.pods.iter().filter(|pod| node_name(pod) == Some(rules.node_name)).collect();
    let ambient: BTreeSet<_> = snapshot
        .namespaces
        .iter()
        .filter(|namespace| label(namespace.metadata.labels.as_ref(), LABEL_MODE) == Some(MODE_AMBIENT))
        .filter_map(|namespace| namespace.metadata.name.as_deref())
        .collect();
    let mut cluster = Cluster { problems: snapshot.problems.clone(), ..Cluster::default() };
    choose_proxy(&here, rules, &mut cluster);
    let owners = owners(&here, cluster.proxy.as_ref());
    for pod in &here {
        let verdict = judge(pod, &ambient, &owners, rules);
        if verdict.state == State::Refused {
            cluster.problems.push(Problem::new(object(pod), verdict.reason.as_deref().unwrap_or("refused")));
        }
        if matches!(verdict.state, State::Meshed) {
            cluster.meshed.extend(verdict.ips.iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(*ip),
                IpAddr::V6(_) => None,
            }));
        }
        cluster.pods.push(verdict);
    }
    cluster.problems.extend(impostors(&here, rules));
    cluster.pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    cluster
}

fn judge(pod: &Pod, ambient: &BTreeSet<&str>, owners: &Owners<'_>, rules: &Rules<'_>) -> PodVerdict {
    let (ips, malformed) = ips(pod);
    let (state, reason) = match membership(pod, ambient, rules) {
        Err(reason) => (State::NotMeshed, Some(reason)),
        Ok(()) => match malformed.or_else(|| unusable(pod, &ips, owners, rules)) {
            Some(reason) => (State::Refused, Some(reason)),
            None if ips.is_empty() => (State::Pending, Some("has no IP yet".to_owned())),
            None if !ips.iter().any(IpAddr::is_ipv4) => {
                (State::Refused, Some("has only IPv6 addresses, which are not redirected yet".to_owned()))
            }
            None => (State::Meshed, None),
        },
    };
    let PodName { namespace, name, uid } = name_of(pod);
    PodVerdict {
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.into(),
        ips,
        ended: ended(pod).is_some(),
        state,
        reason,
    }
}

/// Whether the pod belongs to the mesh; the error says why not.
fn membership(pod: &Pod, ambient: &BTreeSet<&str>, rules: &Rules<'_>) -> Result<(), String> {
    let annotations = pod.metadata.annotations.as_ref();
    let own = label(pod.metadata.labels.as_ref(), LABEL_MODE);
    let namespace = name_of(pod).namespace;
    if is_proxy(pod) && namespace == rules.proxy_namespace {
        return Err("is ztunnel".into());
    }
    match own {
        Some(MODE_AMBIENT) => {}
        Some(other) => return Err(format!("label {LABEL_MODE}={other}")),
        None if ambient.contains(namespace) => {}
        None => return Err(format!("neither it nor namespace {namespace} is labelled {LABEL_MODE}={MODE_AMBIENT}")),
    }
    if label(annotations, ANNOTATION_REDIRECTION) == Some(REDIRECTION_DISABLED) {
        return Err(format!("annotation {ANNOTATION_REDIRECTION}: {REDIRECTION_DISABLED}"));
    }
    if label(annotations, ANNOTATION_SIDECAR).is_some() {
        return Err(format!("has a sidecar (annotation {ANNOTATION_SIDECAR})"));
    }
    if is_host_network(pod) {
        return Err("uses the node's network (hostNetwork)".into());
    }
    if let Some(phase) = ended(pod) {
        return Err(format!("has ended (phase {phase})"));
    }
    Ok(())
}

/// Why a pod that belongs to the mesh cannot be meshed.
fn unusable(pod: &Pod, ips: &[IpAddr], owners: &Owners<'_>, rules: &Rules<'_>) -> Option<String> {
    for ip in ips {
        if rules.node_addresses.contains(ip) {
            return Some(format!("claims {ip}, which is an address of the node itself"));
        }
        if TUNNELS.iter().any(|tunnel| *ip == tunnel.node_addr || *ip == tunnel.proxy_addr) {
            return Some(format!("claims {ip}, which is an address of the tunnels to ztunnel"));
        }
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return Some(format!("claims {ip}, which is no address of a pod"));
        }
        let owner = owners.get(ip)?;
        if !std::ptr::eq(*owner, pod) {
            return Some(format!("claims {ip}, which belongs to {}", object(owner)));
        }
    }
    None
}

/// Which pod an address belongs to: the newest that claims it, because an ended or forgotten pod's address is given away;
/// ztunnel's is ztunnel's, whoever claims it.
type Owners<'a> = BTreeMap<IpAddr, &'a Pod>;

fn owners<'a>(pods: &[&'a Pod], proxy: Option<&ProxyPod>) -> Owners<'a> {
    let mut sorted: Vec<_> = pods.iter().copied().filter(|pod| !is_host_network(pod) && ended(pod).is_none()).collect();
    let is_chosen = |pod: &Pod| proxy.is_some_and(|proxy| name_of(pod).uid == proxy.uid);
    sorted.sort_by_key(|pod| (is_chosen(pod), age_key(pod)));
    sorted.into_iter().flat_map(|pod| ips(pod).0.into_iter().map(move |ip| (ip, pod))).collect()
}

/// Older pods sort first; the uid makes the order total.
fn age_key(pod: &Pod) -> (Option<i128>, String) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_nanosecond());
    (created, name_of(pod).uid.to_owned())
}

fn choose_proxy(pods: &[&Pod], rules: &Rules<'_>, cluster: &mut Cluster) {
    let mut candidates: Vec<_> =
        pods.iter().filter(|pod| is_proxy(pod) && name_of(pod).namespace == rules.proxy_namespace).collect();
    candidates.sort_by_key(|pod| Reverse(age_key(pod)));
    if candidates.is_empty() {
        let reason = format!("no pod labelled app={PROXY_APP} in namespace {} on this node", rules.proxy_namespace);
        cluster.proxy_reason = Some(reason);
    }
    for pod in candidates {
        match proxy_pod(pod) {
            Ok((proxy, host_ip)) => {
                cluster.proxy = Some(proxy);
                cluster.host_ip = host_ip;
                cluster.proxy_reason = None;
                return;
            }
            Err(reason) => {
                // The newest one's reason is the one that matters.
                cluster.proxy_reason.get_or_insert_with(|| format!("{} {reason}", object(pod)));
            }
        }
    }
}

fn proxy_pod(pod: &Pod) -> Result<(ProxyPod, Option<Ipv4Addr>), String> {
    if is_host_network(pod) {
        return Err("uses the node's network (hostNetwork); ztunnel needs a network of its own".into());
    }
    if let Some(phase) = ended(pod) {
        return Err(format!("has ended (phase {phase})"));
    }
    if !is_ready(pod) {
        return Err("is not Ready".into());
    }
    let (ips, malformed) = ips(pod);
    if let Some(reason) = malformed {
        return Err(reason);
    }
    let ip = ips.into_iter().find(IpAddr::is_ipv4).ok_or("has no IPv4 address yet")?;
    let PodName { namespace, name, uid } = name_of(pod);
    let host_ip = pod.status.as_ref().and_then(|status| status.host_ip.as_ref()?.parse().ok());
    Ok((ProxyPod { uid: uid.into(), namespace: namespace.into(), name: name.into(), ip }, host_ip))
}

/// Pods that look like ztunnel where it does not run.
fn impostors(pods: &[&Pod], rules: &Rules<'_>) -> Vec<Problem> {
    let elsewhere = pods.iter().filter(|pod| is_proxy(pod) && name_of(pod).namespace != rules.proxy_namespace);
    let message = format!(
        "is labelled app={PROXY_APP} outside namespace {}; it is not taken for the node proxy",
        rules.proxy_namespace
    );
    elsewhere.map(|pod| Problem::new(object(pod), &message)).collect()
}

struct PodName<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

fn name_of(pod: &Pod) -> PodName<'_> {
    let meta = &pod.metadata;
    PodName {
        namespace: meta.namespace.as_deref().unwrap_or("default"),
        name: meta.name.as_deref().unwrap_or_default(),
        uid: meta.uid.as_deref().unwrap_or_default(),
    }
}

fn object(pod: &Pod) -> String {
    let PodName { namespace, name, .. } = name_of(pod);
    format!("pod {namespace}/{name}")
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn label<'a>(map: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    map?.get(key).map(String::as_str)
}

fn is_proxy(pod: &Pod) -> bool {
    label(pod.metadata.labels.as_ref(), "app") == Some(PROXY_APP)
}

fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default()
}

fn ended(pod: &Pod) -> Option<&str> {
    let phase = pod.status.as_ref()?.phase.as_deref()?;
    matches!(phase, "Succeeded" | "Failed").then_some(phase)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

/// Every address of the pod, and what is wrong with the list.
fn ips(pod: &Pod) -> (Vec<IpAddr>, Option<String>) {
    let Some(status) = &pod.status else { return (Vec::new(), None) };
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips = Vec::new();
    for text in status.pod_ip.as_deref().into_iter().chain(several).filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(ip) if !ips.contains(&ip) => ips.push(ip),
            Ok(_) => {}
            Err(_) => return (Vec::new(), Some(format!("has an IP that cannot be read: {text:?}"))),
        }
    }
    (ips, None)
}

#[cfg(test)]
mod tests;
