//! `redirect-lab connect`.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::client::{Seen, probe};
use crate::lab::Lab;
use crate::pod::Role;
use crate::proxy::{Record, read};

#[derive(Args, Debug)]
pub(super) struct ConnectArgs {
    /// Where the client is: a pod, `node` (as kubelet probes) or `remote`
    #[arg(long)]
    from: String,
    /// Whom to reach: IP:PORT, or a pod, `remote`, `svc-remote` or `svc-app-b`, with :PORT if another one is wanted
    #[arg(long)]
    to: String,
    /// How many connections to make
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// The client's source address, if its place has several
    #[arg(long)]
    source: Option<Ipv4Addr>,
    /// Print one JSON object per connection
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    seen: Option<Seen>,
    error: Option<String>,
    proxy: Vec<Record>,
}

pub(super) fn run(lab: &Lab, args: &ConnectArgs) -> Result<()> {
    let (netns, target) = (lab.place(&args.from)?, lab.target(&args.to)?);
    let logs: Vec<_> =
        lab.pods().iter().filter(|pod| pod.role == Role::Proxy).map(|pod| lab.proxy_log(&pod.name)).collect();
    let mut failed = 0;
    for _ in 0..args.count {
        let before = logs.iter().map(|log| Ok(read(log, 0)?.1)).collect::<Result<Vec<_>>>()?;
        let result = probe(&netns, target, args.source);
        let mut proxy = Vec::new();
        for (log, offset) in logs.iter().zip(before) {
            proxy.extend(read(log, offset)?.0);
        }
        let (seen, error) = match result {
            Ok(seen) => (Some(seen), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        failed += u32::from(error.is_some());
        let line = Line { seen, error, proxy };
        println!("{}", if args.json { serde_json::to_string(&line)? } else { text(args, &line) });
    }
    ensure!(failed == 0, "{failed} of {} connections failed", args.count);
    Ok(())
}

fn text(args: &ConnectArgs, line: &Line) -> String {
    let mut lines = vec![match (&line.seen, &line.error) {
        (Some(seen), _) => format!(
            "{} ({}) reached {} ({}), which saw {}; {} ms",
            args.from, seen.client, seen.server, seen.server_address, seen.source, seen.milliseconds
        ),
        (None, error) => format!("{} did not reach {}: {}", args.from, args.to, error.as_deref().unwrap_or("unknown")),
    }];
    lines.extend(line.proxy.iter().map(|record| {
        let Record { direction, listener, client, original_dst, .. } = record;
        format!("  through the proxy: {direction:?} by listener {listener}, {client} to {original_dst}")
    }));
    if line.proxy.is_empty() {
        lines.push("  not through the proxy".to_owned());
    }
    lines.join("\n")
}
