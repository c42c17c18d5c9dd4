//! `redirect-agent trace`.

use super::client;
use super::print::print;
use crate::cli::Trace;
use crate::serve::Request;

/// Has the running agent log what the programs decide about a pod's packets, or no pod's.
pub(crate) fn run(args: Trace) -> anyhow::Result<()> {
    let said = match &args.pod {
        Some(pod) => {
            format!("tracing {pod}: its packets are in the agent's log; end it with `redirect-agent trace --off`")
        }
        None => "no pod is traced".into(),
    };
    let () = client::ask(&args.state.state_dir, &Request::Trace { pod: args.pod })?;
    print(&said)
}
