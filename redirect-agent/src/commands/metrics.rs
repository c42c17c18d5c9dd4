//! `redirect-agent metrics`.

use super::client;
use super::print::print;
use crate::cli::Metrics;
use crate::metrics;
use crate::serve::Request;
use crate::status::Status;

/// Prints the running agent's numbers.
pub(crate) fn run(args: &Metrics) -> anyhow::Result<()> {
    let status: Status = client::ask(&args.state.state_dir, &Request::Status)?;
    print(&metrics::render(&status)?)
}
