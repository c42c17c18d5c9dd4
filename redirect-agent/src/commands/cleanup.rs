//! `redirect-agent cleanup`.

use anyhow::bail;

use super::print::print;
use super::{client, lock};
use crate::cli::{Cleanup, Output};
use crate::reconcile::cleanup::{self, Outcome};
use crate::serve::Request;

/// Takes everything of ours away: by the running agent, which then ends, or else by itself.
pub(crate) fn run(args: &Cleanup) -> anyhow::Result<()> {
    let directory = &args.state.state_dir;
    lock::prepare(directory)?;
    let outcome: Outcome = if let Some(_lock) = lock::take(directory)? {
        cleanup::offline(directory, &args.bpf.bpf_dir)?
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
