//! What the agent says of itself, as JSON and as text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use redirect_cni::protocol::{self, AttachmentId};
use serde::{Deserialize, Serialize};

use crate::cni::desk::Answers;
use crate::enrol::{PodVerdict, State};
use crate::install::{self, PluginStatus};
use crate::kernel::netns::NetnsId;
use crate::reconcile::heart::Stuck;
use crate::reconcile::repairs::Repair;
use crate::resources::blocked::Packets;
use crate::resources::chain::backend::Backend;
use crate::resources::ledger::{Kind, Problem, Writes};
use crate::trace::Traced;

/// How many repairs are shown to a person, newest first.
const SHOWN_REPAIRS: usize = 5;

/// The agent's status.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) node: String,
    /// The mode in force.
    pub(crate) mode: String,
    /// The mode that was asked for.
    pub(crate) requested_mode: String,
    /// Why the mode in force is another.
    pub(crate) fallback_reason: Option<String>,
    /// How programs are attached in ebpf mode.
    pub(crate) tc_attach: Option<String>,
    /// Which iptables is used.
    pub(crate) backend: Option<Backend>,
    /// The last run ended with everything as planned, and none has been under way for long.
    pub(crate) ready: bool,
    /// The last run ended with everything as planned, read back, whatever the one that is under way does.
    pub(crate) settled: bool,
    pub(crate) reconciles: u64,
    /// The run that is under way, when it takes too long.
    #[serde(default)]
    pub(crate) stuck: Option<Stuck>,
    pub(crate) writes: Writes,
    /// Those of the writes that put back what somebody else had changed.
    pub(crate) repairs: Writes,
    /// The last of them, oldest first.
    #[serde(default)]
    pub(crate) last_repairs: Vec<Repair>,
    /// Things that others change again and again; each is among the problems too.
    #[serde(default)]
    pub(crate) fights: u64,
    /// Tools (iptables, ipset, nft) that were run.
    #[serde(default)]
    pub(crate) processes: u64,
    /// Packets that the BPF programs judged, by verdict, at the end of the last run.
    #[serde(default)]
    pub(crate) packets: Packets,
    /// Packets that did not pass because of us, by why, since the agent began or before.
    #[serde(default)]
    pub(crate) blocked: Packets,
    /// UDP port of the tunnels.
    pub(crate) tunnel_port: Option<u16>,
    #[serde(default)]
    pub(crate) source: SourceStatus,
    #[serde(default)]
    pub(crate) cni: CniStatus,
    pub(crate) proxy: ProxyStatus,
    /// The one before it, while what it began goes on with it.
    #[serde(default)]
    pub(crate) draining: Option<Former>,
    pub(crate) pods: Vec<PodVerdict>,
    /// How many of them pass unproxied, because ztunnel is away and they are to.
    #[serde(default)]
    pub(crate) bypassed: u64,
    /// The CNI plugin, where the agent is to install it.
    #[serde(default)]
    pub(crate) cni_plugin: Option<PluginStatus>,
    /// The pod that is traced.
    #[serde(default)]
    pub(crate) trace: Option<Traced>,
    /// What is not wrong by itself, and may explain what is.
    #[serde(default)]
    pub(crate) notes: Vec<Problem>,
    pub(crate) problems: Vec<Problem>,
}

/// Where pods are learnt of.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SourceStatus {
    pub(crate) kind: String,
    /// Whether all there was has been heard of once; before, nothing is changed on the node.
    pub(crate) complete: bool,
    /// Since when nothing new can have been heard of; what was known stays in force.
    pub(crate) stale_since: Option<Timestamp>,
}

/// What the CNI plugin has said, and was answered, at the end of the last run.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct CniStatus {
    /// Up to which of the clients' changes the run has seen.
    #[serde(skip)]
    pub(crate) seen: u64,
    pub(crate) attachments: Vec<AttachmentStatus>,
    /// By request and answer.
    pub(crate) answers: Answers,
}

/// A pod's connection to a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct AttachmentStatus {
    #[serde(flatten)]
    pub(crate) id: AttachmentId,
    pub(crate) pod: protocol::Pod,
    pub(crate) ips: Vec<IpAddr>,
    /// Whether the pod has been heard of.
    pub(crate) known: bool,
}

/// ztunnel.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ProxyStatus {
    pub(crate) state: ProxyState,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) veth: Option<String>,
    /// Its network namespace, which is held open and so nobody else's.
    #[serde(skip)]
    pub(crate) netns: Option<NetnsId>,
    pub(crate) reason: Option<String>,
}

/// A ztunnel that another has followed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Former {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) ip: IpAddr,
    pub(crate) veth: String,
}

/// How far ztunnel is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProxyState {
    /// There is none; meshed pods' TCP is blocked, but for those that are to pass.
    #[default]
    Absent,
    /// There is one, and its datapath is not whole.
    Pending,
    /// Its datapath stands.
    Programmed,
}

/// For a person. Every line stands by itself, so that a part of it can be pasted.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attach = self.tc_attach.as_ref().map_or_else(String::new, |attach| format!("{attach}, "));
        let backend = self.backend.map_or_else(String::new, |backend| format!(" ({attach}{backend})"));
        let health = if self.ready { "ready" } else { "NOT READY" };
        writeln!(f, "node {}: {health}, mode {}{backend}", self.node, self.mode)?;
        if let Some(reason) = &self.fallback_reason {
            writeln!(f, "fallback: asked for mode {}; {reason}", self.requested_mode)?;
        }
        writeln!(f, "ztunnel: {}", self.proxy)?;
        if let Some(Former { namespace, name, ip, veth, .. }) = &self.draining {
            writeln!(f, "draining: {namespace}/{name} {ip} on {veth}; connections that it has stay with it")?;
        }
        let meshed = self.pods.iter().filter(|pod| pod.state == State::Meshed).count();
        let bypassed = match self.bypassed {
            0 => String::new(),
            bypassed => format!(", {bypassed} BYPASSED,"),
        };
        writeln!(f, "pods: {meshed} meshed{bypassed} of {} on this node", self.pods.len())?;
        for pod in &self.pods {
            writeln!(f, "  {}", pod_line(pod))?;
        }
        if self.cni != CniStatus::default() {
            writeln!(f, "cni: {}", self.cni)?;
        }
        writeln!(f, "writes: {}; repairs: {}", counts(&self.writes), counts(&self.repairs))?;
        for repair in self.last_repairs.iter().rev().take(SHOWN_REPAIRS) {
            writeln!(f, "repaired: {repair}")?;
        }
        for (what, packets) in [("packets", &self.packets), ("blocked", &self.blocked)] {
            if !packets.is_empty() {
                writeln!(f, "{what}: {}", listed(packets))?;
            }
        }
        if let Some(plugin) = &self.cni_plugin {
            writeln!(f, "cni plugin: {plugin}")?;
        }
        if let Some(Traced { pod, lost }) = &self.trace {
            writeln!(f, "trace: {pod}, in the agent's log; {lost} lines were too many")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {}: {}", note.object, note.message)?;
        }
        for problem in &self.problems {
            writeln!(f, "problem: {}: {}", problem.object, problem.message)?;
        }
        Ok(())
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, place, kind, object, found } = self;
        write!(f, "{at:.0} {place}: {} {object}", kind.name())?;
        found.as_ref().map_or(Ok(()), |found| write!(f, "; found {found}"))
    }
}

impl fmt::Display for ProxyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            ProxyState::Absent => "absent (meshed pods' TCP is blocked, unless they are bypassed)",
            ProxyState::Pending => "pending",
            ProxyState::Programmed => "programmed",
        };
        f.write_str(state)?;
        if let (Some(namespace), Some(name), Some(ip)) = (&self.namespace, &self.name, self.ip) {
            write!(f, ", {namespace}/{name} {ip}")?;
        }
        if let Some(veth) = &self.veth {
            write!(f, " on {veth}")?;
        }
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

impl fmt::Display for PluginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            install::State::Waiting => "not installed yet",
            install::State::Pending => "NOT INSTALLED",
            install::State::Installed => "installed",
        })?;
        if let Some(list) = &self.list {
            write!(f, ", {} in {}", self.program.display(), list.display())?;
        }
        write!(f, "; repairs: {}", self.repairs)
    }
}

impl fmt::Display for CniStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attachments", self.attachments.len())?;
        for (request, answers) in &self.answers {
            write!(f, "; {request}: {}", listed(answers))?;
        }
        Ok(())
    }
}

fn pod_line(pod: &PodVerdict) -> String {
    let state = match pod.state {
        State::Meshed => "meshed",
        State::Pending => "pending",
        State::Bypassed => "BYPASSED",
        State::NotMeshed => "not meshed",
        State::Refused => "refused",
    };
    let ips: Vec<_> = pod.ips.iter().map(ToString::to_string).collect();
    let reason = pod.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{state:<10} {}/{} {}{reason}", pod.namespace, pod.name, ips.join(","))
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
}

fn counts(writes: &Writes) -> String {
    let mut text = writes.total().to_string();
    let kinds = Kind::ALL.into_iter().filter(|kind| writes.of(*kind) > 0);
    for (at, kind) in kinds.enumerate() {
        let _ = write!(text, "{}{} {}", if at == 0 { " (" } else { ", " }, kind.name(), writes.of(kind));
    }
    if writes.total() > 0 {
        text.push(')');
    }
    text
}
