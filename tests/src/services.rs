//! Services as kube-proxy's iptables mode writes them on a node, reduced to one endpoint each.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};

use crate::backend::Backend;
use crate::command::Cmd;
use crate::netns::Netns;

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

/// Writes kubelet's and kube-proxy's chains into `node`.
pub fn install(node: &Netns, backend: Backend, services: &[Service]) -> Result<()> {
    Cmd::new(backend.restore())
        .args(["--wait", "10", "--noflush"])
        .netns(node)
        .stdin(rules(services))
        .run()
        .map(drop)
        .context("cannot write the rules of kube-proxy")
}

/// The canary is how agents see which backend a host's kubelet uses; the mark is kube-proxy's own bit, 0x4000.
fn rules(services: &[Service]) -> String {
    let chains: String = services.iter().map(chains_of).collect();
    let rules: String = services.iter().map(rules_of).collect();
    format!(
        "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n\
         -I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}\
         -I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE\n\
         {rules}COMMIT\n"
    )
}

fn chains_of(service: &Service) -> String {
    format!(":KUBE-SVC-{0} - [0:0]\n:KUBE-SEP-{0} - [0:0]\n", service.id)
}

fn rules_of(service: &Service) -> String {
    let Service { name, id, cluster_ip, endpoint } = service;
    format!(
        "-A KUBE-SERVICES -d {}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {} -j KUBE-SVC-{id}\n\
         -A KUBE-SVC-{id} -m comment --comment \"{name}\" -j KUBE-SEP-{id}\n\
         -A KUBE-SEP-{id} -s {}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ\n\
         -A KUBE-SEP-{id} -p tcp -m comment --comment \"{name}\" -m tcp -j DNAT --to-destination {endpoint}\n",
        cluster_ip.ip(),
        cluster_ip.port(),
        endpoint.ip(),
    )
}
