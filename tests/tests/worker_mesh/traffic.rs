//! Connections between the pods of the node, and which way each went.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redirect_lab::client::{Seen, probe};
use redirect_lab::netns::Netns;
use redirect_lab::proxy::{Record, read};

use super::objects::PROXY_LOG;

/// How often a connection is tried.
const ATTEMPTS: usize = 3;

/// Where a connection must have passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Not by the proxy.
    Direct,
    /// By this listener of the proxy, and to the address that the proxy must see.
    Proxied(u16, SocketAddrV4),
}

/// All that the proxies of the node have written down so far.
pub(super) fn records(from: usize) -> Result<(Vec<Record>, usize)> {
    read(Path::new(PROXY_LOG), from)
}

/// Makes one connection; it must reach `server` by that way.
pub(super) fn connection(from: &Netns, to: SocketAddrV4, server: &str, way: Way) -> Result<()> {
    let (_, before) = records(0)?;
    let mut seen = probe(from, to, None);
    // The guest may not run for seconds. What matters is the way of the one that comes about.
    for _ in 1..ATTEMPTS {
        seen = seen.or_else(|_| probe(from, to, None));
    }
    let seen = seen?;
    ensure!(seen.server == server, "reached {} instead of {server}", seen.server);
    let (records, _) = records(before)?;
    judge(&seen, &records, way)
}

fn judge(seen: &Seen, records: &[Record], way: Way) -> Result<()> {
    // Pods that start meanwhile have connections of their own.
    let own: Vec<&Record> = records.iter().filter(|record| record.client == seen.client).collect();
    match (way, own.as_slice()) {
        (Way::Direct, []) => Ok(()),
        (Way::Proxied(listener, to), [record]) => {
            let right =
                record.listener == listener && record.original_dst == SocketAddr::V4(to) && record.error.is_none();
            ensure!(right, "the proxy saw {record:?}");
            Ok(())
        }
        _ => anyhow::bail!("expected {way:?}; the proxy saw {own:?}"),
    }
}

/// Connections one after another while something else is done.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Result<Seen>>>,
    before: usize,
}

/// What became of them.
pub(super) struct Report {
    pub(super) made: usize,
    /// Why others were not made.
    pub(super) failed: Vec<String>,
    /// Those that reached the server and not by the proxy.
    pub(super) astray: Vec<String>,
}

impl Stream {
    pub(super) fn start(from: Netns, to: SocketAddrV4) -> Result<Self> {
        let (stop, (_, before)) = (Arc::new(AtomicBool::new(false)), records(0)?);
        let ended = stop.clone();
        let thread = thread::spawn(move || {
            let mut all = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                all.push(probe(&from, to, None));
                // So that the emulated processors have time for the rest.
                thread::sleep(Duration::from_millis(200));
            }
            all
        });
        Ok(Self { stop, thread, before })
    }

    pub(super) fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.thread.join().ok().context("the thread that connects has panicked")?;
        let clients: BTreeSet<SocketAddr> = records(self.before)?.0.iter().map(|record| record.client).collect();
        let mut report = Report { made: 0, failed: Vec::new(), astray: Vec::new() };
        for outcome in all {
            match outcome {
                Ok(seen) if clients.contains(&seen.client) => report.made += 1,
                Ok(seen) => report.astray.push(seen.client.to_string()),
                Err(error) => report.failed.push(format!("{error:#}")),
            }
        }
        Ok(report)
    }
}

/// Ports of lines such as `… IP 10.0.2.15.41234 > 10.0.2.2.8080: Flags [S], …`.
pub(super) fn source_ports(lines: &[String]) -> Result<BTreeSet<u16>> {
    let port = |line: &String| {
        let source = line.split_whitespace().skip_while(|word| *word != "IP").nth(1)?;
        source.rsplit_once('.')?.1.parse().ok()
    };
    lines.iter().map(|line| port(line).with_context(|| format!("not a packet: {line}"))).collect()
}

/// The netns of the pod with this address, by the names that the container runtime gives.
pub(super) fn netns_of(ip: Ipv4Addr) -> Result<Netns> {
    for entry in std::fs::read_dir("/run/netns").context("list namespaces")? {
        let netns = Netns::named(entry?.file_name().to_string_lossy());
        // One that goes meanwhile is not the one.
        if netns.run(|| has(ip)).is_ok_and(|has| has) {
            return Ok(netns);
        }
    }
    anyhow::bail!("no network namespace has {ip}")
}

fn has(ip: Ipv4Addr) -> bool {
    let Ok(mut all) = nix::ifaddrs::getifaddrs() else { return false };
    all.any(|link| link.address.is_some_and(|own| own.as_sockaddr_in().is_some_and(|own| own.ip() == ip)))
}
