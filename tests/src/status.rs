//! What `redirect-agent status -o json` says. Fields that the lab does not use are not read.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::time::parse_rfc3339;

/// Numbers of changes to the kernel, by kind of resource, and `total`.
pub type Writes = BTreeMap<String, u64>;

/// The agent's view of its node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// `--node-name`.
    pub node: String,
    /// The mode in force: `iptables` or `ebpf`.
    pub mode: String,
    /// The mode that was asked for.
    #[serde(default)]
    pub requested_mode: Option<String>,
    /// Why the mode in force is another one.
    #[serde(default)]
    pub fallback_reason: Option<String>,
    /// `tcx` or `clsact`, in ebpf mode.
    #[serde(default)]
    pub tc_attach: Option<String>,
    /// `nft` or `legacy`.
    pub backend: Option<String>,
    /// Whether the first complete pass is done.
    pub ready: bool,
    /// Whether all events are consumed and the datapath reads back as planned.
    pub settled: bool,
    /// Passes so far.
    pub reconciles: u64,
    /// The pass that is under way, when it takes too long.
    #[serde(default)]
    pub stuck: Option<Stuck>,
    /// Changes made to the kernel since the agent started.
    pub writes: Writes,
    /// Those of them that repaired drift.
    #[serde(default)]
    pub repairs: Writes,
    /// The last of them, oldest first.
    #[serde(default)]
    pub last_repairs: Vec<Repair>,
    /// Things that others change again and again.
    #[serde(default)]
    pub fights: u64,
    /// Tools (iptables, ipset, nft) that it has run.
    #[serde(default)]
    pub processes: u64,
    /// Packets that were dropped so that none passes ztunnel by, by why.
    #[serde(default)]
    pub blocked: BTreeMap<String, u64>,
    /// UDP port of the tunnels.
    pub tunnel_port: Option<u16>,
    /// ztunnel.
    pub proxy: Proxy,
    /// The one before it, while what it began goes on with it.
    #[serde(default)]
    pub draining: Option<Former>,
    /// How many pods pass unproxied, as ztunnel is away and they are to.
    #[serde(default)]
    pub bypassed: u64,
    /// The pods of this node.
    pub pods: Vec<PodStatus>,
    /// The CNI plugin, where the agent is to install it.
    #[serde(default)]
    pub cni_plugin: Option<CniPlugin>,
    /// What the CNI plugin told of.
    #[serde(default)]
    pub cni: Cni,
    /// The pod that is traced.
    #[serde(default)]
    pub trace: Option<Traced>,
    /// What is not wrong, and worth knowing.
    #[serde(default)]
    pub notes: Vec<Problem>,
    /// What is wrong.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// Something that was put back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repair {
    /// When, as RFC 3339 has it.
    pub at: String,
    /// `node` or `ztunnel`.
    pub place: String,
    /// `link`, `route` and so on.
    pub kind: String,
    /// Which one.
    pub object: String,
    /// What was there in its place.
    pub found: Option<String>,
}

impl Repair {
    /// When.
    pub fn at(&self) -> Result<SystemTime> {
        parse_rfc3339(&self.at).with_context(|| format!("{:?} is no time", self.at))
    }
}

/// The CNI plugin on the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CniPlugin {
    /// `waiting`, `pending` or `installed`.
    pub state: String,
    /// The list that has the entry.
    pub list: Option<std::path::PathBuf>,
    /// How often it was put back.
    pub repairs: u64,
}

/// ztunnel as the agent sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proxy {
    /// `absent`, `pending` or `programmed`.
    pub state: String,
    /// Pod name.
    pub name: Option<String>,
    /// Pod UID.
    pub uid: Option<String>,
    /// Pod address.
    pub ip: Option<String>,
    /// The node's end of its veth.
    pub veth: Option<String>,
    /// Why it is not programmed.
    pub reason: Option<String>,
}

/// A ztunnel that another has followed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Former {
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
}

/// A pod as the agent sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodStatus {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Addresses.
    pub ips: Vec<String>,
    /// `meshed`, `pending`, `bypassed`, `not-meshed` or `refused`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
}

/// What the CNI plugin told of, and was told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cni {
    /// Pods' connections to networks.
    pub attachments: Vec<Attachment>,
    /// How often it was answered what, by request.
    pub answers: BTreeMap<String, BTreeMap<String, u64>>,
}

/// A pod's connection to a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// The runtime's name for the container.
    pub container: String,
    /// Addresses.
    pub ips: Vec<String>,
    /// Whether its pod has been heard of.
    pub known: bool,
}

/// The pod that is traced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Traced {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Lines that were too many to be shown.
    pub lost: u64,
}

/// A pass that takes too long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stuck {
    /// For how long.
    pub seconds: u64,
    /// What it is at.
    pub at: String,
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `pod default/x`, `file foo.yaml`, `link istioin`.
    pub object: String,
    /// What is wrong with it.
    pub message: String,
}

impl Status {
    /// All changes made to the kernel.
    #[must_use]
    pub fn total_writes(&self) -> u64 {
        self.writes.get("total").copied().unwrap_or_default()
    }

    /// All changes that repaired drift.
    #[must_use]
    pub fn total_repairs(&self) -> u64 {
        self.repairs.get("total").copied().unwrap_or_default()
    }

    /// The pod called `name`.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<&PodStatus> {
        self.pods.iter().find(|pod| pod.name == name)
    }

    /// Whether the pod called `name` is meshed.
    #[must_use]
    pub fn meshed(&self, name: &str) -> bool {
        self.is(name, "meshed")
    }

    /// Whether the pod called `name` is in this state.
    #[must_use]
    pub fn is(&self, name: &str, state: &str) -> bool {
        self.pod(name).is_some_and(|pod| pod.state == state)
    }

    /// The attachment of this container.
    #[must_use]
    pub fn attachment(&self, container: &str) -> Option<&Attachment> {
        self.cni.attachments.iter().find(|attachment| attachment.container == container)
    }

    /// Whether a note has these words.
    #[must_use]
    pub fn has_note(&self, words: &str) -> bool {
        self.notes.iter().any(|note| note.message.contains(words))
    }

    /// Whether the pod called `name` is `proxy`, and everything is in place.
    #[must_use]
    pub fn proxied_by(&self, name: &str) -> bool {
        self.settled && self.proxy.state == "programmed" && self.proxy.name.as_deref() == Some(name)
    }

    /// Whether a problem or a pod's reason mentions both words.
    #[must_use]
    pub fn complains(&self, object: &str, about: &str) -> bool {
        let problems = self.problems.iter().map(|problem| (problem.object.clone(), problem.message.clone()));
        let pods = self.pods.iter().filter(|pod| pod.state != "meshed" && pod.state != "not-meshed");
        let reasons =
            pods.map(|pod| (format!("{}/{}", pod.namespace, pod.name), pod.reason.clone().unwrap_or_default()));
        let proxy = (self.proxy.name.clone().unwrap_or_default(), self.proxy.reason.clone().unwrap_or_default());
        problems.chain(reasons).chain([proxy]).any(|(name, text)| {
            format!("{name}: {text}").contains(object) && text.to_lowercase().contains(&about.to_lowercase())
        })
    }
}
