//! kube-proxy's ipvs mode: virtual servers, whose addresses are the node's own on a dummy link, and iptables for what is left
//! to do, which is to masquerade what does not come from a pod.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Service, restore};
use crate::backend::Backend;
use crate::command::Cmd;
use crate::layout::POD_SUBNET;
use crate::netns::Netns;
use crate::node::{ip_batch, set_sysctls};

/// The dummy link.
const LINK: &str = "kube-ipvs0";

/// The settings are kube-proxy's: without the first, packets of ipvs are not tracked.
const SYSCTLS: [(&str, &str); 3] = [
    ("net/ipv4/vs/conntrack", "1"),
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];

pub(super) fn install(node: &Netns, backend: Backend, services: &[Service]) -> Result<()> {
    let add = format!("link add {LINK} type dummy");
    let addresses = services.iter().map(|service| format!("addr add {}/32 dev {LINK}", service.cluster_ip.ip()));
    let commands: Vec<_> = [add].into_iter().chain(addresses).collect();
    ip_batch(node, &commands.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut servers = String::new();
    for Service { cluster_ip, endpoint, .. } in services {
        let _ = write!(servers, "-A -t {cluster_ip} -s rr\n-a -t {cluster_ip} -r {endpoint} -m\n");
    }
    Cmd::line("ipvsadm --restore").netns(node).stdin(servers).run()?;
    set_sysctls(node, &SYSCTLS)?;
    restore(node, backend, &rules(services))
}

pub(super) fn remove(node: &Netns, backend: Backend) -> Result<()> {
    Cmd::line("ipvsadm --clear").netns(node).run()?;
    ip_batch(node, &[&format!("link del {LINK}")])?;
    let jumps = "-D PREROUTING -j KUBE-SERVICES\n-D OUTPUT -j KUBE-SERVICES\n-D POSTROUTING -j KUBE-POSTROUTING\n";
    let chains = "-F KUBE-SERVICES\n-F KUBE-POSTROUTING\n-X KUBE-SERVICES\n-X KUBE-POSTROUTING\n";
    restore(node, backend, &format!("*nat\n{jumps}{chains}COMMIT\n"))
}

/// kube-proxy keeps the addresses in an ipset; here each has a rule.
fn rules(services: &[Service]) -> String {
    let mark = |service: &Service| {
        let (ip, port) = (service.cluster_ip.ip(), service.cluster_ip.port());
        format!("-A KUBE-SERVICES ! -s {POD_SUBNET} -d {ip}/32 -p tcp --dport {port} -j MARK --or-mark 0x4000\n")
    };
    let marks: String = services.iter().map(mark).collect();
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         -I PREROUTING -j KUBE-SERVICES\n-I OUTPUT -j KUBE-SERVICES\n-I POSTROUTING -j KUBE-POSTROUTING\n{marks}\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE\nCOMMIT\n"
    )
}
