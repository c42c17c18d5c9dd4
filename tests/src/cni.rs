//! Plumbs pods by the real CNI plugins, as a container runtime does it: the plugin runs in the node's netns and takes its
//! order from the environment and from stdin.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::command::Cmd;
use crate::layout::{BRIDGE, POD_LINK, POD_SUBNET};
use crate::netns::Netns;

/// The network's, in its configuration and in the folders of those who keep something about it.
const NAME: &str = "redirect-lab";
const PLUGIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// How pods hang on their node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// A routed veth per pod.
    Ptp,
    /// A veth per pod, all on one bridge.
    Bridge,
}

impl Topology {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ptp, Self::Bridge];
}

/// The plugin's name, and what the command line takes.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ptp => "ptp",
            Self::Bridge => "bridge",
        })
    }
}

/// The pod network of one node.
#[derive(Debug)]
pub struct Network<'a> {
    /// How pods hang on the node.
    pub topology: Topology,
    /// The node.
    pub node: &'a Netns,
    /// Where addresses given out are remembered.
    pub data_dir: &'a Path,
}

/// What a pod got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// Its address.
    pub ip: Ipv4Addr,
    /// The node's end of its veth.
    pub host_link: String,
}

impl Attachment {
    /// What a plugin's result says of it.
    pub(crate) fn of(result: &str) -> Result<Self> {
        parse(result).with_context(|| format!("not a result of a plugin that makes an interface: {result}"))
    }
}

impl Network<'_> {
    /// Gives `pod` an interface and an address.
    pub fn add(&self, container: &str, pod: &Netns) -> Result<Attachment> {
        let result = self.call("ADD", container, pod)?;
        Attachment::of(&result).with_context(|| format!("the {} plugin", self.topology))
    }

    /// Takes them away.
    pub fn del(&self, container: &str, pod: &Netns) -> Result<()> {
        self.call("DEL", container, pod).map(drop)
    }

    fn call(&self, command: &str, container: &str, pod: &Netns) -> Result<String> {
        let dir = plugin_dir(self.topology)?;
        Cmd::new(dir.join(self.topology.to_string()))
            .netns(self.node)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", POD_LINK)
            .env("CNI_PATH", plugin_path())
            .stdin(self.configuration().to_string())
            .run()
    }

    /// Where host-local keeps the address that it gave last, of the one set of ranges.
    pub(crate) fn last_address(&self) -> PathBuf {
        self.data_dir.join(NAME).join("last_reserved_ip.0")
    }

    fn configuration(&self) -> Value {
        let mut configuration = json!({
            "cniVersion": "0.4.0",
            "name": NAME,
            "type": self.topology.to_string(),
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": self.data_dir,
                "ranges": [[{ "subnet": POD_SUBNET }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        if self.topology == Topology::Bridge {
            configuration["bridge"] = BRIDGE.into();
            configuration["isGateway"] = true.into();
            configuration["hairpinMode"] = true.into();
        }
        configuration
    }
}

/// `CNI_PATH`, a list.
pub(crate) fn plugin_path() -> String {
    PLUGIN_DIRS.join(":")
}

pub(crate) fn plugin_dir(topology: Topology) -> Result<PathBuf> {
    let mut dirs = PLUGIN_DIRS.iter().map(PathBuf::from);
    dirs.find(|dir| dir.join(topology.to_string()).exists()).with_context(|| {
        format!("no CNI plugin {topology} in {} (Debian: containernetworking-plugins)", PLUGIN_DIRS.join(" or "))
    })
}

#[derive(Deserialize)]
struct Answer {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
}

fn parse(answer: &str) -> Result<Attachment> {
    let answer: Answer = serde_json::from_str(answer)?;
    let address = &answer.ips.first().context("no address")?.address;
    let ip = address.split('/').next().unwrap_or_default().parse().with_context(|| address.clone())?;
    let host_end = answer.interfaces.into_iter().find(|link| link.sandbox.is_empty() && link.name != BRIDGE);
    Ok(Attachment { ip, host_link: host_end.context("no host veth")?.name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_answer_names_the_veth_and_not_the_bridge() -> Result<()> {
        let answer = r#"{"cniVersion":"0.4.0","interfaces":[{"name":"cni0","mac":"0e:00:00:00:00:01"},
            {"name":"veth1a2b","mac":"0e:00:00:00:00:02"},{"name":"eth0","sandbox":"/var/run/netns/rl-pod-a"}],
            "ips":[{"version":"4","interface":2,"address":"10.244.1.7/24","gateway":"10.244.1.1"}],"dns":{}}"#;
        let expected = Attachment { ip: Ipv4Addr::new(10, 244, 1, 7), host_link: "veth1a2b".to_owned() };
        assert_eq!(parse(answer)?, expected);
        Ok(())
    }
}
