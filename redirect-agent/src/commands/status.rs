//! `redirect-agent status`.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use super::client;
use super::print::print;
use crate::cli::{Output, Status};
use crate::reconcile::heart::TOO_LONG;
use crate::serve::Request;

/// Prints the running agent's status.
pub(crate) fn run(args: &Status) -> anyhow::Result<()> {
    let status: Value = client::ask(&args.state.state_dir, &Request::Status)?;
    let ready = status["ready"] == true;
    let lasts = status["stuck"]["seconds"].as_u64().map_or(Duration::ZERO, Duration::from_secs);
    match args.output {
        Output::Json => print(&serde_json::to_string_pretty(&status)?)?,
        Output::Text => print(&serde_json::from_value::<crate::status::Status>(status)?.to_string())?,
    }
    ensure!(lasts < TOO_LONG, "the agent's loop hangs; see the problems above");
    ensure!(ready || !args.ready, "the agent is not ready");
    Ok(())
}
