//! What an operator configures, checked.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::resources::chain::backend::Backend;

/// Configuration of a running agent.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// As in `spec.nodeName`.
    pub(crate) node_name: String,
    /// Where pods are learnt of, as `status` names it.
    pub(crate) source: &'static str,
    /// The node's address that tunnels end at; `None` takes the pods' `status.hostIP`.
    pub(crate) node_ip: Option<Ipv4Addr>,
    /// Namespace where ztunnel runs.
    pub(crate) proxy_namespace: String,
    /// `None` takes the one that the host uses.
    pub(crate) backend: Option<Backend>,
    /// How packets are to be marked.
    pub(crate) mode: Mode,
    /// How programs are attached.
    pub(crate) tc_attach: TcAttach,
    /// Where BPF cannot be used, end and do not go on in iptables mode.
    pub(crate) no_fallback: bool,
    /// How many flows are remembered.
    pub(crate) flows: u32,
    /// Where programs and maps are pinned.
    pub(crate) bpf_dir: PathBuf,
    /// Record, lock and socket.
    pub(crate) state_dir: PathBuf,
    /// What becomes of meshed pods while there is no ztunnel, unless their namespace says otherwise.
    pub(crate) on_proxy_loss: OnProxyLoss,
    /// How long a former ztunnel keeps what it began.
    pub(crate) drain_timeout: Duration,
    /// How often everything is read back without an event.
    pub(crate) resync: Duration,
}

/// How packets are marked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// tc programs that look pods up in a BPF map; iptables where BPF cannot be used.
    Ebpf,
    /// iptables rules and an ipset.
    Iptables,
}

impl Mode {
    /// As the command line and `status` name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
        }
    }
}

/// What becomes of a meshed pod's TCP while no ztunnel on its node is Ready.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnProxyLoss {
    /// It is blocked, in and out.
    #[default]
    Block,
    /// It passes unproxied, as if the pod were not meshed.
    Bypass,
}

impl OnProxyLoss {
    /// The one that an annotation names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        <Self as ValueEnum>::from_str(name, false).ok()
    }
}

/// How tc programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum TcAttach {
    /// TCX where the kernel has it, else clsact.
    Auto,
    /// BPF links (Linux 6.6).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}
