//! `redirect-agent rules`: the very rules the agent writes, for whoever wants to look at them or test them.

use std::fs::File;
use std::iter::repeat;

use redirect_common::policy::Seat;

use super::print::print;
use crate::cli::Rules;
use crate::datapaths::iptables::{self, NodeRules};
use crate::kernel::netns::NetnsId;
use crate::proxy::{HostSide, Proxy, Seated};
use crate::resources::chain;

/// Prints the node's chains.
pub(crate) fn run(args: &Rules) -> anyhow::Result<()> {
    let netns = NetnsId::of(&File::open("/proc/self/ns/net")?)?;
    let macs = args.proxy_mac.iter().copied().map(Some).chain(repeat(None));
    let ways = args.proxy_ip.iter().zip(&args.proxy_veth).zip(macs);
    let proxies: Vec<_> = ways
        .map(|((ip, veth), mac)| Proxy {
            uid: String::new(),
            namespace: String::new(),
            name: String::new(),
            ip: *ip,
            netns,
            interface: String::new(),
            host: HostSide { veth: veth.clone(), bridge: mac.map(|mac| (veth.clone(), mac)) },
        })
        .collect();
    let seated = Seat::ALL.into_iter().zip(&proxies).map(|(seat, proxy)| Seated { seat, proxy });
    let chains = iptables::node_chains(&NodeRules { tunnel_port: args.tunnel_port, proxies: seated.collect() });
    print(&chain::script(&chains))
}
