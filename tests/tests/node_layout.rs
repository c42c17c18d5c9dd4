//! A node whose programs run over maps of another version's layout, or of another size, is taken over under traffic: the new
//! maps are full before the first packet is judged by them, each program is replaced where it stands, and nothing of the old
//! is left.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use redirect_common::maps::{Address, LAYOUT, MAX_PODS, Pod, name};
use redirect_lab::agent::AgentOptions;
use redirect_lab::capture::Capture;
use redirect_lab::command::Cmd;
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::UPLINK;
use redirect_lab::mode::Mode;
use redirect_lab::netns::Netns;
use redirect_lab::pinned;
use redirect_lab::programs::{Hung, hung, hung_on};
use redirect_lab::scoped::ScopedLab;
use redirect_lab::status::Status;
use redirect_lab::table;
use redirect_lab::traffic::{CLIENT_PORTS, Traffic};
use rustix::process::Signal;

/// Connections of each stream before and after a change.
const ENOUGH: usize = 8;
/// Another number of flows than the agent's own.
const FLOWS: &str = "--flows=4096";
/// The program of the tunnels has no use for the map of flows, so it is the same over one of another size. The kernel keeps 15
/// bytes of its name.
const REMEMBERS_NOTHING: &str = "redirect_from_t";
/// `BPF_F_NO_PREALLOC`, which the map of pods is made with.
const NO_PREALLOC: u32 = 1;

#[test]
fn another_layout_is_taken_over_under_traffic() -> Result<()> {
    let mut lab = ScopedLab::up(options("layout")?)?;
    start(&mut lab, &usual())?;
    let mut checks = Checks::default();
    checks.check("the maps are of another version", || changes(&mut lab, &usual(), age));
    checks.check("the maps are of another size", || changes(&mut lab, &usual().arg(FLOWS), |_| Ok(false)));
    checks.check("and another version's have the size of before", || changes(&mut lab, &usual(), age));
    checks.check("the agent ends between maps and programs", || ends_between(&mut lab));
    checks.check("the new maps cannot be filled", || cannot_be_filled(&mut lab));
    checks.check("the table, after all of it", || table::check(&lab, ZTUNNEL));
    checks.finish()
}

fn usual() -> AgentOptions {
    watchful().in_mode(Mode::Ebpf)
}

/// Where an agent of another version would have pinned its maps.
fn other_layout(lab: &Lab) -> PathBuf {
    lab.bpf_dir().join(format!("v{}", LAYOUT - 1))
}

/// Makes what stands look as if another version had made it. Links are pinned elsewhere, in the same place for all versions.
fn age(lab: &Lab) -> Result<bool> {
    fs::rename(lab.layout_dir(), other_layout(lab)).context("cannot move the pins")?;
    Ok(true)
}

/// `change` says whether all maps become others.
fn changes(lab: &mut Lab, next: &AgentOptions, change: impl FnOnce(&Lab) -> Result<bool>) -> Result<()> {
    let before = programs(lab)?;
    let mut all = true;
    under_traffic(lab, |lab, traffic| {
        lab.stop_agent(Signal::TERM)?;
        all = change(lab)?;
        traffic.wait_for_more(ENOUGH)?;
        start(lab, next).map(drop)
    })?;
    replaced(&before, &programs(lab)?, if all { "" } else { REMEMBERS_NOTHING })
}

/// The new maps are there and full while the old programs still run over the old ones; and the next agent goes on from there.
fn ends_between(lab: &mut Lab) -> Result<()> {
    under_traffic(lab, |lab, traffic| {
        let before = programs(lab)?;
        lab.stop_agent(Signal::TERM)?;
        age(lab)?;
        lab.want_panic("program")?;
        lab.start_agent(&usual())?;
        lab.agent_has_panicked()?;
        ensure!(programs(lab)? == before, "programs were swapped first");
        let mut pods = pinned::pods(lab)?;
        pods.sort();
        let mut meshed: Vec<Ipv4Addr> = vec![lab.pod("app-a")?.ip()?, lab.pod("app-b")?.ip()?];
        meshed.sort();
        ensure!(pods == meshed, "the new map holds {pods:?}, and meshed are {meshed:?}");
        ensure!(other_layout(lab).exists(), "the old maps went before their programs");
        traffic.wait_for_more(ENOUGH)?;
        start(lab, &usual())?;
        replaced(&before, &programs(lab)?, "")
    })
}

/// The new map of pods takes nothing (`BPF_MAP_FREEZE`), so the old programs are the only ones that know the pods.
fn cannot_be_filled(lab: &mut Lab) -> Result<()> {
    under_traffic(lab, |lab, traffic| {
        let before = programs(lab)?;
        lab.stop_agent(Signal::TERM)?;
        age(lab)?;
        let pin = lab.map_pin(name::PODS);
        freeze(&pin)?;
        lab.start_agent(&usual())?;
        let complains = |status: &Status| status.complains("PODS", "cannot be written");
        lab.wait_until(SETTLE, "complaining of the map", complains)?;
        traffic.wait_for_more(ENOUGH)?;
        ensure!(programs(lab)? == before, "programs were swapped for some that know no pods");
        lab.stop_agent(Signal::TERM)?;
        fs::remove_file(&pin)?;
        start(lab, &usual())?;
        replaced(&before, &programs(lab)?, "")
    })
}

/// Pins an empty map of pods that cannot be written to.
fn freeze(pin: &Path) -> Result<()> {
    let maps = pin.parent().context("no folder")?;
    fs::create_dir_all(maps)?;
    let (pin, key, value) = (pin.display(), size_of::<Address>(), size_of::<Pod>());
    let entries = format!("entries {MAX_PODS} name {} flags {NO_PREALLOC}", name::PODS);
    Cmd::line(&format!("bpftool map create {pin} type hash key {key} value {value} {entries}")).run()?;
    Cmd::line(&format!("bpftool map freeze pinned {pin}")).run().map(drop)
}

/// Checks that `work` leaves a program in every place at every moment, and that no packet takes another way.
fn under_traffic(lab: &mut Lab, work: impl FnOnce(&mut Lab, &Traffic) -> Result<()>) -> Result<()> {
    let (from, to) = (CLIENT_PORTS.start, CLIENT_PORTS.end - 1);
    // Onward from the proxy a connection has another port: what leaves from one of these has passed it by.
    let filter = format!("tcp and src host {} and src portrange {from}-{to}", lab.pod("app-a")?.ip()?);
    let before = programs(lab)?;
    let capture = Capture::start(&lab.node(), UPLINK, &filter)?;
    let traffic = Traffic::start(lab, ZTUNNEL)?;
    traffic.wait_for_more(ENOUGH)?;
    let looks = watched(lab, |lab| work(lab, &traffic))?;
    traffic.wait_for_more(ENOUGH)?;
    let report = traffic.stop()?;
    println!("{} connections, {looks} looks at the programs", report.tried);
    report.all_is_well()?;
    let escaped = capture.finish()?;
    ensure!(escaped.is_empty(), "{} packets left unproxied:\n{}", escaped.len(), escaped.join("\n"));
    ensure!(before.keys().eq(programs(lab)?.keys()), "before: {before:?}, after: {:?}", programs(lab)?);
    ensure!(!other_layout(lab).exists(), "{} is still there", other_layout(lab).display());
    for map in name::ALL {
        ensure!(lab.map_pin(map).exists(), "no pin of {map}");
    }
    Ok(())
}

/// Our programs' numbers by where they are.
fn programs(lab: &Lab) -> Result<BTreeMap<String, u32>> {
    let ours = hung(&lab.node())?.into_iter().filter(Hung::is_ours);
    let programs: BTreeMap<_, _> = ours.map(|hung| (hung.to_string(), hung.id)).collect();
    ensure!(!programs.is_empty(), "no program is attached");
    Ok(programs)
}

/// Programs whose name starts with `may_stay`, if it is not empty, need not be others.
fn replaced(before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>, may_stay: &str) -> Result<()> {
    let stayed = before.iter().filter(|(place, id)| after.get(*place) == Some(*id));
    let wrong: Vec<_> = stayed.filter(|(place, _)| may_stay.is_empty() || !place.contains(may_stay)).collect();
    ensure!(wrong.is_empty(), "still the same: {wrong:?}");
    Ok(())
}

/// Does `work`, and looks all the while whether programs stand where they did: at the uplink and at the meshed pod, which is
/// where packets come from. How often it looked.
fn watched(lab: &mut Lab, work: impl FnOnce(&mut Lab) -> Result<()>) -> Result<usize> {
    let veth = lab.pod("app-a")?.host_link.clone().context("app-a is not plumbed")?;
    let (node, devices, done) = (lab.node(), [UPLINK.to_owned(), veth], AtomicBool::new(false));
    let before = places(&node, &devices)?;
    ensure!(before.len() > devices.len(), "only {before:?}");
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let now = places(&node, &devices)?;
                ensure!(now == before, "before: {before:?}, at look {looks}: {now:?}");
                looks += 1;
            }
            Ok(looks)
        });
        let outcome = work(lab);
        done.store(true, Ordering::Relaxed);
        let Ok(looks) = watch.join() else { bail!("the watch panicked") };
        outcome.and(looks)
    })
}

fn places(node: &Netns, devices: &[String]) -> Result<Vec<String>> {
    Ok(hung_on(node, devices)?.iter().map(ToString::to_string).collect())
}
