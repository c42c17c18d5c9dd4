//! kube-proxy's iptables mode.

use anyhow::Result;

use super::{Service, restore};
use crate::backend::Backend;
use crate::netns::Netns;

/// Its jumps: table, built-in chain, rule. A kube-proxy that starts puts them ahead of whatever is there.
const JUMPS: [(&str, &str, &str); 4] = [
    ("filter", "FORWARD", "-m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD"),
    ("nat", "PREROUTING", "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES"),
    ("nat", "OUTPUT", "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES"),
    ("nat", "POSTROUTING", "-m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING"),
];
const NAT: [&str; 3] = ["KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"];

pub(super) fn install(node: &Netns, backend: Backend, services: &[Service]) -> Result<()> {
    restore(node, backend, &rules(services))
}

pub(super) fn remove(node: &Netns, backend: Backend, services: &[Service]) -> Result<()> {
    let own =
        services.iter().flat_map(|service| [format!("KUBE-SVC-{}", service.id), format!("KUBE-SEP-{}", service.id)]);
    let chains: Vec<String> = NAT.into_iter().map(str::to_owned).chain(own).collect();
    let each = |command: &str| chains.iter().flat_map(|chain| [command, " ", chain, "\n"]).collect::<String>();
    let script = format!(
        "*filter\n{}-F KUBE-FORWARD\n-X KUBE-FORWARD\nCOMMIT\n*nat\n{}{}{}COMMIT\n",
        jumps("filter", "-D"),
        jumps("nat", "-D"),
        each("-F"),
        each("-X")
    );
    restore(node, backend, &script)
}

fn jumps(table: &str, command: &str) -> String {
    let jumps = JUMPS.iter().filter(|(other, ..)| *other == table);
    jumps.flat_map(|(_, chain, rule)| [command, " ", chain, " ", rule, "\n"]).collect()
}

/// The mark is kube-proxy's own bit, 0x4000.
fn rules(services: &[Service]) -> String {
    let chains: String = services.iter().map(chains_of).collect();
    let rules: String = services.iter().map(rules_of).collect();
    let (filter, nat) = (jumps("filter", "-I"), jumps("nat", "-I"));
    format!(
        "*filter\n:KUBE-FORWARD - [0:0]\n{filter}\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}{nat}\
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
