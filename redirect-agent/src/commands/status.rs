//! `redirect-agent status`.

use anyhow::ensure;
use serde_json::Value;

use super::client;
use super::print::print;
use crate::cli::{Output, Status};
use crate::serve::Request;

/// Prints the running agent's status.
pub(crate) fn run(args: &Status) -> anyhow::Result<()> {
    let status: Value = client::ask(&args.state.state_dir, &Request::Status)?;
    let ready = status["ready"] == true;
    match args.output {
        Output::Json => print(&serde_json::to_string_pretty(&status)?)?,
        Output::Text => print(&serde_json::from_value::<crate::status::Status>(status)?.to_string())?,
    }
    ensure!(ready || !args.ready, "the agent is not ready");
    Ok(())
}
