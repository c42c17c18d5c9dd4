//! `redirect-agent rules`: the very rules the agent writes, for whoever wants to look at them or test them.

use std::fs::File;

use super::print::print;
use crate::cli::Rules;
use crate::datapaths::iptables::{self, NodeRules};
use crate::kernel::netns::NetnsId;
use crate::proxy::{HostSide, Proxy};
use crate::resources::chain;

/// Prints the node's chains.
pub(crate) fn run(args: &Rules) -> anyhow::Result<()> {
    let proxy = Proxy {
        uid: String::new(),
        namespace: String::new(),
        name: String::new(),
        ip: args.proxy_ip,
        netns: NetnsId::of(&File::open("/proc/self/ns/net")?)?,
        interface: String::new(),
        host: HostSide {
            veth: args.proxy_veth.clone(),
            bridge: args.proxy_mac.map(|mac| (args.proxy_veth.clone(), mac)),
        },
    };
    let chains = iptables::node_chains(&NodeRules { tunnel_port: args.tunnel_port, proxy: Some(&proxy) });
    print(&chain::script(&chains))
}
