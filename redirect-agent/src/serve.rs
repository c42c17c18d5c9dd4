//! The agent's unix socket: one JSON request a connection, one JSON answer. Only root may ask, a request is small, a slow
//! client is dropped, and only so many are heard at once; none of it can reach the loop but through the doorbell.

use std::collections::BTreeSet;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::install::Install;
use crate::lock::Lock;
use crate::reconcile::cleanup::Outcome;
use crate::reconcile::doorbell::Doorbell;
use crate::reconcile::heart;
use crate::resources::ledger::Problem;
use crate::socket::Listener;
use crate::status::Status;
use crate::trace::{self, Target};

/// File name of the socket in the state directory.
pub(crate) const SOCKET: &str = "agent.sock";
const REQUEST_LIMIT: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(5);
/// A cleanup waits for the run that is under way, and that for the xtables lock.
const CLEANUP_PATIENCE: Duration = Duration::from_mins(3);
const CLIENTS: u32 = 16;
/// Agents that wait, as when a daemon set of another name is applied as well.
const RIVALS: usize = 4;

/// What a client may ask.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// The status.
    Status,
    /// Log what the programs decide about this pod's packets, or no pod's.
    Trace { pod: Option<Target> },
    /// Take everything away and end.
    Cleanup,
    /// Another agent that waits for this one to end. It is answered by the end.
    Wait,
}

/// What is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer<T> {
    /// What was asked for.
    Ok(T),
    /// Why not.
    Error(String),
}

/// The socket that is listened on.
pub(crate) struct Server {
    acceptor: tokio::task::JoinHandle<()>,
    places: Arc<Semaphore>,
}

impl Server {
    /// Takes no more clients, and waits for those that are being served: one of them may have asked for the cleanup that
    /// ends the agent.
    pub(crate) async fn finish(self) {
        self.acceptor.abort();
        drop(timeout(PATIENCE, self.places.acquire_many(CLIENTS)).await);
    }
}

/// Answers until [`Server::finish`].
pub(crate) fn listen(
    lock: &Arc<Lock>,
    status: watch::Receiver<Status>,
    doorbell: Arc<Doorbell>,
    install: Arc<Install>,
) -> anyhow::Result<Server> {
    let mut listener = Listener::bind(lock, SOCKET)?;
    let places = Arc::new(Semaphore::new(CLIENTS as usize));
    let (free, rivals) = (Arc::clone(&places), Arc::<Rivals>::default());
    let acceptor = tokio::spawn(async move {
        while let Ok(place) = Arc::clone(&free).acquire_owned().await {
            let stream = listener.accept().await;
            let (status, doorbell, install) = (status.clone(), Arc::clone(&doorbell), Arc::clone(&install));
            let rivals = Arc::clone(&rivals);
            tokio::spawn(async move {
                if let Err(error) = serve(stream, &status, &doorbell, install, &rivals, place).await {
                    tracing::debug!(error = format!("{error:#}"), "a client of the socket was dropped");
                }
            });
        }
    });
    Ok(Server { acceptor, places })
}

async fn serve(
    mut stream: UnixStream,
    status: &watch::Receiver<Status>,
    doorbell: &Doorbell,
    install: Arc<Install>,
    rivals: &Rivals,
    place: OwnedSemaphorePermit,
) -> anyhow::Result<()> {
    let pid = stream.peer_cred()?.pid();
    let (reader, mut writer) = stream.split();
    let answer = match timeout(PATIENCE, read(reader)).await.context("no request came")?? {
        Request::Status => encode(&Answer::Ok(complete(status.borrow().clone(), &install, rivals))),
        Request::Wait => {
            // It is no client that is waited for at the end.
            drop(place);
            return rivals.keep(pid, stream).await;
        }
        Request::Trace { pod } => match trace::request(status.clone(), doorbell, pod).await {
            Ok(()) => encode(&Answer::Ok(())),
            Err(error) => encode(&Answer::<()>::Error(format!("{error:#}"))),
        },
        // Else it would take over at once, and put everything in place again.
        Request::Cleanup if !rivals.notes().is_empty() => {
            let who = rivals.notes().into_iter().map(|note| note.message).collect::<Vec<_>>().join("; ");
            encode(&Answer::<()>::Error(format!(
                "nothing was taken away: {who}, and would put it back; end that one first"
            )))
        }
        Request::Cleanup => match timeout(CLEANUP_PATIENCE, cleanup(doorbell, install)).await {
            Ok(Ok(outcome)) => encode(&Answer::Ok(outcome)),
            _ => encode(&Answer::<()>::Error("the agent did not finish the cleanup; see its log".into())),
        },
    };
    timeout(PATIENCE, writer.write_all(&answer?)).await.context("the answer was not taken")??;
    drop(place);
    Ok(())
}

/// What the loop does not know of.
fn complete(mut status: Status, install: &Install, rivals: &Rivals) -> Status {
    status.notes.extend(rivals.notes());
    let (plugin, problem) = install.status();
    status.cni_plugin = plugin;
    status.problems.extend(problem);
    status.stuck = heart::stuck();
    if let Some(stuck) = &status.stuck {
        status.ready = false;
        status.problems.push(Problem::new("reconcile loop", stuck));
    }
    status
}

/// Agents that wait for this one to end, by their processes.
#[derive(Default)]
struct Rivals(Mutex<BTreeSet<i32>>);

impl Rivals {
    /// Remembers one for as long as it is there.
    async fn keep(&self, pid: Option<i32>, mut stream: UnixStream) -> anyhow::Result<()> {
        let pid = pid.unwrap_or_default();
        if u32::try_from(pid) == Ok(process::id()) {
            return Ok(());
        }
        {
            let mut all = self.lock();
            ensure!(all.len() < RIVALS, "{RIVALS} agents wait already");
            ensure!(all.insert(pid), "it waits already");
        }
        tracing::warn!(pid, "another agent has been started; it waits for this one to end");
        let gone = stream.read(&mut [0]).await;
        self.lock().remove(&pid);
        tracing::info!(pid, "the agent that waited is gone");
        gone.map(drop).map_err(Into::into)
    }

    fn notes(&self) -> Vec<Problem> {
        let note = |pid: &i32| Problem::new("agent", format!("another one (pid {pid}) waits for this one to end"));
        self.lock().iter().map(note).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The plugin first: while a list names it, it is asked for pods that start.
async fn cleanup(doorbell: &Doorbell, install: Arc<Install>) -> anyhow::Result<Outcome> {
    let removed = spawn_blocking(move || install.remove()).await?;
    Ok(doorbell.cleanup().await?.with(removed))
}

async fn read(reader: tokio::net::unix::ReadHalf<'_>) -> anyhow::Result<Request> {
    let peer = reader.as_ref().peer_cred()?.uid();
    if peer != 0 {
        bail!("uid {peer} is not root");
    }
    let mut line = String::new();
    BufReader::new(reader.take(REQUEST_LIMIT)).read_line(&mut line).await?;
    serde_json::from_str(&line).context("not a request")
}

fn encode(answer: &Answer<impl Serialize>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(answer)?;
    bytes.push(b'\n');
    Ok(bytes)
}
