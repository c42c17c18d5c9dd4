//! Connections that go on while something is done to the node: one after another, and one long one of each kind. What became of each
//! is said afterwards, by what client, server and proxies saw; with a judge, also by what was seen on the links.

mod failure;
mod report;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub use failure::{Astray, Class, Failure};
pub use report::Report;
pub use stream::DIRECT;

use self::stream::{ALL, FEW, Kind, Stream};
use crate::client::{Session, TIMEOUT};
use crate::judge::{Judge, Registry};
use crate::lab::Lab;
use crate::pods::proxy_logs;
use crate::ports;
pub use crate::ports::CLIENT_PORTS;
use crate::proxy::{Record, read};

/// Between two connections, and between two messages on a long one, for what takes some seconds: so that the emulated processor has
/// time for the rest.
const BRISK: Duration = Duration::from_millis(20);
/// For what takes minutes.
const LASTING: Duration = Duration::from_millis(100);
/// For what has much to do besides, on a machine that may be busy with others too.
const LEISURELY: Duration = Duration::from_millis(250);
/// How long a long connection may be silent: what was lost is sent again, and the guest may not run for seconds.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two looks at whether the machine runs.
const BEAT: Duration = Duration::from_millis(100);
/// How long [`Traffic::wait_for_more`] waits for one connection.
const PATIENCE: Duration = Duration::from_secs(40);

/// Streams that run until [`Traffic::stop`], or until the value goes.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    names: Vec<&'static str>,
    proxies: Proxies,
}

/// The proxies that count.
#[derive(Debug)]
enum Proxies {
    Of(String, PathBuf),
    /// All of the lab that keeps its things here, whenever they come.
    In(PathBuf),
}

#[derive(Debug)]
struct Shared {
    pause: Duration,
    /// How long a new connection, and each answer on it, may take.
    patience: Duration,
    registry: Option<Registry>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    attempts: Vec<Tried>,
    /// How many attempts each stream has made.
    made: BTreeMap<&'static str, usize>,
    /// When each stream's long connection began to say what was answered last.
    answered: BTreeMap<&'static str, Instant>,
    broken: Vec<Failure>,
    slowest: (Duration, &'static str),
    held_up: Duration,
    standing: Vec<(&'static str, SocketAddrV4)>,
    gave_up: Vec<String>,
}

#[derive(Debug)]
struct Tried {
    stream: Stream,
    client: SocketAddrV4,
    begun: Instant,
    ended: Instant,
    outcome: Result<(), Failure>,
}

impl Traffic {
    /// Starts streams from and to the meshed pod `app-a`, whose proxy is the pod `proxy`, for some seconds.
    pub fn start(lab: &Lab, proxy: &str) -> Result<Self> {
        Self::at(BRISK, lab, proxy)
    }

    /// Starts the same streams at a pace that they keep up for minutes.
    pub fn start_lasting(lab: &Lab, proxy: &str) -> Result<Self> {
        Self::at(LASTING, lab, proxy)
    }

    fn at(pause: Duration, lab: &Lab, proxy: &str) -> Result<Self> {
        let proxies = Proxies::Of(proxy.to_owned(), lab.proxy_log(proxy));
        Self::of(lab, &FEW, Shared::new(pause, TIMEOUT, None), proxies)
    }

    /// Starts streams of every kind, of which a judge is told, by whatever proxy. A long connection that breaks is made anew.
    pub fn judged(lab: &Lab, judge: &Judge) -> Result<Self> {
        Self::judged_if(lab, judge, |_| true)
    }

    /// The same, of those kinds whose name is wanted.
    pub fn judged_if(lab: &Lab, judge: &Judge, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        Self::judged_at(LASTING, TIMEOUT, lab, judge, wanted)
    }

    /// Starts streams of every kind, of which a judge is told, whose clients wait for as long as it may be on a machine that does not run for
    /// seconds: where none must fail, that one does is not the clock's.
    pub fn judged_patiently(lab: &Lab, judge: &Judge) -> Result<Self> {
        Self::judged_at(LASTING, SILENCE, lab, judge, |_| true)
    }

    /// Starts streams of those kinds whose name is wanted, of which a judge is told, at a pace that leaves the emulated processor to others,
    /// and with clients that wait for as long as it may be with others. That they had to is on the report. There must be no other traffic:
    /// ports may come that were used long ago.
    pub fn judged_leisurely(lab: &Lab, judge: &Judge, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        ports::renew();
        Self::judged_at(LEISURELY, SILENCE, lab, judge, wanted)
    }

    fn judged_at(
        pause: Duration,
        patience: Duration,
        lab: &Lab,
        judge: &Judge,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let kinds: Vec<_> = ALL.into_iter().filter(|(name, ..)| wanted(name)).collect();
        let shared = Shared::new(pause, patience, Some(judge.registry()));
        Self::of(lab, &kinds, shared, Proxies::In(lab.dir().to_owned()))
    }

    fn of(lab: &Lab, kinds: &[Kind], shared: Shared, proxies: Proxies) -> Result<Self> {
        let mut traffic = Self { shared: Arc::new(shared), threads: Vec::new(), names: Vec::new(), proxies };
        for kind in kinds {
            let stream = Stream::of(lab, *kind)?;
            let long = traffic.shared.open_long(&stream);
            let long = long.with_context(|| format!("the long connection {}", stream.name))?;
            traffic.names.push(stream.name);
            let (shared, talker) = (traffic.shared.clone(), stream.clone());
            traffic.threads.push(thread::spawn(move || keep_talking(&shared, &talker, long)));
            let shared = traffic.shared.clone();
            traffic.threads.push(thread::spawn(move || keep_connecting(&shared, &stream)));
        }
        let shared = traffic.shared.clone();
        traffic.threads.push(thread::spawn(move || keep_time(&shared)));
        Ok(traffic)
    }

    /// Waits until every stream has tried `count` connections more.
    pub fn wait_for_more(&self, count: usize) -> Result<()> {
        let mut state = self.shared.lock();
        let goal = |name: &&'static str| (*name, state.made.get(name).copied().unwrap_or_default() + count);
        let goals: Vec<_> = self.names.iter().map(goal).collect();
        loop {
            let made = &state.made;
            if goals.iter().all(|(name, goal)| made.get(name).is_some_and(|made| made >= goal)) {
                return Ok(());
            }
            let before = made.clone();
            let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, |state| state.made == before);
            let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            ensure!(
                !timeout.timed_out(),
                "the clients do not go on: {before:?}, {:?}, {:?}",
                next.broken,
                next.gave_up
            );
            state = next;
        }
    }

    /// Waits until every long connection has had an answer to something that it says from now on. One that breaks is made anew first,
    /// if there is a judge.
    pub fn wait_for_long_ones(&self) -> Result<()> {
        let (now, mut state) = (Instant::now(), self.shared.lock());
        let silent = |state: &State| {
            let answered = |name| state.answered.get(name).is_some_and(|begun| *begun >= now);
            self.names.iter().copied().find(|name| !answered(*name))
        };
        let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, |state| silent(state).is_some());
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let silent = silent(&state);
        ensure!(silent.is_none(), "no long connection of {silent:?} has an answer: {:?}", state.broken);
        Ok(())
    }

    /// Ends the streams and says what became of them.
    pub fn stop(mut self) -> Result<Report> {
        self.end();
        let seen = self.proxies.seen()?;
        let mut state = self.shared.lock();
        let by = |client: SocketAddrV4| seen.get(&SocketAddr::V4(client)).map(|(proxy, _)| proxy.clone());
        let gave_up = mem::take(&mut state.gave_up);
        let mut report = Report { gave_up, slowest: state.slowest, held_up: state.held_up, ..Report::default() };
        report.standing = state.standing.drain(..).map(|(stream, client)| (stream, by(client))).collect();
        report.broken = mem::take(&mut state.broken);
        for Tried { stream, client, begun, ended, outcome } in mem::take(&mut state.attempts) {
            report.tried += 1;
            let record = seen.get(&SocketAddr::V4(client)).map(|(_, record)| record);
            let wrong = outcome.map(|()| stream.astray(record)).map_err(|failure| report.failed.push(failure));
            let wrong = wrong.ok().flatten();
            let astray = |wrong| Astray { stream: stream.name, client, to: stream.to, wrong, begun, ended };
            report.astray.extend(wrong.map(astray));
        }
        for failure in report.failed.iter_mut().chain(&mut report.broken) {
            failure.proxy = by(failure.client);
        }
        Ok(report)
    }

    fn end(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
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

/// Makes one connection of the kind with this name, of which the judge is told. Why it did not come about, if it did not.
pub fn once(lab: &Lab, judge: &Judge, name: &str) -> Result<Option<Failure>> {
    let kind = ALL.into_iter().find(|(known, ..)| *known == name).with_context(|| format!("no kind {name:?}"))?;
    let shared = Shared::new(BRISK, TIMEOUT, Some(judge.registry()));
    let (_, outcome) = shared.connect(&Stream::of(lab, kind)?)?;
    Ok(outcome.err())
}

impl Proxies {
    /// What they saw last of each client, and which of them.
    fn seen(&self) -> Result<HashMap<SocketAddr, (String, Record)>> {
        let logs = match self {
            Self::Of(pod, log) => [(pod.clone(), log.clone())].into(),
            Self::In(dir) => proxy_logs(dir)?,
        };
        let mut seen = HashMap::new();
        for (pod, log) in logs {
            seen.extend(read(&log, 0)?.0.into_iter().map(|record| (record.client, (pod.clone(), record))));
        }
        Ok(seen)
    }
}

impl Shared {
    fn new(pause: Duration, patience: Duration, registry: Option<Registry>) -> Self {
        Self { pause, patience, registry, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a little; whether it is time to stop.
    fn pause(&self) -> bool {
        self.stops_within(self.pause)
    }

    fn stops_within(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |state| !state.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    /// What a long connection began to say then has been answered.
    fn answered(&self, stream: &Stream, begun: Instant) {
        self.lock().answered.insert(stream.name, begun);
        self.changed.notify_all();
    }

    /// Makes a connection, of which the judge has been told.
    fn connect(&self, stream: &Stream) -> Result<(SocketAddrV4, Result<Session, Failure>)> {
        let (client, cookie) = stream.ticket(self.registry.as_ref())?;
        let begun = Instant::now();
        let outcome = stream.connect(client, cookie, self.patience);
        if let (Ok(_), Some(cookie), Some(registry)) = (&outcome, cookie, &self.registry) {
            registry.came_about(cookie);
        }
        let mut state = self.lock();
        state.slowest = state.slowest.max((begun.elapsed(), stream.name));
        drop(state);
        Ok((client, outcome.map_err(|error| failure(stream, client, begun, &error))))
    }

    fn open_long(&self, stream: &Stream) -> Result<(SocketAddrV4, Session)> {
        let (client, outcome) = self.connect(stream)?;
        let mut session = outcome.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        session.be_patient(SILENCE)?;
        Ok((client, session))
    }
}

fn failure(stream: &Stream, client: SocketAddrV4, begun: Instant, error: &anyhow::Error) -> Failure {
    Failure {
        stream: stream.name,
        client,
        to: stream.to,
        class: Class::of(error),
        error: format!("{error:#}"),
        begun,
        ended: Instant::now(),
        proxy: None,
    }
}

/// Notes for how long the machine left waiting who had nothing to wait for: what took so long is nobody's fault.
fn keep_time(shared: &Shared) {
    loop {
        let begun = Instant::now();
        let stops = shared.stops_within(BEAT);
        let mut state = shared.lock();
        state.held_up = state.held_up.max(begun.elapsed().saturating_sub(BEAT));
        drop(state);
        if stops {
            return;
        }
    }
}

fn keep_connecting(shared: &Shared, stream: &Stream) {
    loop {
        let begun = Instant::now();
        let made = shared.connect(stream);
        let ended = Instant::now();
        let mut state = shared.lock();
        match made {
            Ok((client, outcome)) => {
                let outcome = outcome.map(drop);
                state.attempts.push(Tried { stream: stream.clone(), client, begun, ended, outcome });
            }
            Err(error) => {
                state.gave_up.push(format!("{}: {error:#}", stream.name));
                return;
            }
        }
        *state.made.entry(stream.name).or_default() += 1;
        drop(state);
        shared.changed.notify_all();
        if shared.pause() {
            return;
        }
    }
}

/// Without a judge there is one connection, and that it breaks is the end of it.
fn keep_talking(shared: &Shared, stream: &Stream, first: (SocketAddrV4, Session)) {
    let mut long = Some(first);
    loop {
        if let Some((client, session)) = &mut long {
            let (client, begun) = (*client, Instant::now());
            match session.echo() {
                Ok(()) => shared.answered(stream, begun),
                Err(error) => {
                    shared.lock().broken.push(failure(stream, client, begun, &error));
                    long = None;
                }
            }
        } else if shared.registry.is_some() {
            // That new connections fail is told by those that are made one after another.
            long = shared.open_long(stream).ok();
        } else {
            return;
        }
        if shared.pause() {
            shared.lock().standing.extend(long.map(|(client, _)| (stream.name, client)));
            return;
        }
    }
}

const _: () = assert!(TIMEOUT.as_secs() < PATIENCE.as_secs() && SILENCE.as_secs() < PATIENCE.as_secs());
