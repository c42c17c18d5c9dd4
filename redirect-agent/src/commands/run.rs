//! `redirect-agent run`.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::unistd::geteuid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::lock;
use crate::cli::{PodSource, Run};
use crate::config::Config;
use crate::reconcile::Reconciler;
use crate::reconcile::doorbell::{Cause, Doorbell};
use crate::serve;
use crate::sources::{Snapshots, manifests};
use crate::status::Status;

/// Runs the agent until a signal or a cleanup ends it.
pub(crate) fn run(args: Run) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        bail!("must run as root: it writes the node's routing and packet filter");
    }
    let config = Config {
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
        resync: Duration::from_secs(args.resync),
    };
    lock::prepare(&config.state_dir)?;
    let _lock = lock::wait(&config.state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(supervise(config, args.pods))
}

async fn supervise(config: Config, source: PodSource) -> anyhow::Result<()> {
    let doorbell = Arc::new(Doorbell::default());
    let snapshots = match source {
        PodSource::Manifests(directory) => manifests::watch(directory)?,
    };
    let (status_sender, status) = watch::channel(Status::default());
    let socket = serve::listen(&config.state_dir, status, Arc::clone(&doorbell))?;
    tokio::spawn(ring_on_change(snapshots.clone(), Arc::clone(&doorbell)));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut ended = spawn_loop(config, snapshots, Arc::clone(&doorbell), status_sender)?;
    let outcome = tokio::select! {
        outcome = &mut ended => outcome,
        _ = terminate.recv() => stop(&doorbell, ended).await,
        _ = interrupt.recv() => stop(&doorbell, ended).await,
    };
    socket.finish().await;
    outcome.map_err(|_| anyhow!("the reconcile loop panicked; the datapath stands as it was"))?
}

type Ended = oneshot::Receiver<anyhow::Result<()>>;

/// Ends the loop and waits for the run that is under way.
async fn stop(doorbell: &Doorbell, ended: Ended) -> Result<anyhow::Result<()>, oneshot::error::RecvError> {
    tracing::info!("ending; the datapath stays (remove it with `redirect-agent cleanup`)");
    doorbell.stop();
    ended.await
}

/// Starts the loop on a thread of its own, inside the runtime's context.
fn spawn_loop(
    config: Config,
    snapshots: Snapshots,
    doorbell: Arc<Doorbell>,
    status: watch::Sender<Status>,
) -> anyhow::Result<Ended> {
    let (sender, receiver) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let body = move || {
        let _context = runtime.enter();
        let outcome = Reconciler::new(config, snapshots, doorbell, status).and_then(Reconciler::run);
        let _ = sender.send(outcome);
    };
    thread::Builder::new().name("reconcile".into()).spawn(body).context("start the reconcile loop")?;
    Ok(receiver)
}

async fn ring_on_change(mut snapshots: Snapshots, doorbell: Arc<Doorbell>) {
    while snapshots.changed().await.is_ok() {
        doorbell.ring(Cause::Anything);
    }
}
