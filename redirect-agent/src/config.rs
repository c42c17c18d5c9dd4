//! What an operator configures, checked.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{Mode, TcAttach};
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
    /// How often everything is read back without an event.
    pub(crate) resync: Duration,
}
