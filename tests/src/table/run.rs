//! Makes the connections of the table and compares what client, server and proxy saw with what must be.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Result, ensure};

use super::{CASES, Case, Expect, render};
use crate::client::{Seen, probe};
use crate::lab::Lab;
use crate::proxy::{Record, read};

/// What became of one case.
#[derive(Debug)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// What the client was told, or why not.
    pub seen: Result<Seen, String>,
    /// What the proxy saw.
    pub records: Vec<Record>,
    /// What is not as it must be; empty is right.
    pub wrong: Vec<String>,
}

/// Runs all cases, one after the other, while `proxy` is the pod of the node proxy.
pub fn run(lab: &Lab, proxy: &str) -> Result<Vec<Row>> {
    CASES.iter().map(|case| run_case(lab, proxy, *case)).collect()
}

/// Runs all cases; an error shows the table if a row is wrong.
pub fn check(lab: &Lab, proxy: &str) -> Result<()> {
    let rows = run(lab, proxy)?;
    ensure!(rows.iter().all(|row| row.wrong.is_empty()), "\n{}", render(&rows));
    Ok(())
}

/// Runs one case. Nothing else may use the proxy meanwhile: every new record is taken for this case's.
pub fn run_case(lab: &Lab, proxy: &str, case: Case) -> Result<Row> {
    // Tables are constants; ztunnel may have been replaced by a pod of another name.
    let from = if case.from == "ztunnel" { proxy } else { case.from };
    let log = lab.proxy_log(proxy);
    let before = log_end(&log)?;
    let source = match case.source {
        Some(source) => source,
        None => lab.address(from)?,
    };
    let seen = probe(&lab.place(from)?, lab.target(case.to)?, case.source).map_err(|error| format!("{error:#}"));
    let (records, _) = read(&log, before)?;
    let mut wrong = judge_server(&case, source, &seen);
    wrong.extend(judge_proxy(lab, &case, source, &records)?);
    Ok(Row { case, seen, records, wrong })
}

fn log_end(log: &Path) -> Result<usize> {
    Ok(read(log, 0)?.1)
}

fn judge_server(case: &Case, source: Ipv4Addr, seen: &Result<Seen, String>) -> Vec<String> {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return vec![format!("expected an answer of {}: {error}", case.server)],
    };
    let mut wrong = Vec::new();
    if seen.server != case.server {
        wrong.push(format!("expected server {}, reached {}", case.server, seen.server));
    }
    if seen.source != source {
        wrong.push(format!("expected source {source}, seen {}", seen.source));
    }
    wrong
}

fn judge_proxy(lab: &Lab, case: &Case, source: Ipv4Addr, records: &[Record]) -> Result<Vec<String>> {
    let (listener, original_dst) = match case.proxy {
        Expect::Nothing if records.is_empty() => return Ok(Vec::new()),
        Expect::Nothing => return Ok(vec![format!("expected not to pass the proxy, which saw {}", brief(records))]),
        Expect::Outbound => (15001, lab.target(case.to)?),
        Expect::Inbound(listener, target) => (listener, lab.target(target)?),
    };
    let right = |record: &Record| {
        record.listener == listener
            && record.original_dst == SocketAddr::V4(original_dst)
            && record.client.ip() == source
            && record.error.is_none()
    };
    match records {
        [record] if right(record) => Ok(Vec::new()),
        _ => Ok(vec![format!(
            "expected the proxy to see {source} to {original_dst} on {listener}, once; it saw {}",
            brief(records)
        )]),
    }
}

fn brief(records: &[Record]) -> String {
    if records.is_empty() {
        return "nothing".to_owned();
    }
    let one = |record: &Record| {
        let error = record.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        format!("{} to {} on {}{error}", record.client.ip(), record.original_dst, record.listener)
    };
    records.iter().map(one).collect::<Vec<_>>().join(", then ")
}
