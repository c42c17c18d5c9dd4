//! Services as kube-proxy writes them on a node, in each of its modes, reduced to one endpoint each.

use std::env;
use std::net::SocketAddrV4;

use anyhow::{Context, Error, Result};
use clap::ValueEnum;

use crate::backend::Backend;
use crate::command::Cmd;
use crate::netns::Netns;

mod iptables;
mod ipvs;
mod nftables;

/// A `ClusterIP` and the one server behind it.
#[derive(Clone, Debug)]
pub struct Service {
    /// `namespace/name`, for the rules' comments.
    pub name: &'static str,
    /// What kube-proxy makes of the name's hash; the lab needs no hash.
    pub id: &'static str,
    /// The address that clients use.
    pub cluster_ip: SocketAddrV4,
    /// The server.
    pub endpoint: SocketAddrV4,
}

/// kube-proxy's modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Kind {
    /// Chains in nat, by whichever iptables the node has.
    Iptables,
    /// A table of its own in nftables.
    Nftables,
    /// Virtual servers; their addresses are the node's own, on a dummy link.
    Ipvs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Iptables, Self::Nftables, Self::Ipvs];

    /// The one that `REDIRECT_KUBE_PROXY` asks for; iptables if it does not.
    pub fn chosen() -> Result<Self> {
        match env::var("REDIRECT_KUBE_PROXY") {
            Ok(name) => Self::from_str(&name, false).map_err(Error::msg).context("REDIRECT_KUBE_PROXY"),
            Err(_) => Ok(Self::Iptables),
        }
    }
}

/// Writes kubelet's chains, and kube-proxy's rules in the mode that is chosen, into `node`.
pub fn install(node: &Netns, backend: Backend, services: &[Service]) -> Result<()> {
    // The canary is how agents see which backend a host's kubelet uses, whatever kube-proxy's mode.
    restore(node, backend, "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n").context("kubelet's chain")?;
    install_as(Kind::chosen()?, node, backend, services)
}

/// Takes away what [`install`] wrote: the node as it is before kubelet and kube-proxy have started.
pub fn uninstall(node: &Netns, backend: Backend, services: &[Service]) -> Result<()> {
    remove(Kind::chosen()?, node, backend, services)?;
    restore(node, backend, "*mangle\n-X KUBE-KUBELET-CANARY\nCOMMIT\n").context("kubelet's chain")
}

/// Writes kube-proxy's rules in one of its modes.
pub fn install_as(kind: Kind, node: &Netns, backend: Backend, services: &[Service]) -> Result<()> {
    match kind {
        Kind::Iptables => iptables::install(node, backend, services),
        Kind::Nftables => nftables::install(node, services),
        Kind::Ipvs => ipvs::install(node, backend, services),
    }
    .with_context(|| format!("cannot write the rules of kube-proxy ({kind:?})"))
}

/// Takes away what [`install_as`] wrote, as `kube-proxy --cleanup` does.
pub fn remove(kind: Kind, node: &Netns, backend: Backend, services: &[Service]) -> Result<()> {
    match kind {
        Kind::Iptables => iptables::remove(node, backend, services),
        Kind::Nftables => nftables::remove(node),
        Kind::Ipvs => ipvs::remove(node, backend),
    }
    .with_context(|| format!("cannot remove the rules of kube-proxy ({kind:?})"))
}

fn restore(node: &Netns, backend: Backend, rules: &str) -> Result<()> {
    let command = Cmd::new(backend.restore()).args(["--wait", "10", "--noflush"]);
    command.netns(node).stdin(rules).run().map(drop)
}
