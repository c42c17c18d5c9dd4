//! What an operator looks at on a node that redirects, and whether it reads as the design says.

mod pods;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use clap::ValueEnum as _;
use redirect_common::names::{self, ISTIOIN, ISTIOOUT, TUNNEL_PORT, TUNNEL_PREFIX, TUNNELS};

use crate::cni::Topology;
use crate::command::Cmd;
use crate::lab::Lab;
use crate::layout::{BRIDGE, NODE_IP};
use crate::mode::Mode;

pub use pods::meshed;

/// One command, what it printed, and what of it is not as it must be.
#[derive(Debug)]
pub struct View {
    /// As a person types it, on the node.
    pub command: String,
    /// What it printed.
    pub text: String,
    /// What is missing or too much; empty is right.
    pub wrong: Vec<String>,
}

/// The facts that the views depend on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// ztunnel's address.
    pub proxy: Ipv4Addr,
    /// The node's link towards ztunnel.
    pub proxy_link: String,
    /// UDP port of the tunnels.
    pub port: u16,
    /// Addresses of the meshed pods.
    pub meshed: Vec<Ipv4Addr>,
    /// The mode in force.
    pub mode: Mode,
}

impl Facts {
    /// The facts as the lab knows them, not as the agent tells them.
    pub fn of(lab: &Lab, proxy: &str, meshed: &[&str]) -> Result<Self> {
        let pod = lab.pod(proxy)?;
        let proxy_link = match lab.options().topology {
            Topology::Ptp => pod.host_link.clone().with_context(|| format!("{proxy} is not plumbed"))?,
            Topology::Bridge => BRIDGE.to_owned(),
        };
        let meshed = meshed.iter().map(|name| lab.pod(name)?.ip()).collect::<Result<_>>()?;
        Ok(Self { proxy: pod.ip()?, proxy_link, port: TUNNEL_PORT, meshed, mode: in_force(lab)? })
    }
}

/// The mode that the agent says it is in.
pub fn in_force(lab: &Lab) -> Result<Mode> {
    Mode::from_str(&lab.status()?.mode, false).map_err(anyhow::Error::msg)
}

/// Runs the commands on the node and checks what they print.
pub fn look(lab: &Lab, facts: &Facts) -> Result<Vec<View>> {
    let mut checks: Vec<(String, Check)> = vec![
        ("ip -d addr show istioin".to_owned(), |facts, text| tunnel(facts, text, &ISTIOIN)),
        ("ip -d addr show istioout".to_owned(), |facts, text| tunnel(facts, text, &ISTIOOUT)),
        ("ip -4 neigh show nud permanent".to_owned(), neighbours),
        ("ip rule list".to_owned(), rules),
        ("ip route show table 100".to_owned(), |facts, text| exactly(text, &table_inbound(facts))),
        ("ip route show table 101".to_owned(), |facts, text| exactly(text, &table_outbound(facts))),
        ("ip route show table 102".to_owned(), |facts, text| exactly(text, &table_proxy(facts))),
    ];
    checks.extend(pods::checks(lab, facts.mode));
    let view = |(command, check): (String, Check)| {
        let output = Cmd::line(&command).netns(&lab.node()).output()?;
        let text = output.stdout + &output.stderr;
        Ok(View { command, wrong: check(facts, &text), text })
    };
    checks.into_iter().map(view).collect()
}

type Check = fn(&Facts, &str) -> Vec<String>;

fn tunnel(facts: &Facts, text: &str, tunnel: &names::Tunnel) -> Vec<String> {
    let words = normal(text);
    let expected = [
        format!("geneve id {}", tunnel.vni.get()),
        format!("remote {}", facts.proxy),
        format!("dstport {}", facts.port),
        format!("inet {}/{TUNNEL_PREFIX}", tunnel.node_addr),
    ];
    expected.into_iter().filter(|part| !words.contains(&format!("{part} "))).map(|part| missing(&part)).collect()
}

/// Others may have entries on other devices.
fn neighbours(_facts: &Facts, text: &str) -> Vec<String> {
    let ours = |line: &&str| TUNNELS.iter().any(|tunnel| line.contains(&format!(" dev {} ", tunnel.node_link)));
    let entry = |tunnel: &names::Tunnel| {
        let mac = tunnel.proxy_mac.map(|byte| format!("{byte:02x}")).join(":");
        format!("{} dev {} lladdr {mac} PERMANENT", tunnel.proxy_addr, tunnel.node_link)
    };
    let expected: Vec<_> = TUNNELS.iter().map(entry).collect();
    exactly(&text.lines().filter(ours).collect::<Vec<_>>().join("\n"), &expected)
}

fn rules(_facts: &Facts, text: &str) -> Vec<String> {
    let expected = [
        format!("100: from all fwmark {} goto 32766", names::SKIP),
        format!("101: from all fwmark {} lookup 101", names::OUTBOUND),
        format!("102: from all fwmark {} lookup 102", names::PROXY_RETURN),
        "103: from all lookup 100".to_owned(),
    ];
    let ours = |line: &&str| ["100:", "101:", "102:", "103:"].iter().any(|priority| line.starts_with(priority));
    exactly(&text.lines().filter(ours).collect::<Vec<_>>().join("\n"), &expected)
}

fn table_inbound(facts: &Facts) -> Vec<String> {
    let pods = facts.meshed.iter();
    let pods = pods.map(|pod| format!("{pod} via {} dev istioin src {NODE_IP}", ISTIOIN.proxy_addr));
    pods.chain([tunnel_route(facts)]).collect()
}

fn table_outbound(facts: &Facts) -> Vec<String> {
    vec![format!("default via {} dev istioout", ISTIOOUT.proxy_addr), tunnel_route(facts)]
}

fn table_proxy(facts: &Facts) -> Vec<String> {
    vec![format!("default via {} dev {} onlink", facts.proxy, facts.proxy_link), proxy_route(facts)]
}

/// The tunnels' own packets carry the node's address, whatever other one the CNI has given the device.
fn tunnel_route(facts: &Facts) -> String {
    format!("{} src {NODE_IP}", proxy_route(facts))
}

fn proxy_route(facts: &Facts) -> String {
    format!("{} dev {} scope link", facts.proxy, facts.proxy_link)
}

/// Compares lines, whatever their order; blanks within a line count as one.
fn exactly(text: &str, expected: &[String]) -> Vec<String> {
    let found: BTreeSet<_> = text.lines().map(|line| normal(line).trim_end().to_owned()).collect();
    let found: BTreeSet<_> = found.into_iter().filter(|line| !line.is_empty()).collect();
    let expected: BTreeSet<_> = expected.iter().cloned().collect();
    let missing = expected.difference(&found).map(|line| missing(line));
    let extra = found.difference(&expected).map(|line| format!("not expected: {line:?}"));
    missing.chain(extra).collect()
}

fn normal(text: &str) -> String {
    text.split_whitespace().fold(String::new(), |line, word| line + word + " ")
}

fn missing(what: &str) -> String {
    format!("missing: {what:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let meshed = vec![Ipv4Addr::new(10, 244, 1, 5)];
        Facts {
            proxy: Ipv4Addr::new(10, 244, 1, 6),
            proxy_link: "vethZ".to_owned(),
            port: 6081,
            meshed,
            mode: Mode::Iptables,
        }
    }

    #[test]
    fn rules_of_others_do_not_matter_and_masks_do() {
        let good = "0:\tfrom all lookup local\n100:\tfrom all fwmark 0x200/0x200 goto 32766\n\
                    101:\tfrom all fwmark 0x100/0x100 lookup 101\n102:\tfrom all fwmark 0x40/0x40 lookup 102\n\
                    103:\tfrom all lookup 100\n32766:\tfrom all lookup main\n";
        assert_eq!(rules(&facts(), good), Vec::<String>::new());
        let unmasked = good.replace("0x100/0x100", "0x100");
        assert_eq!(rules(&facts(), &unmasked).len(), 2, "one missing, one not expected");
    }

    #[test]
    fn both_tunnels_neighbours_are_checked_and_no_others() {
        let good = "172.18.0.1 dev eth0 lladdr 02:00:00:00:00:01 PERMANENT\n\
                    192.168.126.2 dev istioin lladdr 02:72:64:72:01:02 PERMANENT\n\
                    192.168.127.2 dev istioout lladdr 02:72:64:72:02:02 PERMANENT\n";
        assert_eq!(neighbours(&facts(), good), Vec::<String>::new());
        assert_eq!(neighbours(&facts(), &good.replace("01:02", "01:03")).len(), 2, "one missing, one not expected");
        assert_eq!(neighbours(&facts(), "").len(), 2);
    }

    #[test]
    fn a_tunnel_is_checked_by_vni_remote_port_and_address() {
        let text = "4: istioin: <UP> mtu 1450\n    link/ether 0a:00 brd ff:ff promiscuity 0\n    geneve id 1000 remote \
                    10.244.1.6 ttl auto dstport 6081 noudpcsum\n    inet 192.168.126.1/30 scope global istioin\n";
        assert_eq!(tunnel(&facts(), text, &ISTIOIN), Vec::<String>::new());
        assert_eq!(tunnel(&facts(), text, &ISTIOOUT).len(), 2);
    }

    #[test]
    fn tables_are_compared_as_printed() {
        let text = "10.244.1.5 via 192.168.126.2 dev istioin src 172.18.0.2 \n10.244.1.6 dev vethZ scope link src 172.18.0.2 \n";
        assert_eq!(exactly(text, &table_inbound(&facts())), Vec::<String>::new());
    }
}
