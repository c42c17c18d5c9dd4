//! Connections that go on while something is done to the node: one after another from a meshed pod and to it, and one long
//! one each way. What became of each is judged afterwards, by what client, server and proxy saw.

use std::collections::BTreeMap;
use std::mem;
use std::net::{SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::client::{Session, TIMEOUT};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::proxy::{Record, read};

/// Source ports of the clients: below those that the kernel chooses (`ip_local_port_range`), so that a segment from one of
/// them is the client's own, and not its connection onward from the proxy.
pub const CLIENT_PORTS: Range<u16> = 20_000..32_000;
/// The first that no stream has. No port is used twice in a process: a connection of the same ends may not be forgotten everywhere.
static NEXT_PORT: AtomicU16 = AtomicU16::new(CLIENT_PORTS.start);
/// For what takes some seconds.
const BRISK: Pace = Pace { ports: 1000, pause: Duration::from_millis(20) };
/// For what takes minutes.
const LASTING: Pace = Pace { ports: 5000, pause: Duration::from_millis(100) };
/// How long a long connection may be silent: what was lost is sent again, and the guest may not run for seconds.
const SILENCE: Duration = Duration::from_secs(10);
/// How long [`Traffic::wait_for_more`] waits for one connection.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often a stream connects, and for how long it can.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// For one stream, each for one connection.
    ports: u16,
    /// Between two connections, and between two messages on a long connection: so that the emulated processor has time for the
    /// rest.
    pause: Duration,
}

/// Who speaks with whom, and what the proxy must see of it.
#[derive(Clone, Debug)]
struct Stream {
    name: &'static str,
    from: Netns,
    source: SocketAddrV4,
    to: SocketAddrV4,
    server: &'static str,
    listener: u16,
}

/// Streams that run until [`Traffic::stop`], or until the value goes.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    log: std::path::PathBuf,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    attempts: Vec<Attempt>,
    /// How many attempts each stream has made, and how many messages each long connection has passed.
    made: BTreeMap<&'static str, usize>,
    broken: Vec<String>,
}

#[derive(Debug)]
struct Attempt {
    stream: Stream,
    client: SocketAddrV4,
    outcome: Result<(), String>,
}

/// What became of it all.
#[derive(Debug)]
pub struct Report {
    /// New connections that were tried.
    pub tried: usize,
    /// Those that did not come about, and why.
    pub failed: Vec<String>,
    /// Those that came about and went another way than through the right listener of the proxy.
    pub astray: Vec<String>,
    /// Long connections that broke, and why.
    pub broken: Vec<String>,
}

impl Traffic {
    /// Starts streams from and to the meshed pod `app-a`, whose proxy is the pod `proxy`, for some seconds.
    pub fn start(lab: &Lab, proxy: &str) -> Result<Self> {
        Self::at(BRISK, lab, proxy)
    }

    /// Starts the same streams at a pace that they keep up for minutes. There are ports for it once in a process.
    pub fn start_lasting(lab: &Lab, proxy: &str) -> Result<Self> {
        Self::at(LASTING, lab, proxy)
    }

    fn at(pace: Pace, lab: &Lab, proxy: &str) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut traffic = Self { shared, threads: Vec::new(), log: lab.proxy_log(proxy) };
        for stream in streams(lab)? {
            let first = NEXT_PORT.fetch_add(pace.ports, Ordering::Relaxed);
            ensure!(first + pace.ports <= CLIENT_PORTS.end, "all ports were used");
            let long = SocketAddrV4::new(*stream.source.ip(), first);
            let session = Session::open_from(&stream.from, stream.to, long);
            let mut session = session.with_context(|| format!("the long connection {}", stream.name))?;
            session.be_patient(SILENCE)?;
            let (shared, name) = (traffic.shared.clone(), stream.name);
            traffic.threads.push(thread::spawn(move || keep_talking(&shared, name, session, pace)));
            let shared = traffic.shared.clone();
            traffic.threads.push(thread::spawn(move || keep_connecting(&shared, &stream, first + 1, pace)));
        }
        Ok(traffic)
    }

    /// Waits until every stream has tried `count` connections more.
    pub fn wait_for_more(&self, count: usize) -> Result<()> {
        let mut state = self.shared.lock();
        let goals: Vec<_> =
            STREAMS.map(|name| (name, state.made.get(name).copied().unwrap_or_default() + count)).into();
        loop {
            let made = &state.made;
            if goals.iter().all(|(name, goal)| made.get(name).is_some_and(|made| made >= goal)) {
                return Ok(());
            }
            let before = made.clone();
            let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, |state| state.made == before);
            let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            ensure!(!timeout.timed_out(), "the clients do not go on: {before:?}, {:?}", next.broken);
            state = next;
        }
    }

    /// Ends the streams and judges them.
    pub fn stop(mut self) -> Result<Report> {
        self.end();
        let mut state = self.shared.lock();
        let (records, _) = read(&self.log, 0)?;
        let mut report =
            Report { tried: 0, failed: Vec::new(), astray: Vec::new(), broken: mem::take(&mut state.broken) };
        for attempt in mem::take(&mut state.attempts) {
            report.tried += 1;
            let what = || format!("{} ({} to {})", attempt.stream.name, attempt.client, attempt.stream.to);
            match &attempt.outcome {
                Err(error) => report.failed.push(format!("{}: {error}", what())),
                Ok(()) => {
                    report.astray.extend(astray(&attempt, &records).map(|error| format!("{}: {error}", what())));
                }
            }
        }
        Ok(report)
    }

    fn end(&mut self) {
        self.shared.lock().stop = true;
        for thread in self.threads.drain(..) {
            // A panic is in its output; the attempts that it did not make are missing from the count.
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

impl Report {
    /// No packet's fate was another than usual.
    pub fn all_is_well(&self) -> Result<()> {
        ensure!(self.failed.is_empty(), "{} of {} failed: {}", self.failed.len(), self.tried, first(&self.failed));
        self.nothing_escaped()
    }

    /// What came about came about as it must, and what stood goes on; new connections may have been blocked.
    pub fn nothing_escaped(&self) -> Result<()> {
        ensure!(self.astray.is_empty(), "{} of {} went astray: {}", self.astray.len(), self.tried, first(&self.astray));
        ensure!(self.broken.is_empty(), "long connections broke: {}", first(&self.broken));
        ensure!(self.tried > self.failed.len(), "not one connection came about: {}", first(&self.failed));
        Ok(())
    }
}

/// Enough for a reader; the rest is alike.
fn first(texts: &[String]) -> String {
    texts.iter().take(5).cloned().collect::<Vec<_>>().join("; ")
}

const STREAMS: [&str; 2] = ["meshed to remote", "remote to meshed"];

fn streams(lab: &Lab) -> Result<[Stream; 2]> {
    let stream = |name, from: &str, to, server, listener| {
        let source = SocketAddrV4::new(lab.address(from)?, 0);
        Ok::<_, anyhow::Error>(Stream { name, from: lab.place(from)?, source, to: lab.target(to)?, server, listener })
    };
    Ok([
        stream(STREAMS[0], "app-a", "remote", "remote", 15001)?,
        stream(STREAMS[1], "remote", "app-a", "app-a", 15006)?,
    ])
}

fn keep_connecting(shared: &Shared, stream: &Stream, first: u16, pace: Pace) {
    for port in (first..).take(usize::from(pace.ports) - 1) {
        let client = SocketAddrV4::new(*stream.source.ip(), port);
        let outcome = once(stream, client).map_err(|error| format!("{error:#}"));
        let mut state = shared.lock();
        state.attempts.push(Attempt { stream: stream.clone(), client, outcome });
        *state.made.entry(stream.name).or_default() += 1;
        shared.changed.notify_all();
        if shared.pause(state, pace) {
            return;
        }
    }
    shared.lock().broken.push(format!("{}: it went on for longer than its ports last", stream.name));
}

fn once(stream: &Stream, client: SocketAddrV4) -> Result<()> {
    let mut session = Session::open_from(&stream.from, stream.to, client)?;
    session.echo()?;
    let greeting = session.greeting();
    ensure!(greeting.server == stream.server, "reached {}", greeting.server);
    ensure!(greeting.peer.ip() == *stream.source.ip(), "the server saw {}", greeting.peer);
    Ok(())
}

fn keep_talking(shared: &Shared, name: &str, mut session: Session, pace: Pace) {
    loop {
        let said = session.echo();
        let mut state = shared.lock();
        if let Err(error) = said {
            state.broken.push(format!("{name}: {error:#}"));
            return;
        }
        if shared.pause(state, pace) {
            return;
        }
    }
}

/// Why the attempt, which came about, is not as it must be.
fn astray(attempt: &Attempt, records: &[Record]) -> Option<String> {
    let Attempt { stream, client, .. } = attempt;
    // The last one: the ports are used again by the next traffic.
    let Some(record) = records.iter().rfind(|record| record.client == SocketAddr::V4(*client)) else {
        return Some("unseen by the proxy".to_owned());
    };
    let right = record.listener == stream.listener && record.original_dst == SocketAddr::V4(stream.to);
    (!right).then(|| format!("the proxy saw {record:?}"))
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a little; whether it is time to stop.
    fn pause(&self, state: std::sync::MutexGuard<'_, State>, pace: Pace) -> bool {
        let waited = self.changed.wait_timeout_while(state, pace.pause, |state| !state.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }
}

const _: () = assert!(TIMEOUT.as_secs() < PATIENCE.as_secs() && SILENCE.as_secs() < PATIENCE.as_secs());
