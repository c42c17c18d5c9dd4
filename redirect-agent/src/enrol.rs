//! Who is meshed, and which pod is ztunnel. Pure: from a snapshot and the node's addresses to a verdict on every pod.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use redirect_cni::protocol::{self, AttachmentId};
use redirect_common::names::{
    ANNOTATION_REDIRECTION, ANNOTATION_SIDECAR, LABEL_MODE, MODE_AMBIENT, PROXY_APP, REDIRECTION_DISABLED, TUNNELS,
};
use serde::{Deserialize, Serialize};

use crate::cni::book::{Assigned, Book, Named};
use crate::config::OnProxyLoss;
use crate::proxy::{Proxy, ProxyPod};
use crate::resources::ledger::Problem;
use crate::sources::{Pod, Snapshot};

mod loss;

use loss::Choices;

/// What enrolment depends on beside the snapshot.
pub(crate) struct Rules<'a> {
    /// This node's name, as in `spec.nodeName`.
    pub(crate) node_name: &'a str,
    /// Namespace where ztunnel runs.
    pub(crate) proxy_namespace: &'a str,
    /// What becomes of meshed pods while there is no ztunnel, unless their namespace says otherwise.
    pub(crate) on_proxy_loss: OnProxyLoss,
    /// The node's own addresses.
    pub(crate) node_addresses: &'a BTreeSet<IpAddr>,
    /// What the CNI plugin has said of pods, before their status says it.
    pub(crate) attachments: &'a Book,
    /// The addresses with which pods were meshed last.
    pub(crate) known: &'a Known,
    /// Attachments of pods that are gone from the snapshot, and whose sandboxes are not.
    pub(crate) leaving: &'a BTreeSet<AttachmentId>,
}

/// Addresses of pods by UID.
pub(crate) type Known = BTreeMap<String, Vec<IpAddr>>;

/// The verdict on a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Its traffic goes to ztunnel.
    Meshed,
    /// It will be meshed when something has happened.
    Pending,
    /// It belongs to the mesh and passes unproxied, because ztunnel is away and it is to.
    Bypassed,
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
    /// What becomes of it while there is no ztunnel, if it is meshed.
    #[serde(default)]
    pub(crate) on_proxy_loss: OnProxyLoss,
}

impl PodVerdict {
    /// The agent has taken everything away: no pod is redirected any more.
    pub(crate) fn take_out(&mut self) {
        self.state = State::NotMeshed;
        self.reason = Some("the agent was removed from the node".to_owned());
    }
}

/// The verdict on every pod of the node.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Cluster {
    pub(crate) pods: Vec<PodVerdict>,
    /// IPv4 addresses of the meshed pods.
    pub(crate) meshed: BTreeSet<Ipv4Addr>,
    /// Those of them that pass while there is no ztunnel.
    pub(crate) may_bypass: BTreeSet<Ipv4Addr>,
    /// The Ready ztunnel of this node, newest first.
    pub(crate) proxy: Option<ProxyPod>,
    /// Why there is none.
    pub(crate) proxy_reason: Option<String>,
    /// The node's address as its pods' status names it.
    pub(crate) host_ip: Option<Ipv4Addr>,
    /// The UID of the pod that each attachment is of; of the others there is no pod.
    pub(crate) attached: BTreeMap<AttachmentId, String>,
    pub(crate) problems: Vec<Problem>,
}

impl Cluster {
    /// The meshed pods' addresses, to be known again when their status does not say.
    pub(crate) fn known(&self) -> Known {
        let meshed = self.pods.iter().filter(|pod| pod.state == State::Meshed);
        meshed.map(|pod| (pod.uid.clone(), pod.ips.clone())).collect()
    }

    /// Whether another pod than `proxy`, one that has not ended, has its address.
    pub(crate) fn has_given_away(&self, proxy: &Proxy) -> bool {
        self.pods.iter().any(|pod| pod.uid != proxy.uid && !pod.ended && pod.ips.contains(&proxy.ip))
    }
}

/// Decides about every pod of this node.
pub(crate) fn decide(snapshot: &Snapshot, rules: &Rules<'_>) -> Cluster {
    let pods = snapshot.pods.iter().map(|pod| &**pod);
    let here: Vec<_> = pods.filter(|pod| pod.node.as_deref() == Some(rules.node_name)).collect();
    let namespaces = Namespaces::of(snapshot, rules);
    let mut cluster = Cluster { problems: snapshot.problems.clone(), ..Cluster::default() };
    choose_proxy(&here, rules, &mut cluster);
    let addresses = Addresses { assigned: assign(&here, rules.attachments), known: rules.known };
    let owners = owners(&here, cluster.proxy.as_ref(), &addresses);
    let judged = here.iter().map(|pod| judge(pod, &namespaces, &owners, &addresses, rules));
    for verdict in judged.chain(leaving(&namespaces, &owners, rules)) {
        if verdict.state == State::Refused {
            let object = format!("pod {}/{}", verdict.namespace, verdict.name);
            cluster.problems.push(Problem::new(object, verdict.reason.as_deref().unwrap_or("refused")));
        }
        if matches!(verdict.state, State::Meshed) {
            let ips = verdict.ips.iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(*ip),
                IpAddr::V6(_) => None,
            });
            if verdict.on_proxy_loss == OnProxyLoss::Bypass {
                cluster.may_bypass.extend(ips.clone());
            }
            cluster.meshed.extend(ips);
        }
        cluster.pods.push(verdict);
    }
    cluster.problems.extend(impostors(&here, rules));
    let meshed = cluster.pods.iter().filter(|pod| pod.state == State::Meshed);
    cluster.problems.extend(namespaces.on_proxy_loss.problems(&meshed.map(|pod| pod.namespace.as_str()).collect()));
    let left = rules.attachments.all().iter().filter(|attached| rules.leaving.contains(&attached.id));
    cluster.attached = addresses.assigned.owners;
    cluster.attached.extend(left.filter_map(|attached| Some((attached.id.clone(), attached.pod.uid.clone()?))));
    cluster.pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    cluster
}

/// What namespaces say of their pods.
struct Namespaces<'a> {
    ambient: BTreeSet<&'a str>,
    /// Those that are known, where that is to be all.
    all: Option<BTreeSet<&'a str>>,
    on_proxy_loss: Choices<'a>,
}

impl<'a> Namespaces<'a> {
    fn of(snapshot: &'a Snapshot, rules: &Rules<'_>) -> Self {
        let all = || snapshot.namespaces.iter().map(|namespace| &**namespace);
        let names = || all().map(|namespace| namespace.name.as_str());
        let ambient = all().filter(|namespace| namespace.is_ambient).map(|namespace| namespace.name.as_str());
        Self {
            ambient: ambient.collect(),
            all: snapshot.has_all_namespaces.then(|| names().collect()),
            on_proxy_loss: Choices::new(rules.on_proxy_loss, all()),
        }
    }

    fn is_unheard_of(&self, namespace: &str) -> bool {
        self.all.as_ref().is_some_and(|all| !all.contains(namespace))
    }
}

fn judge(
    pod: &Pod,
    namespaces: &Namespaces<'_>,
    owners: &Owners<'_>,
    addresses: &Addresses<'_>,
    rules: &Rules<'_>,
) -> PodVerdict {
    let ips = addresses.of(pod);
    let malformed = pod.ips.as_ref().err().cloned();
    let membership = membership(pod, namespaces, rules);
    let (state, reason) = match membership {
        Err(reason) => (State::NotMeshed, Some(reason)),
        Ok(Membership::Unknown) => {
            (State::Pending, Some(format!("nothing has been heard of its namespace {} yet", pod.namespace)))
        }
        Ok(Membership::Mesh | Membership::Orphan) => match malformed.or_else(|| unusable(pod, &ips, owners, rules)) {
            Some(reason) => (State::Refused, Some(reason)),
            None if ips.is_empty() && self::ips(pod).is_empty() => (State::Pending, Some("has no IP yet".to_owned())),
            None if ips.is_empty() => (State::Pending, Some("its network was taken down".to_owned())),
            None if !ips.iter().any(IpAddr::is_ipv4) => {
                (State::Refused, Some("has only IPv6 addresses, which are not redirected yet".to_owned()))
            }
            None if membership == Ok(Membership::Orphan) => {
                (State::Meshed, Some(format!("its namespace {} is gone; it stays what it was", pod.namespace)))
            }
            None => (State::Meshed, None),
        },
    };
    PodVerdict {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        ips,
        ended: pod.ended.is_some(),
        state,
        reason,
        on_proxy_loss: namespaces.on_proxy_loss.of(&pod.namespace),
    }
}

/// Of a pod that nothing keeps out of the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Membership {
    Mesh,
    /// Its namespace's to say, and that has not been heard of.
    Unknown,
    /// The same, but it was meshed when that was. A namespace whose finalizers somebody has removed goes before its pods.
    Orphan,
}

/// Pods of which nothing is left but their sandboxes: they stay in the mesh, with what is nobody else's by now.
fn leaving(namespaces: &Namespaces<'_>, owners: &Owners<'_>, rules: &Rules<'_>) -> Vec<PodVerdict> {
    let mut pods: BTreeMap<&str, PodVerdict> = BTreeMap::new();
    for attached in rules.attachments.all().iter().filter(|attached| rules.leaving.contains(&attached.id)) {
        let protocol::Pod { namespace, name, uid: Some(uid) } = &attached.pod else { continue };
        let pod = pods.entry(uid).or_insert_with(|| PodVerdict {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
            ips: Vec::new(),
            ended: false,
            state: State::Meshed,
            reason: Some("was deleted, and its containers may still run".to_owned()),
            on_proxy_loss: namespaces.on_proxy_loss.of(namespace),
        });
        let free = |ip: &&IpAddr| !owners.contains_key(*ip) && !rules.node_addresses.contains(*ip);
        pod.ips.extend(attached.ips.iter().filter(free));
    }
    pods.into_values().filter(|pod| pod.ips.iter().any(IpAddr::is_ipv4)).collect()
}

/// Whether the pod belongs to the mesh; the error says why not.
fn membership(pod: &Pod, namespaces: &Namespaces<'_>, rules: &Rules<'_>) -> Result<Membership, String> {
    let namespace = pod.namespace.as_str();
    if is_candidate(pod, rules) {
        return Err("is ztunnel".into());
    }
    let membership = match pod.mode.as_deref() {
        Some(MODE_AMBIENT) => Membership::Mesh,
        Some(other) => return Err(format!("label {LABEL_MODE}={other}")),
        None if namespaces.ambient.contains(namespace) => Membership::Mesh,
        None if namespaces.is_unheard_of(namespace) && rules.known.contains_key(&pod.uid) => Membership::Orphan,
        None if namespaces.is_unheard_of(namespace) => Membership::Unknown,
        None => return Err(format!("neither it nor namespace {namespace} is labelled {LABEL_MODE}={MODE_AMBIENT}")),
    };
    if pod.is_disabled {
        return Err(format!("annotation {ANNOTATION_REDIRECTION}: {REDIRECTION_DISABLED}"));
    }
    if pod.has_sidecar {
        return Err(format!("has a sidecar (annotation {ANNOTATION_SIDECAR})"));
    }
    if pod.is_host_network {
        return Err("uses the node's network (hostNetwork)".into());
    }
    if let Some(phase) = pod.ended {
        return Err(format!("has ended (phase {phase})"));
    }
    Ok(membership)
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

/// Which pods the attachments are of. A pod that starts has not ended; one of its name may have.
fn assign<'a>(pods: &[&'a Pod], attachments: &'a Book) -> Assigned<'a> {
    let mut sorted: Vec<_> = pods.iter().copied().filter(|pod| pod.ended.is_none()).collect();
    sorted.sort_by_key(|pod| age_key(pod));
    attachments.assign(&sorted.into_iter().map(named).collect::<Vec<_>>())
}

fn named(pod: &Pod) -> Named<'_> {
    Named { namespace: &pod.namespace, name: &pod.name, uid: &pod.uid, runtime_uid: pod.runtime_uid.as_deref() }
}

/// Where pods' addresses are from.
struct Addresses<'a> {
    assigned: Assigned<'a>,
    known: &'a Known,
}

impl Addresses<'_> {
    /// Those that a pod's status and its attachments name. Where neither names any, as for a while after a reboot of the node or of
    /// its runtime, those that it was meshed with: it may be talking.
    fn of(&self, pod: &Pod) -> Vec<IpAddr> {
        let mut ips = ips(pod).to_vec();
        self.assigned.complete(named(pod), &mut ips);
        if ips.is_empty() && pod.ips.as_ref().is_ok_and(Vec::is_empty) {
            ips = self.known.get(&pod.uid).cloned().unwrap_or_default();
            self.assigned.complete(named(pod), &mut ips);
        }
        ips
    }
}

/// Which pod an address belongs to: the newest that claims it, because an ended or forgotten pod's address is given away; before
/// all that is claimed, the pod that it was attached to last; after all, one that was meshed with it and claims none; ztunnel's is
/// ztunnel's, whoever claims it.
type Owners<'a> = BTreeMap<IpAddr, &'a Pod>;

fn owners<'a>(pods: &[&'a Pod], proxy: Option<&ProxyPod>, addresses: &Addresses<'_>) -> Owners<'a> {
    let mut sorted: Vec<_> = pods.iter().copied().filter(|pod| !pod.is_host_network && pod.ended.is_none()).collect();
    let is_chosen = |pod: &Pod| proxy.is_some_and(|proxy| pod.uid == proxy.uid);
    let rank =
        |pod: &Pod, ip| (is_chosen(pod), addresses.assigned.owner(ip) == Some(named(pod)), ips(pod).contains(&ip));
    sorted.sort_by_key(|pod| age_key(pod));
    let claims = sorted
        .iter()
        .flat_map(|pod| addresses.of(pod).into_iter().map(|ip| (rank(pod, ip), ip, *pod)).collect::<Vec<_>>());
    let mut claims: Vec<_> = claims.collect();
    // Stable: among equals the newest pod stays last.
    claims.sort_by_key(|(rank, ..)| *rank);
    claims.into_iter().map(|(_, ip, pod)| (ip, pod)).collect()
}

/// Older pods sort first; the uid makes the order total.
fn age_key(pod: &Pod) -> (Option<i128>, &str) {
    (pod.created, &pod.uid)
}

fn choose_proxy(pods: &[&Pod], rules: &Rules<'_>, cluster: &mut Cluster) {
    let mut candidates: Vec<_> = pods.iter().filter(|pod| is_candidate(pod, rules)).collect();
    // The newest, and one that ends only if there is no other: what is new would be cut off with it.
    candidates.sort_by_key(|pod| (pod.is_terminating, Reverse(age_key(pod))));
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
    if pod.is_host_network {
        return Err("uses the node's network (hostNetwork); ztunnel needs a network of its own".into());
    }
    if let Some(phase) = pod.ended {
        return Err(format!("has ended (phase {phase})"));
    }
    if !pod.is_ready {
        return Err("is not Ready".into());
    }
    let ips = pod.ips.as_ref().map_err(Clone::clone)?;
    let ip = ips.iter().copied().find(IpAddr::is_ipv4).ok_or("has no IPv4 address yet")?;
    let proxy = ProxyPod { uid: pod.uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone(), ip };
    Ok((proxy, pod.host_ip))
}

/// Pods that look like ztunnel where it does not run.
fn impostors(pods: &[&Pod], rules: &Rules<'_>) -> Vec<Problem> {
    let elsewhere = pods.iter().filter(|pod| pod.is_proxy && pod.namespace != rules.proxy_namespace);
    let message = format!(
        "is labelled app={PROXY_APP} outside namespace {}; it is not taken for the node proxy",
        rules.proxy_namespace
    );
    elsewhere.map(|pod| Problem::new(object(pod), &message)).collect()
}

fn object(pod: &Pod) -> String {
    format!("pod {}/{}", pod.namespace, pod.name)
}

/// Whether the pod is labelled as ztunnel where ztunnel runs.
fn is_candidate(pod: &Pod, rules: &Rules<'_>) -> bool {
    pod.is_proxy && pod.namespace == rules.proxy_namespace
}

/// Its addresses, if they can be read.
fn ips(pod: &Pod) -> &[IpAddr] {
    pod.ips.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
