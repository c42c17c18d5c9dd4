//! `redirect-agent run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::unistd::geteuid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::{PodSource, Run};
use crate::cni::attachments::Attachments;
use crate::cni::server::Server;
use crate::config::Config;
use crate::install::{self, Install};
use crate::lock::{self, Lock};
use crate::preflight;
use crate::reconcile::cause::Cause;
use crate::reconcile::doorbell::Doorbell;
use crate::reconcile::{End, Reconciler, heart};
use crate::serve;
use crate::sources::{Source, kubernetes, manifests};
use crate::status::Status;

/// How long the API server may take to unmark the pods when everything was taken away; the agent that asked for the cleanup
/// waits for the end of this process.
const FAREWELL: Duration = Duration::from_secs(10);

/// How long threads that look at something may take to end.
const LAST_LOOKS: Duration = Duration::from_secs(1);

/// Runs the agent until a signal or a cleanup ends it.
pub(crate) fn run(args: Run) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        bail!("must run as root: it writes the node's routing and packet filter");
    }
    let pods = choose_source(args.pods, args.kubeconfig.as_deref())?;
    let config = Config {
        source: pods.name(),
        node_name: args.node_name,
        node_ip: args.node_ip,
        proxy_namespace: args.proxy_namespace,
        backend: args.iptables_backend.fixed(),
        mode: args.mode,
        tc_attach: args.tc_attach,
        no_fallback: args.no_fallback,
        flows: args.flows,
        bpf_dir: args.bpf.bpf_dir,
        state_dir: args.state.state_dir,
        on_proxy_loss: args.on_proxy_loss,
        drain_timeout: Duration::from_secs(args.drain_timeout),
        resync: Duration::from_secs(args.resync),
    };
    let (plugin, places) = (args.cni.plugin(), args.cni.dirs.places());
    let install = Arc::new(Install::new(plugin, places, &config.state_dir, &config.proxy_namespace)?);
    lock::prepare(&config.state_dir)?;
    let lock = Arc::new(lock::wait(&config.state_dir)?);
    // Beside the start, which pods wait for: where there are many rules it takes seconds.
    thread::Builder::new().name("check".into()).spawn(preflight::tell).context("start to look at neighbours")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(supervise(config, pods, args.kubeconfig, install, &lock));
    // A look at a namespace may hang in a file system; it must not keep the agent from ending.
    runtime.shutdown_timeout(LAST_LOOKS);
    outcome
}

/// What is asked for, else the API server where it is plain how to reach it.
fn choose_source(pods: Option<PodSource>, kubeconfig: Option<&Path>) -> anyhow::Result<PodSource> {
    let reachable = kubeconfig.is_some() || kubernetes::in_cluster();
    let default = || reachable.then_some(PodSource::Kubernetes);
    pods.or_else(default).context("not in a cluster: say where to learn of pods with --pods or --kubeconfig")
}

async fn supervise(
    config: Config,
    pods: PodSource,
    kubeconfig: Option<PathBuf>,
    install: Arc<Install>,
    lock: &Arc<Lock>,
) -> anyhow::Result<()> {
    let doorbell = Arc::new(Doorbell::default());
    let (status_sender, status) = watch::channel(Status::default());
    let mut tasks = JoinSet::new();
    let source = match pods {
        PodSource::Manifests(directory) => manifests::watch(directory, &mut tasks)?,
        PodSource::Kubernetes => {
            kubernetes::start(kubeconfig.as_deref(), &config.node_name, status.clone(), &mut tasks).await?
        }
    };
    let attachments = Attachments::open(&config.state_dir)?;
    let cni = Server {
        desk: attachments.desk(),
        doorbell: Arc::clone(&doorbell),
        status: status.clone(),
        snapshots: source.snapshots.clone(),
    };
    cni.listen(lock, &mut tasks)?;
    let socket = serve::listen(lock, status, Arc::clone(&doorbell), Arc::clone(&install))?;
    tasks.spawn(install::keep(install));
    tasks.spawn(heart::watch());
    // Until a pod is enrolled it talks to the world by itself: nothing gathers meanwhile.
    tasks.spawn(on_change(source.snapshots.clone(), Arc::clone(&doorbell), Doorbell::hurry));
    tasks.spawn(on_change(source.health.clone(), Arc::clone(&doorbell), |bell| bell.ring(Cause::WANTED)));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut ended = spawn_loop(config, &source, attachments, Arc::clone(&doorbell), status_sender)?;
    let outcome = tokio::select! {
        outcome = &mut ended => outcome,
        _ = terminate.recv() => stop(&doorbell, ended).await,
        _ = interrupt.recv() => stop(&doorbell, ended).await,
        error = lost(&mut tasks) => give_up(error, &doorbell, ended).await,
        error = lock.lost() => give_up(error, &doorbell, ended).await,
    };
    if let (Ok(Ok(End::CleanedUp)), Some(annotations)) = (&outcome, source.annotations)
        && timeout(FAREWELL, annotations.removed()).await.is_err()
    {
        tracing::warn!(
            "some pods are still annotated as being in the mesh; the API server did not take it away in time"
        );
    }
    socket.finish().await;
    outcome.map_err(|_| anyhow!("the reconcile loop panicked; the datapath stands as it was"))?.map(drop)
}

/// Waits for one of the tasks that must not end. A source that had ended in silence would freeze the mesh as it is.
async fn lost(tasks: &mut JoinSet<()>) -> anyhow::Error {
    match tasks.join_next().await {
        Some(Err(error)) => anyhow!("what feeds the agent with pods has failed: {error}"),
        _ => anyhow!("what feeds the agent with pods has ended"),
    }
}

async fn give_up(error: anyhow::Error, doorbell: &Doorbell, ended: Ended) -> Outcome {
    tracing::error!(error = format!("{error:#}"), "ending, so that whoever looks after the agent starts another");
    stop(doorbell, ended).await.map(|_| Err(error))
}

type Outcome = Result<anyhow::Result<End>, oneshot::error::RecvError>;
type Ended = oneshot::Receiver<anyhow::Result<End>>;

/// Ends the loop and waits for the run that is under way.
async fn stop(doorbell: &Doorbell, ended: Ended) -> Outcome {
    tracing::info!("ending; the datapath stays (remove it with `redirect-agent cleanup`)");
    doorbell.stop();
    ended.await
}

/// Starts the loop on a thread of its own, inside the runtime's context.
fn spawn_loop(
    config: Config,
    source: &Source,
    attachments: Attachments,
    doorbell: Arc<Doorbell>,
    status: watch::Sender<Status>,
) -> anyhow::Result<Ended> {
    let (sender, receiver) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let (snapshots, health) = (source.snapshots.clone(), source.health.clone());
    let body = move || {
        let _context = runtime.enter();
        let outcome =
            Reconciler::new(config, snapshots, health, attachments, doorbell, status).and_then(Reconciler::run);
        let _ = sender.send(outcome);
    };
    thread::Builder::new().name("reconcile".into()).spawn(body).context("start the reconcile loop")?;
    Ok(receiver)
}

async fn on_change<T>(mut news: watch::Receiver<T>, doorbell: Arc<Doorbell>, ring: impl Fn(&Doorbell)) {
    while news.changed().await.is_ok() {
        ring(&doorbell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_panics_or_ends_is_missed() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(async { panic!("out of luck") });
        assert!(lost(&mut tasks).await.to_string().contains("failed"));
        tasks.spawn(async {});
        assert!(lost(&mut tasks).await.to_string().contains("has ended"));
    }

    #[test]
    fn the_api_server_is_the_source_where_one_is_named() {
        let file = Path::new("/kubeconfig");
        assert_eq!(choose_source(None, Some(file)).unwrap(), PodSource::Kubernetes);
        let folder = PodSource::Manifests("/pods".into());
        assert_eq!(choose_source(Some(folder.clone()), Some(file)).unwrap(), folder);
    }
}
