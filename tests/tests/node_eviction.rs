//! What the programs remember of a connection is taken from them in its midst, as the kernel does when the map is full: its
//! packets end up at the right sockets all the same, because ztunnel's side looks established ones up first (`tproxy_tg4`,
//! `net/netfilter/xt_TPROXY.c`).
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use redirect_common::policy::Row;
use redirect_lab::command::Cmd;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::NODE_SECOND_IP;
use redirect_lab::mode::Mode;
use redirect_lab::pair::{End, Listener, Pair, allow_connections};
use redirect_lab::pinned::{Flows, count, counts};
use redirect_lab::scoped::ScopedLab;
use rustix::process::Signal;

/// Where the test's servers listen: the lab's have port 80 and 8080.
const PORT: u16 = 90;
/// The least that the agent takes, and more connections than that: each is two flows.
const FEW_FLOWS: usize = 128;
const MANY: usize = 600;
/// Connections that are made while everything is forgotten all the time.
const HARRIED: usize = 30;
/// How long nothing must arrive until it is taken for lost: the kernel sends again after 200 ms, 400 ms and so on.
const LOST: Duration = Duration::from_secs(3);

/// A connection, the end that speaks first when it is forgotten, and the row that its packet then meets.
struct Case {
    from: &'static str,
    to: &'static str,
    source: Option<Ipv4Addr>,
    proxied: bool,
    first: End,
    row: Row,
}

/// What conntrack knows of a connection whose memory is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Track {
    Kept,
    Forgotten,
}

const fn case(from: &'static str, to: &'static str, proxied: bool, first: End, row: Row) -> Case {
    Case { from, to, source: None, proxied, first, row }
}

const CASES: [Case; 10] = [
    case("remote", "app-a", true, End::Server, Row::Outbound),
    case("remote", "app-a", true, End::Client, Row::Rest),
    case("app-a", "remote", true, End::Client, Row::Outbound),
    case("app-a", "remote", true, End::Server, Row::Rest),
    case("app-a", "app-b", true, End::Client, Row::Outbound),
    case("app-a", "app-b", true, End::Server, Row::Outbound),
    case("plain", "app-a", true, End::Server, Row::Outbound),
    case(ZTUNNEL, "remote", false, End::Server, Row::Rest),
    // What holds these is not a lookup at the proxy's side: rule 0 delivers them, and the destination guard leaves replies alone.
    case("node", "app-a", false, End::Server, Row::Outbound),
    Case { source: Some(NODE_SECOND_IP), ..case("node", "app-a", false, End::Server, Row::Outbound) },
];
/// Connections that are known to stop when nobody remembers them (docs/decisions.md): what becomes of them is printed, and not
/// judged.
const KNOWN: [(Case, Track); 2] = [
    (case("node", "app-a", false, End::Server, Row::Outbound), Track::Forgotten),
    (case(ZTUNNEL, "app-a", false, End::Server, Row::Outbound), Track::Kept),
];

#[test]
fn connections_outlive_their_memory() -> Result<()> {
    allow_connections(MANY as u64)?;
    let mut lab = ScopedLab::up(options("evict")?)?;
    start(&mut lab, &watchful().in_mode(Mode::Ebpf))?;
    let mut checks = Checks::default();
    for case in &CASES {
        checks.check(&name(case), || goes_on(&lab, case));
    }
    for (case, track) in &KNOWN {
        look_at(&lab, case, *track)?;
    }
    checks.check("everything is forgotten all the time", || harried(&lab));
    checks.check("without the proxy's rules the connection stops", || stops_without_rules(&mut lab));
    checks.check("many more connections than flows", || many(&mut lab));
    checks.finish()
}

fn name(case: &Case) -> String {
    let Case { from, to, source, first, .. } = case;
    let source = source.map(|source| format!(" ({source})")).unwrap_or_default();
    format!("{from}{source} to {to}, then the {first:?} speaks")
}

fn listen(lab: &Lab, place: &str) -> Result<Listener> {
    Listener::open(&lab.place(place)?, SocketAddrV4::new(lab.address(place)?, PORT))
}

fn open(lab: &Lab, case: &Case) -> Result<Pair> {
    let mut pair = Pair::open(&lab.place(case.from)?, case.source, &listen(lab, case.to)?)?;
    pair.talk()?;
    ensure!(pair.is_proxied()? == case.proxied, "proxied: {}", pair.is_proxied()?);
    Ok(pair)
}

fn goes_on(lab: &Lab, case: &Case) -> Result<()> {
    let mut pair = open(lab, case)?;
    let mut flows = Flows::open(lab)?;
    pair.be_quiet()?;
    let before = count(lab, case.row)?;
    let forgotten = flows.forget()?;
    pair.goes_on(case.first).with_context(|| counts(lab).unwrap_or_default())?;
    let met = count(lab, case.row)? - before;
    println!("{forgotten} flows were forgotten, {met} packets met row {:?} after that", case.row);
    ensure!(forgotten > 0, "nothing was remembered of it");
    // Else something came between, and the packet had its memory back.
    ensure!(met > 0, "no packet met row {:?}", case.row);
    Ok(())
}

/// Prints what becomes of it.
fn look_at(lab: &Lab, case: &Case, track: Track) -> Result<()> {
    let mut pair = open(lab, case)?;
    pair.be_patient(LOST)?;
    pair.be_quiet()?;
    let before = counts(lab)?;
    let forgotten = Flows::open(lab)?.forget()?;
    if track == Track::Forgotten {
        Cmd::line("conntrack -F").netns(&lab.node()).run()?;
    }
    let outcome = pair.goes_on(case.first);
    let said = outcome.map_or_else(
        |error| format!("breaks: {error:#} ({})", pair.state().unwrap_or_default()),
        |()| "goes on".into(),
    );
    println!("SEEN    {}, conntrack {track:?}: {said}", name(case));
    println!("        {forgotten} flows forgotten; counters before: {before}; after: {}", counts(lab)?);
    Ok(())
}

/// Also what belongs to a connection's beginning and end is forgotten.
fn harried(lab: &Lab) -> Result<()> {
    let (mut flows, done) = (Flows::open(lab)?, AtomicBool::new(false));
    thread::scope(|scope| {
        let harrier = scope.spawn(|| {
            let mut forgotten = 0;
            while !done.load(Ordering::Relaxed) {
                forgotten += flows.forget()?;
            }
            Ok::<_, anyhow::Error>(forgotten)
        });
        let outcome = make(lab, HARRIED, false);
        done.store(true, Ordering::Relaxed);
        let Ok(forgotten) = harrier.join() else { bail!("the harrier panicked") };
        let forgotten = forgotten?;
        println!("{HARRIED} connections, {forgotten} flows forgotten");
        ensure!(forgotten > HARRIED, "only {forgotten} flows were forgotten");
        outcome.map(drop)
    })
}

/// What holds the connections is the lookup of the rule, and the test sees it when there is none. It comes back with the agent,
/// and the connection with it.
fn stops_without_rules(lab: &mut Lab) -> Result<()> {
    let mut pair = open(lab, &CASES[0])?;
    lab.stop_agent(Signal::TERM)?;
    let iptables = lab.options().backend.iptables();
    Cmd::line(&format!("{iptables} -t mangle -F ztunnel-PREROUTING")).netns(&lab.place(ZTUNNEL)?).run()?;
    pair.be_patient(LOST)?;
    pair.be_quiet()?;
    Flows::open(lab)?.forget()?;
    let outcome = pair.goes_on(End::Server);
    start(lab, &watchful().in_mode(Mode::Ebpf))?;
    match outcome {
        Ok(()) => bail!("it went on"),
        Err(error) => println!("as it must be: {error:#}"),
    }
    Ok(())
}

/// All are opened before any of them goes on: the map has long given up most of them.
fn many(lab: &mut Lab) -> Result<()> {
    lab.stop_agent(Signal::TERM)?;
    start(lab, &watchful().in_mode(Mode::Ebpf).arg(&format!("--flows={FEW_FLOWS}")))?;
    let before = counts(lab)?;
    let pairs = make(lab, MANY, true)?;
    let flows = Flows::open(lab)?.count()?;
    println!(
        "{} connections are open, {flows} flows are remembered; counters before: {before}; after: {}",
        pairs.len(),
        counts(lab)?
    );
    ensure!(flows <= FEW_FLOWS, "the map holds {flows} flows");
    Ok(())
}

/// Connections from and to the meshed pod, by turns. If `hold` they are all kept open, and then go on one after the other; else
/// each goes on at once, and ends.
fn make(lab: &Lab, number: usize, hold: bool) -> Result<Vec<Pair>> {
    let (inside, outside) = (lab.place("app-a")?, lab.place("remote")?);
    let (to_inside, to_outside) = (listen(lab, "app-a")?, listen(lab, "remote")?);
    let mut pairs = Vec::new();
    for index in 0..number {
        let (from, to) = if index % 2 == 0 { (&outside, &to_inside) } else { (&inside, &to_outside) };
        let mut pair = Pair::open(from, None, to).with_context(|| format!("connection {index}"))?;
        ensure!(pair.is_proxied()?, "connection {index} has passed the proxy by");
        if hold {
            pairs.push(pair);
        } else {
            pair.goes_on(End::Server).with_context(|| format!("connection {index}"))?;
        }
    }
    for (index, pair) in pairs.iter_mut().enumerate() {
        let first = if index % 4 < 2 { End::Server } else { End::Client };
        pair.goes_on(first).with_context(|| format!("connection {index} of those that were open"))?;
    }
    Ok(pairs)
}
