//! Things of others that look like the agent's: at its priorities, in its tables, with its prefixes, but not with its content. A cleanup
//! must leave them alone. Programs on devices are in `program`.

mod program;

use anyhow::{Context, Result, ensure};

use crate::command::Cmd;
use crate::demo::ZTUNNEL;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::node::ip_batch;

pub use program::{Filter, Foreign, Place, Statistics, Verdict, take_over};

/// A mark that is none of ours, on a connection of somebody else.
const MARK: &str = "0x1000";
/// Whose connection that is.
const ENDS: &str = "-s 198.51.100.7 -d 198.51.100.8";

/// Puts them in place, on the node and in ztunnel's namespace.
pub fn put(lab: &Lab) -> Result<()> {
    let (node, proxy) = (lab.node(), lab.pod_netns(ZTUNNEL));
    ip_batch(
        &node,
        &[
            "rule add priority 97 from 198.51.100.7 lookup main",
            "rule add priority 98 fwmark 0x1000/0x1000 lookup 7",
            "rule add priority 100 fwmark 0x1000/0x1000 lookup 7",
            "rule add priority 101 from 198.51.100.7 lookup main",
            "rule add priority 102 from 198.51.100.7 lookup main",
            "rule add priority 103 from 198.51.100.7 lookup main",
            "route add 198.51.100.0/25 via 172.18.0.1 table 7",
            "route add 198.51.100.0/25 via 172.18.0.1 table 100",
            "route add 198.51.100.128/25 via 172.18.0.1 table 101",
            "route add 198.51.100.128/25 via 172.18.0.1 table 102",
            "route add 198.51.100.128/25 via 172.18.0.1 table 103",
            "route add 198.51.100.128/25 via 172.18.0.1 table 104",
        ],
    )?;
    ip_batch(
        &proxy,
        &["rule add priority 20000 from 198.51.100.7 lookup main", "route add 198.51.100.0/25 dev eth0 table 100"],
    )?;
    for netns in [&node, &proxy] {
        chain(lab, netns)?;
        table(netns)?;
        tunnel(netns, 7777)?;
    }
    Cmd::line("ipset restore")
        .netns(&node)
        .stdin("create ztunnel-other hash:ip\nadd ztunnel-other 198.51.100.7\n")
        .run()
        .map(drop)
}

fn chain(lab: &Lab, netns: &Netns) -> Result<()> {
    let rules = "*mangle\n:ztunnel-OTHER - [0:0]\n-A PREROUTING -s 198.51.100.7/32 -j ztunnel-OTHER\n\
                 -A ztunnel-OTHER -j MARK --set-xmark 0x1000/0x1000\nCOMMIT\n";
    let restore = Cmd::line(lab.options().backend.restore()).args(["--wait", "10", "--noflush"]);
    restore.netns(netns).stdin(rules).run().map(drop).context("cannot write a foreign chain")
}

/// A table with the name of the agent's in another family, and one of that family with another name.
fn table(netns: &Netns) -> Result<()> {
    let chain = "chain forward {\ntype filter hook forward priority 0\nip saddr 198.51.100.7 accept\n}\n";
    let tables = format!("table inet ztunnel {{\n{chain}}}\ntable ip ztunnel-other {{\n{chain}}}\n");
    Cmd::line("nft -f -").netns(netns).stdin(&tables).run().map(drop).context("cannot write foreign tables")
}

/// A tunnel that takes every VNI on its port, as OVN's does: the port is then no one else's.
pub fn tunnel(netns: &Netns, port: u16) -> Result<()> {
    let name = format!("genev_{port}");
    let add = format!("link add {name} type geneve dstport {port} external");
    ip_batch(netns, &[&add, &format!("link set {name} up")])
}

/// A connection with somebody else's mark, which conntrack will remember for longer than any test takes.
pub fn connection(lab: &Lab) -> Result<()> {
    let add = format!("conntrack -I -p udp {ENDS} --sport 7 --dport 7 -t 86400 -m {MARK}");
    Cmd::line(&add).netns(&lab.node()).run().map(drop)
}

/// It is there, with its mark.
pub fn connection_is_marked(lab: &Lab) -> Result<()> {
    let all = Cmd::line(&format!("conntrack -L -p udp {ENDS}")).netns(&lab.node()).run()?;
    let mark = u32::from_str_radix(MARK.trim_start_matches("0x"), 16)?;
    ensure!(all.contains(&format!("mark={mark} ")), "of the marked connection there is: {all}");
    Ok(())
}
