//! The CNI plugin that holds a pod's start until the agent has enrolled it, and its way into the node's CNI configuration.
//! It runs for every pod of the cluster, so it starts no runtime and links little.
//!
//! * [`spec`]: what the CNI specification says: environment, network configuration, results, errors, versions.
//! * [`plugin`]: the commands, from what a runtime gives to what it gets.
//! * [`protocol`]: what plugin and agent say to each other; [`client`] is the plugin's side of it.
//! * [`netns`]: whether a path is a pod's network namespace and not the node's.
//! * [`conflist`]: our entry in the node's CNI configuration: put in, kept, taken out.

#![forbid(unsafe_code)]

pub mod client;
pub mod conflist;
pub mod deadline;
pub mod input;
mod json;
pub mod netns;
pub mod plugin;
pub mod protocol;
pub mod spec;

/// The plugin's name: that of its binary, and the `type` of its entry in a list.
pub const PLUGIN: &str = "redirect-cni";
/// What a program of that name is known by to be this plugin, of whatever version: it is in the binary, and the agent replaces
/// and removes no other. Never to be changed.
pub const MARK: &str = "redirect-cni: the CNI plugin that redirect-agent installs and removes";
/// Where the agent listens for it.
pub const SOCKET: &str = "/run/redirect/cni.sock";
