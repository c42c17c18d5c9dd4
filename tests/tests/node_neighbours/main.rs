//! Others' tc programs on a meshed pod's veth, put before ours and after: ours comes first, all run, keep their place while the agent
//! restarts, and stay when ours go. Where there are no others, nothing of ours stays.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;
use redirect_lab::client::probe;
use redirect_lab::command::Cmd;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::foreign::{Foreign, Place, Statistics, Verdict};
use redirect_lab::harness::{Checks, eventually, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::{Attach, Mode};
use redirect_lab::programs::{Hook, Hung, clsact_devices, has_tcx, hung, hung_on};
use redirect_lab::scoped::ScopedLab;
use redirect_lab::snapshot::{Section, Snapshot};
use redirect_lab::status::{Repair, Status};
use redirect_lab::table::{self, CASES};
use rustix::process::Signal;

const RESTARTS: usize = 10;
/// Long for the agent's one second, short for a person who waits.
const REPAIR: Duration = Duration::from_secs(20);

#[test]
fn neighbours_are_left_alone() -> Result<()> {
    let _statistics = Statistics::on()?;
    let mut lab = ScopedLab::up(options("neighbour")?)?;
    let device = lab.pod("app-a")?.host_link.clone().context("app-a is not plumbed")?;
    // By clsact the agent does not stand beside programs that are attached by TCX (`node_fallback`).
    let with_tcx = has_tcx(&lab.node())? && Attach::from_environment()? != Some(Attach::Clsact);
    let kinds = if with_tcx { vec![Attach::Clsact, Attach::Tcx] } else { vec![Attach::Clsact] };
    let mut checks = Checks::default();

    let mut others = attach(&lab, &device, &kinds, Place::Early, Verdict::Next)?;
    start(&mut lab, &watchful().in_mode(Mode::Ebpf))?;
    for place in [Place::First, Place::Last] {
        others.extend(attach(&lab, &device, &kinds, place, Verdict::Next)?);
    }
    checks.check("ours overtakes those that have got ahead of it, which is a repair", || {
        eventually(REPAIR, || is_first(&lab, &device))?;
        lab.wait_until(REPAIR, "settled with a repair of each hook", |status| {
            status.settled && overtakings(status) == 2
        })
        .map(drop)
    });
    let order = order(&lab, &device)?;
    for (program, id) in &order {
        println!("{program} {}", id.map_or_else(|| "(ours)".to_owned(), |id| format!("(number {id})")));
    }
    checks.check("all run", || all_run(&lab, &others, true));
    checks.check(&format!("{RESTARTS} restarts change no place"), || {
        for turn in 0..RESTARTS {
            lab.stop_agent(if turn % 2 == 0 { Signal::KILL } else { Signal::TERM })?;
            start(&mut lab, &watchful().in_mode(Mode::Ebpf))?;
            let now = self::order(&lab, &device)?;
            ensure!(now == order, "after {} restarts: {now:#?}", turn + 1);
        }
        Ok(())
    });
    checks.check("all run after that", || all_run(&lab, &others, true));
    checks.check("those that end the chain are overtaken", || ends_are_overtaken(&mut lab, &device));
    checks.check("after cleanup the others are there, and no other qdisc is", || {
        lab.cleanup_agent()?;
        only_others(&lab, &device, &others)
    });
    checks.check("and run", || all_run(&lab, &others, false));
    checks.check("in iptables mode those that end the chain do no harm", || {
        let ends = attach(&lab, &device, &kinds, Place::First, Verdict::Final)?;
        start(&mut lab, &watchful().in_mode(Mode::Iptables))?;
        is_proxied(&lab)?;
        lab.cleanup_agent()?;
        detach(ends)
    });
    detach(others)?;

    Cmd::line("tc qdisc del dev").args([&device, "clsact"]).netns(&lab.node()).run()?;
    checks.check("without others nothing of ours stays", || nothing_stays(&mut lab));
    checks.check("a qdisc that was there before stays, though it is empty", || {
        Cmd::line("tc qdisc add dev").args([&device, "clsact"]).netns(&lab.node()).run()?;
        nothing_stays(&mut lab)
    });
    checks.finish()
}

/// What puts ours aside is put aside itself: at once where the agent runs, and by the next one where it does not.
fn ends_are_overtaken(lab: &mut Lab, device: &str) -> Result<()> {
    let kind = lab.status()?.tc_attach.context("no way to attach")?;
    let kind = Attach::from_str(&kind, false).map_err(anyhow::Error::msg)?;
    let live = attach(lab, device, &[kind], Place::First, Verdict::Final)?;
    eventually(REPAIR, || is_first(lab, device))?;
    is_proxied(lab)?;
    detach(live)?;
    lab.stop_agent(Signal::KILL)?;
    let ends = attach(lab, device, &[kind], Place::First, Verdict::Final)?;
    ensure!(is_proxied(lab).is_err(), "it does not end the chain: the check is worth nothing");
    start(lab, &watchful().in_mode(Mode::Ebpf))?;
    is_first(lab, device)?;
    is_proxied(lab)?;
    detach(ends)
}

fn detach(programs: Vec<Foreign>) -> Result<()> {
    programs.into_iter().try_for_each(Foreign::detach)
}

fn attach(lab: &Lab, device: &str, kinds: &[Attach], place: Place, verdict: Verdict) -> Result<Vec<Foreign>> {
    let hooks = [Hook::Ingress, Hook::Egress];
    let both = kinds.iter().flat_map(|kind| hooks.map(|hook| (*kind, hook)));
    both.map(|(kind, hook)| Foreign::attach(&lab.node(), device, hook, kind, place, verdict)).collect()
}

fn on(lab: &Lab, device: &str) -> Result<Vec<Hung>> {
    hung_on(&lab.node(), &[device.to_owned()])
}

/// The device's programs in their order; of the others also which ones they are.
fn order(lab: &Lab, device: &str) -> Result<Vec<(String, Option<u32>)>> {
    let all = on(lab, device)?;
    Ok(all.iter().map(|hung| (hung.to_string(), (!hung.is_ours()).then_some(hung.id))).collect())
}

/// Of those that are attached as ours is: TCX is ahead of all filters.
fn is_first(lab: &Lab, device: &str) -> Result<()> {
    let attach = lab.status()?.tc_attach;
    let all = on(lab, device)?;
    for hook in [Hook::Ingress, Hook::Egress] {
        let same = |hung: &&Hung| hung.hook == hook && attach == Some(hung.attach.to_string());
        let ours: Vec<_> = all.iter().filter(same).map(Hung::is_ours).collect();
        let one = ours.iter().filter(|ours| **ours).count() == 1;
        ensure!(ours.first() == Some(&true) && ours.len() > 1 && one, "{hook:?}: {all:#?}");
    }
    Ok(())
}

fn overtakings(status: &Status) -> usize {
    let found = |repair: &&Repair| repair.found.as_deref() == Some("others' programs ahead of it");
    status.last_repairs.iter().filter(found).count()
}

fn is_proxied(lab: &Lab) -> Result<()> {
    let wrong = table::run_case(lab, ZTUNNEL, CASES[0])?.wrong;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// A connection from the pod passes each of them, both ways.
fn all_run(lab: &Lab, others: &[Foreign], meshed: bool) -> Result<()> {
    let before = others.iter().map(Foreign::runs).collect::<Result<Vec<_>>>()?;
    if meshed {
        is_proxied(lab)?;
    } else {
        probe(&lab.place("app-a")?, lab.target("remote")?, None)?;
    }
    for (foreign, before) in others.iter().zip(before) {
        ensure!(foreign.runs()? > before, "{foreign} does not run");
    }
    Ok(())
}

fn only_others(lab: &Lab, device: &str, others: &[Foreign]) -> Result<()> {
    let mut expected = others.iter().map(Foreign::id).collect::<Result<Vec<_>>>()?;
    let all = hung(&lab.node())?;
    let mut found: Vec<_> = all.iter().map(|hung| hung.id).collect();
    expected.sort_unstable();
    found.sort_unstable();
    ensure!(found == expected, "{all:#?}");
    let qdiscs = clsact_devices(&lab.node())?;
    ensure!(qdiscs == [device], "qdiscs on {qdiscs:?}, and the others are on {device}");
    ensure!(!lab.bpf_dir().exists(), "{} is still there", lab.bpf_dir().display());
    Ok(())
}

fn nothing_stays(lab: &mut Lab) -> Result<()> {
    let before = Snapshot::shape(&lab.node(), &[Section::Programs])?;
    start(lab, &watchful().in_mode(Mode::Ebpf))?;
    let meanwhile = Snapshot::shape(&lab.node(), &[Section::Programs])?;
    lab.cleanup_agent()?;
    ensure!(before.diff(&meanwhile).is_some(), "no program was attached");
    let changes = before.diff(&Snapshot::shape(&lab.node(), &[Section::Programs])?).unwrap_or_default();
    ensure!(changes.is_empty(), "{changes}");
    ensure!(!lab.bpf_dir().exists(), "{} is still there", lab.bpf_dir().display());
    Ok(())
}
