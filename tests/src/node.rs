//! The node and the second node on its wire, before any pod.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::cni::Topology;
use crate::command::Cmd;
use crate::layout::{NODE_IP, NODE_SECOND_IP, POD_SUBNET, REMOTE_IP, UPLINK, WIRE_PREFIX};
use crate::netns::Netns;
use crate::ports::CHOSEN;
use crate::state::Options;

/// Modules that a real node has loaded long before; an unloaded one shows up later as an obscure iptables error.
const MODULES: &str = "veth geneve bridge br_netfilter nf_conntrack xt_comment xt_conntrack xt_mark xt_connmark \
                       xt_nat xt_MASQUERADE xt_TPROXY xt_set ip_set_hash_ip";

/// Loads what can be loaded; on kernels without modules all of it is built in, or missing and reported where it is used.
pub(crate) fn load_modules() {
    // One by one inside modprobe (-a), so that a missing module does not hold back the others.
    let _ = Cmd::line("modprobe -aq").args(MODULES.split_whitespace()).output();
}

/// Joins `node` and `remote` by a wire and makes `node` a router, as a Kubernetes node is.
pub(crate) fn connect(node: &Netns, remote: &Netns, options: &Options) -> Result<()> {
    prepare(node, options)?;
    prepare(remote, options)?;
    set_sysctls(node, &[("net/ipv4/ip_forward", "1")])?;
    if options.topology == Topology::Bridge {
        bridge_netfilter(node)?;
    }
    let wire = format!("link add {UPLINK} type veth peer name {UPLINK} netns {}", remote.name());
    let first = format!("addr add {NODE_IP}/{WIRE_PREFIX} dev {UPLINK}");
    let second = format!("addr add {NODE_SECOND_IP}/{WIRE_PREFIX} dev {UPLINK}");
    let up = format!("link set {UPLINK} up");
    let out = format!("route add default via {REMOTE_IP}");
    ip_batch(node, &[&wire, "link set lo up", &first, &second, &up, &out])?;
    let address = format!("addr add {REMOTE_IP}/{WIRE_PREFIX} dev {UPLINK}");
    let pods = format!("route add {POD_SUBNET} via {NODE_IP}");
    ip_batch(remote, &["link set lo up", &address, &up, &pods])
}

/// Runs `ip` commands in `netns`, all by one process.
pub fn ip_batch(netns: &Netns, commands: &[&str]) -> Result<()> {
    let script = commands.join("\n") + "\n";
    Cmd::line("ip -batch -").netns(netns).stdin(&script).run().map(drop).with_context(|| script)
}

/// Writes sysctls of `netns`; names are paths below `/proc/sys`.
pub fn set_sysctls(netns: &Netns, values: &[(&str, &str)]) -> Result<()> {
    netns.run(|| {
        for (name, value) in values {
            fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("cannot set {name}={value}"))?;
        }
        Ok(())
    })?
}

/// Settings of a fresh netns. They would be the host's, whatever those are: a lab shows the same everywhere.
pub(crate) fn prepare(netns: &Netns, options: &Options) -> Result<()> {
    let rp_filter = options.rp_filter.to_string();
    let values = [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", &*rp_filter),
        ("net/ipv4/ip_local_port_range", CHOSEN),
    ];
    set_sysctls(netns, &values)?;
    // No duplicate address detection: an address that is tentative for a second makes snapshots differ by chance.
    let names = ["net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad"];
    let ipv6 = netns.run(|| fs::exists("/proc/sys/net/ipv6"))??;
    if ipv6 { set_sysctls(netns, &names.map(|name| (name, "0"))) } else { Ok(()) }
}

/// Kubernetes requires that iptables sees bridged packets.
fn bridge_netfilter(node: &Netns) -> Result<()> {
    let name = "net/bridge/bridge-nf-call-iptables";
    let there = node.run(|| fs::exists(format!("/proc/sys/{name}")))??;
    ensure!(there, "the bridge topology needs the kernel module br_netfilter (no /proc/sys/{name})");
    set_sysctls(node, &[(name, "1")])
}
