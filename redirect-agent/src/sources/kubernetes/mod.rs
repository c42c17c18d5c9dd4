//! The Kubernetes API server as a source: this node's pods and all namespaces, listed and then watched.
//!
//! Nothing that goes wrong here removes anything: until both lists are complete there is no snapshot, and afterwards the last
//! one stays in force until a newer is as complete.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Source;
use crate::status::Status;

mod annotate;
mod failure;
mod follow;
mod orders;
mod shared;
mod store;

pub(crate) use annotate::Annotations;
use shared::Shared;

/// A connection that is not made within this time is tried again; the handshake is part of it.
const CONNECT: Duration = Duration::from_secs(10);

/// How often the pods are listed and unmarked until none is left: kubelet may write the status of one at any moment.
const UNMARK: usize = 10;

/// Follows the pods of `node`, and annotates those whose datapath `status` says stands.
///
/// # Errors
/// It cannot be found out how to reach the API server. Whether it answers is no matter here.
pub(crate) async fn start(
    kubeconfig: Option<&Path>,
    node: &str,
    status: watch::Receiver<Status>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Source> {
    start_with(configure(kubeconfig).await?, node, status, tasks)
}

/// Takes the annotation off all pods of `node`, where no agent runs that would.
pub(crate) async fn unmark(kubeconfig: Option<&Path>, node: &str) -> anyhow::Result<()> {
    let client = connect(configure(kubeconfig).await?)?;
    for _ in 0..UNMARK {
        let work = async {
            let (pods, _) = follow::list::<store::WatchedPod>(&client, Some(on(node))).await?;
            annotate::remove(&client, pods).await
        };
        if !work.await.map_err(|failure: failure::Failure| anyhow!(failure.message))? {
            return Ok(());
        }
    }
    bail!("pods of {node} are still annotated: they change all the time, or an agent is at work")
}

fn connect(mut config: Config) -> anyhow::Result<Client> {
    config.connect_timeout = Some(CONNECT);
    // Retries are ours, so that they are seen.
    config.default_retry = false;
    Client::try_from(config).context("set up the connection to the API server")
}

/// Selects the pods of a node.
fn on(node: &str) -> String {
    format!("spec.nodeName={node}")
}

fn start_with(
    config: Config,
    node: &str,
    status: watch::Receiver<Status>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Source> {
    tracing::info!(server = %config.cluster_url, node, "following pods and namespaces of the API server");
    let client = connect(config)?;
    let (shared, snapshots, health) = Shared::new();
    tasks.spawn(follow::follow::<store::WatchedPod>(client.clone(), Some(on(node)), Arc::clone(&shared)));
    tasks.spawn(follow::follow::<store::WatchedNamespace>(client.clone(), None, Arc::clone(&shared)));
    tasks.spawn(annotate::run(client, Arc::clone(&shared), status));
    Ok(Source { snapshots, health, annotations: Some(Annotations::new(shared)) })
}

/// The file that is named, else `$KUBECONFIG`, else the service account of the pod we run in, else `~/.kube/config`.
async fn configure(file: Option<&Path>) -> anyhow::Result<Config> {
    let options = KubeConfigOptions::default();
    if let Some(file) = file {
        let read = || format!("read {}", file.display());
        let kubeconfig = Kubeconfig::read_from(file).with_context(read)?;
        return Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(read);
    }
    if std::env::var_os("KUBECONFIG").is_none() && in_cluster() {
        return Config::incluster().context("use the service account of the pod that the agent runs in");
    }
    let hint = "find the API server: neither --kubeconfig nor $KUBECONFIG, not in a cluster, and no ~/.kube/config";
    Config::from_kubeconfig(&options).await.context(hint)
}

/// Whether the agent runs in a pod, by what the kubelet gives every container.
pub(crate) fn in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

#[cfg(test)]
mod tests;
