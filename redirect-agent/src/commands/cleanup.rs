//! `redirect-agent cleanup`.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::client;
use super::print::print;
use crate::cli::{Cleanup, Output};
use crate::install::Install;
use crate::lock::{self, Lock};
use crate::reconcile::cleanup::{self, Outcome};
use crate::serve::{Request, SOCKET};
use crate::sources::kubernetes;

/// How long somebody may have the lock and not listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries. Nobody tells of both, the lock and the socket.
const AGAIN: Duration = Duration::from_millis(50);

/// Who takes everything away.
#[derive(Debug)]
enum Cleaner {
    /// This process, with the lock.
    Us(Lock),
    /// The agent that has it.
    Agent(UnixStream),
}

/// Takes everything of ours away: by the running agent, which then ends, or else by itself.
pub(crate) fn run(args: &Cleanup) -> anyhow::Result<()> {
    let directory = &args.state.state_dir;
    lock::prepare(directory)?;
    let outcome = match cleaner(directory, PATIENCE)? {
        Cleaner::Us(_lock) => by_ourselves(args)?,
        // It ends after it has answered; whoever looks next finds no process.
        Cleaner::Agent(agent) => client::ask_and_outlive(agent, &Request::Cleanup)?,
    };
    match args.output {
        Output::Json => print(&serde_json::to_string_pretty(&outcome)?)?,
        Output::Text => print(&format!("{} objects removed or put back", outcome.writes))?,
    }
    for (object, message) in &outcome.problems {
        eprintln!("problem: {object}: {message}");
    }
    if !outcome.problems.is_empty() {
        bail!("{} objects are left; run it again when the problems are solved", outcome.problems.len());
    }
    Ok(())
}

/// Who has the lock need not listen: an agent that has just begun does not yet, and of one that was just killed a tool may be left that has
/// not come to its `execve`, and holds what it was forked with.
fn cleaner(directory: &Path, patience: Duration) -> anyhow::Result<Cleaner> {
    let end = Instant::now() + patience;
    loop {
        if let Some(lock) = lock::take(directory)? {
            return Ok(Cleaner::Us(lock));
        }
        if let Some(agent) = client::connect(directory)? {
            return Ok(Cleaner::Agent(agent));
        }
        if Instant::now() >= end {
            let (lock, socket) = (directory.join(lock::FILE), directory.join(SOCKET));
            bail!(
                "somebody has locked {} (see /proc/locks) and does not listen on {}; end that process, and run this again",
                lock.display(),
                socket.display()
            );
        }
        thread::sleep(AGAIN);
    }
}

fn by_ourselves(args: &Cleanup) -> anyhow::Result<Outcome> {
    let directory = &args.state.state_dir;
    // First: while a list names the plugin, it is asked for pods that start.
    let removed = Install::to_remove(args.cni.places(), directory).remove();
    let mut outcome = cleanup::offline(directory, &args.bpf.bpf_dir)?.with(removed);
    if let Err(error) = unmark(args) {
        outcome.problems.push(("annotations".to_owned(), format!("{error:#}")));
    }
    Ok(outcome)
}

/// Takes the annotation off the node's pods, if it is known which node this is and how to reach the API server.
fn unmark(args: &Cleanup) -> anyhow::Result<()> {
    match &args.node_name {
        Some(node) if args.kubeconfig.is_some() || kubernetes::in_cluster() => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(kubernetes::unmark(args.kubeconfig.as_deref(), node))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_lock_without_an_agent_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let held = lock::take(directory).unwrap().unwrap();
        let error = cleaner(directory, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains(lock::FILE) && error.contains(SOCKET), "{error}");
        thread::scope(|scope| {
            let waits = scope.spawn(|| cleaner(directory, PATIENCE));
            thread::sleep(AGAIN);
            drop(held);
            assert!(matches!(waits.join().unwrap().unwrap(), Cleaner::Us(_)));
        });
    }

    #[test]
    fn an_agent_that_comes_to_listen_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let _held = lock::take(directory).unwrap().unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| cleaner(directory, PATIENCE));
            let _listens = UnixListener::bind(directory.join(SOCKET)).unwrap();
            assert!(matches!(waits.join().unwrap().unwrap(), Cleaner::Agent(_)));
        });
    }
}
