//! Containers as a runtime starts and ends them: the plugins of a chain one after another, by the CNI specification
//! (<https://www.cni.dev/docs/spec/>, 1.0 and 1.1), with the pod's name as kubelet's runtimes give it. The plugin that makes the
//! interface is Debian's, the one behind it is ours.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::binaries;
use crate::cni::{Topology, plugin_dir, plugin_path};
use crate::command::{Cmd, Output};
use crate::layout::{BRIDGE, POD_LINK, POD_SUBNET};
use crate::netns::Netns;
use crate::pod::Pod;

/// Our plugin.
pub const PLUGIN: &str = "redirect-cni";
/// The newest version that Debian's plugins speak.
const CHAIN_VERSION: &str = "1.0.0";
/// The name of the network; what it leases is its own.
pub const NETWORK: &str = "redirect-chain";

/// A network as its list of plugins makes it.
#[derive(Clone, Debug)]
pub struct Chain {
    /// How its pods hang on the node.
    pub topology: Topology,
    /// Where plugins run.
    pub node: Netns,
    /// Where addresses given out are remembered.
    pub data_dir: PathBuf,
    /// The addresses to give out, first and last.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// The agent's.
    pub socket: PathBuf,
    /// Namespaces that start whatever the agent says.
    pub exclude: Vec<String>,
    /// Whether our plugin is in the list.
    pub redirects: bool,
    /// Our plugin's program; that which was built if there is none.
    pub program: Option<PathBuf>,
}

/// A container of a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// The runtime's name for it.
    pub container: String,
    /// The netns that the runtime has made for it.
    pub netns: Netns,
    /// `CNI_ARGS`.
    pub arguments: String,
}

/// A container with a netns of its own, which goes with the value.
#[derive(Debug)]
pub struct Sandbox(Container);

/// What a plugin said instead of a result.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginError {
    /// The version in which it is said.
    pub cni_version: String,
    /// Below 100 the specification's.
    pub code: u32,
    /// In short.
    pub msg: String,
    /// At length.
    #[serde(default)]
    pub details: String,
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}: {}", self.code, self.msg, self.details)
    }
}

impl std::error::Error for PluginError {}

impl Sandbox {
    /// Makes the netns of a new container of `pod`.
    pub fn create(container: &str, pod: &Pod) -> Result<Self> {
        let netns = Netns::named(container);
        netns.create()?;
        Ok(Self(Container::of(pod, container, netns)))
    }
}

impl Container {
    /// A container of `pod` that has this netns.
    #[must_use]
    pub fn of(pod: &Pod, container: &str, netns: Netns) -> Self {
        Self { container: container.to_owned(), netns, arguments: arguments(pod, container) }
    }
}

impl Deref for Sandbox {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.0
    }
}

impl DerefMut for Sandbox {
    fn deref_mut(&mut self) -> &mut Container {
        &mut self.0
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = self.netns.delete() {
            eprintln!("netns {} is not removed: {error:#}", self.netns.name());
        }
    }
}

/// As containerd and CRI-O write it.
fn arguments(pod: &Pod, container: &str) -> String {
    let Pod { namespace, name, uid, .. } = pod;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"
    )
}

impl Chain {
    /// Starts a container: each plugin has the result of the one before. A failure leaves what it leaves; a runtime would run
    /// [`Self::del`] next.
    pub fn add(&self, sandbox: &Container) -> Result<Value> {
        let first = self.interface("ADD", sandbox, None)?;
        if self.redirects { self.redirect("ADD", sandbox, &first) } else { Ok(first) }
    }

    /// Ends a container: in the reverse order, with the result of its start.
    pub fn del(&self, sandbox: &Container, result: Option<&Value>) -> Result<()> {
        if self.redirects {
            let network = self.network(CHAIN_VERSION, result);
            said(&self.run(network.to_string(), &self.environment("DEL", sandbox))?)?;
        }
        self.interface("DEL", sandbox, result).map(drop)
    }

    /// The plugin that makes the interface.
    pub fn interface(&self, command: &str, sandbox: &Container, previous: Option<&Value>) -> Result<Value> {
        let dir = plugin_dir(self.topology)?;
        let name = self.topology.to_string();
        let mut call = Cmd::new(dir.join(&name)).netns(&self.node);
        for (key, value) in self.environment(command, sandbox) {
            call = call.env(key, value);
        }
        let mut network = self.interface_network();
        if let Some(previous) = previous {
            network["prevResult"] = previous.clone();
        }
        said(&call.stdin(network.to_string()).output()?).with_context(|| format!("{name} {command}"))
    }

    /// Our plugin, with the result of the one before.
    pub fn redirect(&self, command: &str, sandbox: &Container, previous: &Value) -> Result<Value> {
        let network = self.network(CHAIN_VERSION, Some(previous)).to_string();
        said(&self.run(&network, &self.environment(command, sandbox))?).with_context(|| format!("{PLUGIN} {command}"))
    }

    /// Our plugin's commands about the network and not about a container, which are of version 1.1. `valid` is for GC.
    pub fn about_all(&self, command: &str, valid: &[&Sandbox]) -> Result<Value> {
        let mut network = self.network("1.1.0", None);
        let valid = valid.iter().map(|sandbox| json!({ "containerID": sandbox.container, "ifname": POD_LINK }));
        network["cni.dev/valid-attachments"] = valid.collect();
        let environment = [("CNI_COMMAND", command.to_owned()), ("CNI_PATH", plugin_path())];
        said(&self.run(network.to_string(), &environment)?).with_context(|| format!("{PLUGIN} {command}"))
    }

    /// Our plugin, with this input and environment.
    pub fn run(&self, input: impl AsRef<[u8]>, environment: &[(&str, String)]) -> Result<Output> {
        let program = self.program.clone().map_or_else(|| binaries::find(PLUGIN), Ok)?;
        let mut call = Cmd::new(program).netns(&self.node).stdin(input);
        for (key, value) in environment {
            call = call.env(key, value);
        }
        call.output()
    }

    /// What the runtime sets for a container.
    #[must_use]
    pub fn environment(&self, command: &str, sandbox: &Container) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", sandbox.container.clone()),
            ("CNI_NETNS", sandbox.netns.path().display().to_string()),
            ("CNI_IFNAME", POD_LINK.to_owned()),
            ("CNI_ARGS", sandbox.arguments.clone()),
            ("CNI_PATH", plugin_path()),
        ]
    }

    /// Our plugin's part of the list, as a runtime gives it on.
    #[must_use]
    pub fn network(&self, version: &str, previous: Option<&Value>) -> Value {
        let mut network = json!({
            "cniVersion": version,
            "name": NETWORK,
            "type": PLUGIN,
            "socket": self.socket,
            "excludeNamespaces": self.exclude,
        });
        if let Some(previous) = previous {
            network["prevResult"] = previous.clone();
        }
        network
    }

    fn interface_network(&self) -> Value {
        let mut network = json!({
            "cniVersion": CHAIN_VERSION,
            "name": NETWORK,
            "type": self.topology.to_string(),
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": self.data_dir,
                "ranges": [[{ "subnet": POD_SUBNET, "rangeStart": self.range.0, "rangeEnd": self.range.1 }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        if self.topology == Topology::Bridge {
            network["bridge"] = BRIDGE.into();
            network["isGateway"] = true.into();
            network["hairpinMode"] = true.into();
        }
        network
    }
}

/// A plugin's result, or the error object that it wrote in its place.
pub fn said(output: &Output) -> Result<Value> {
    let text = output.stdout.trim();
    if !output.status.success() {
        let error: PluginError = serde_json::from_str(text)
            .with_context(|| format!("{}, and no error object: {text}{}", output.status, output.stderr))?;
        return Err(error.into());
    }
    if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(text).with_context(|| text.to_owned()) }
}

/// The error object's code, where a plugin wrote one; what else came of it is an error.
pub fn refused(outcome: Result<Value>) -> Result<PluginError> {
    let error = match outcome {
        Ok(result) => anyhow::bail!("it succeeded: {result}"),
        Err(error) => error,
    };
    let found = error.chain().find_map(|cause| cause.downcast_ref::<PluginError>()).cloned();
    let found = found.with_context(|| format!("{error:#}"))?;
    ensure!(!found.msg.is_empty() && !found.cni_version.is_empty(), "an empty error object: {found:?}");
    Ok(found)
}

/// The IPv4 address that a result gives to the container.
pub fn address(result: &Value) -> Result<Ipv4Addr> {
    let text = result["ips"][0]["address"].as_str().with_context(|| format!("no address in {result}"))?;
    match text.split('/').next().unwrap_or_default().parse()? {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => anyhow::bail!("{ip} is no IPv4 address"),
    }
}

/// A place for the leases of a lab's chain.
#[must_use]
pub fn leases(lab: &Path) -> PathBuf {
    lab.join("ipam-chain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_named_as_runtimes_do() -> Result<()> {
        let pod = Pod { uid: "u".to_owned(), ..Pod::app("mesh", "a")? };
        let arguments = arguments(&pod, "c");
        assert!(
            arguments.ends_with(";K8S_POD_NAMESPACE=mesh;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u")
        );
        Ok(())
    }

    #[test]
    fn an_error_object_is_found_in_an_error() -> Result<()> {
        let object = PluginError { cni_version: "1.0.0".into(), code: 11, msg: "later".into(), details: String::new() };
        let error = Err(anyhow::Error::from(object.clone()).context("redirect-cni ADD"));
        assert_eq!(refused(error)?, object);
        assert!(refused(Ok(Value::Null)).is_err());
        assert!(refused(Err(anyhow::anyhow!("killed"))).is_err());
        Ok(())
    }
}
