//! `redirect-lab pods`.

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::lab::Lab;
use crate::layout::{MESH_NAMESPACE, PLAIN_NAMESPACE, PROXY_NAMESPACE};
use crate::pod::{Pod, Role};

#[derive(Subcommand, Debug)]
pub(super) enum PodsCommand {
    /// List them (the default)
    List,
    /// Add a pod with an echo server
    Add {
        /// Its name
        name: String,
        /// Its namespace; `mesh` is in the mesh, `default` is not
        #[arg(long, default_value = PLAIN_NAMESPACE)]
        namespace: String,
        /// Put it into the mesh: short for `--namespace mesh`
        #[arg(long, conflicts_with = "namespace")]
        meshed: bool,
        /// Run the transparent proxy in it and label it as ztunnel, in namespace istio-system
        #[arg(long, conflicts_with_all = ["namespace", "meshed"])]
        ztunnel: bool,
    },
    /// Remove a pod
    Rm {
        /// Its name
        name: String,
    },
    /// Give a pod a new sandbox: another netns, another address
    Restart {
        /// Its name
        name: String,
    },
    /// Change labels: `KEY=VALUE` sets one, `KEY-` removes one
    Label {
        /// Name of the pod, or `ns/NAME` for a namespace
        object: String,
        /// The changes
        #[arg(required = true)]
        changes: Vec<String>,
    },
}

pub(super) fn run(lab: &mut Lab, command: Option<PodsCommand>) -> Result<()> {
    match command.unwrap_or(PodsCommand::List) {
        PodsCommand::List => {}
        PodsCommand::Add { name, ztunnel: true, .. } => lab.add_pod(Pod::proxy(PROXY_NAMESPACE, &name)?).map(drop)?,
        PodsCommand::Add { name, namespace, meshed, .. } => {
            let namespace = if meshed { MESH_NAMESPACE } else { &namespace };
            lab.add_pod(Pod::app(namespace, &name)?)?;
        }
        PodsCommand::Rm { name } => lab.remove_pod(&name)?,
        PodsCommand::Restart { name } => lab.restart_pod(&name)?,
        PodsCommand::Label { object, changes } => changes.iter().try_for_each(|change| label(lab, &object, change))?,
    }
    list(lab);
    Ok(())
}

fn label(lab: &mut Lab, object: &str, change: &str) -> Result<()> {
    let (key, value) = match change.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (change.strip_suffix('-').with_context(|| format!("neither KEY=VALUE nor KEY-: {change}"))?, None),
    };
    match object.strip_prefix("ns/") {
        Some(namespace) => lab.label_namespace(namespace, key, value),
        None => lab.label_pod(object, key, value),
    }
}

/// Prints the pods, with what the agent says of each if it runs.
pub(super) fn list(lab: &Lab) {
    let status = lab.status().ok();
    println!("{:<24} {:<16} {:<16} {:<12} NETNS", "POD", "ADDRESS", "HOST LINK", "AGENT SAYS");
    for pod in lab.pods() {
        let address = pod.ips.first().map(ToString::to_string).unwrap_or_default();
        let seen = status.as_ref().and_then(|status| status.pod(&pod.name)).map(|pod| pod.state.as_str());
        let proxy = status.as_ref().filter(|_| pod.role == Role::Proxy).map(|status| status.proxy.state.as_str());
        let link = pod.host_link.as_deref().unwrap_or("-");
        let said = proxy.or(seen).unwrap_or("-");
        println!("{:<24} {address:<16} {link:<16} {said:<12} {}", pod.object(), lab.pod_netns(&pod.name).name());
    }
}
