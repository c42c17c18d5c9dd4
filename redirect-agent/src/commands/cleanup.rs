//! `redirect-agent cleanup`.

use anyhow::bail;

use super::client;
use super::print::print;
use crate::cli::{Cleanup, Output};
use crate::install::Install;
use crate::lock;
use crate::reconcile::cleanup::{self, Outcome};
use crate::serve::Request;
use crate::sources::kubernetes;

/// Takes everything of ours away: by the running agent, which then ends, or else by itself.
pub(crate) fn run(args: &Cleanup) -> anyhow::Result<()> {
    let directory = &args.state.state_dir;
    lock::prepare(directory)?;
    let outcome: Outcome = if let Some(_lock) = lock::take(directory)? {
        // First: while a list names the plugin, it is asked for pods that start.
        let removed = Install::to_remove(args.cni.places(), directory).remove();
        let mut outcome = cleanup::offline(directory, &args.bpf.bpf_dir)?.with(removed);
        if let Err(error) = unmark(args) {
            outcome.problems.push(("annotations".to_owned(), format!("{error:#}")));
        }
        outcome
    } else {
        // The agent ends after it has answered; whoever looks next finds no process.
        client::ask_and_outlive(directory, &Request::Cleanup)?
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
