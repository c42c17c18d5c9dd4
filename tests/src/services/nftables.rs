//! kube-proxy's nftables mode: a table of its own, with a map from service to chain. Beside the translation it has a check
//! that concerns us: what is forwarded to a `ClusterIP` and was not translated is rejected.

use anyhow::Result;

use super::Service;
use crate::command::Cmd;
use crate::netns::Netns;

/// Its base chains and what does not depend on services. The mark is kube-proxy's own bit, 0x4000.
const FRAME: &str = "\
    chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
    chain masquerading {
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }
    chain cluster-ips-check { ip daddr @cluster-ips reject; }
    chain filter-forward {
        type filter hook forward priority -110;
        ct state new jump cluster-ips-check
    }
    chain filter-output-post-dnat {
        type filter hook output priority -90;
        ct state new jump cluster-ips-check
    }
    chain nat-prerouting {
        type nat hook prerouting priority -100;
        jump services
    }
    chain nat-output {
        type nat hook output priority -100;
        jump services
    }
    chain nat-postrouting {
        type nat hook postrouting priority 100;
        jump masquerading
    }
";

pub(super) fn install(node: &Netns, services: &[Service]) -> Result<()> {
    Cmd::line("nft -f -").netns(node).stdin(table(services)).run().map(drop)
}

pub(super) fn remove(node: &Netns) -> Result<()> {
    Cmd::line("nft delete table ip kube-proxy").netns(node).run().map(drop)
}

fn table(services: &[Service]) -> String {
    let chains: String = services.iter().map(chain_of).collect();
    let addresses: Vec<_> = services.iter().map(|service| service.cluster_ip.ip().to_string()).collect();
    let elements: Vec<_> = services.iter().map(element_of).collect();
    format!(
        "table ip kube-proxy {{
    set cluster-ips {{ type ipv4_addr; elements = {{ {} }}; }}
{chains}
    map service-ips {{
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = {{ {} }}
    }}
    chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
{FRAME}}}
",
        addresses.join(", "),
        elements.join(", ")
    )
}

fn chain_of(service: &Service) -> String {
    let Service { id, endpoint, .. } = service;
    format!(
        "    chain service-{id} {{
        ip saddr {} jump mark-for-masquerade
        meta l4proto tcp dnat to {endpoint}
    }}\n",
        endpoint.ip()
    )
}

fn element_of(service: &Service) -> String {
    let Service { id, cluster_ip, .. } = service;
    format!("{} . tcp . {} : goto service-{id}", cluster_ip.ip(), cluster_ip.port())
}
