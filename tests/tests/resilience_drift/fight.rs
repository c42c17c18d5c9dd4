//! Somebody takes away a rule whenever it is there. The agent says so, puts it back no more often than it has to, and goes on with
//! everything else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redirect_common::names::{RULE_PROXY_RETURN, SET_PODS};
use redirect_lab::command::Cmd;
use redirect_lab::harness::{eventually, settled};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::status::Status;

const DEADLINE: Duration = Duration::from_mins(1);
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Between two looks of the other.
const PAUSE: Duration = Duration::from_millis(20);
/// Repairs a second; one, and what a run does until it gives up.
const MOST: u64 = 3;

pub(crate) fn is_told_of_and_costs_little() -> Result<()> {
    let (lab, _) = settled("resfight")?;
    let (over, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let gone = take_away(&lab)?;
                taken.fetch_add(u64::from(gone), Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            Ok::<_, anyhow::Error>(())
        });
        let outcome = watch(&lab);
        over.store(true, Ordering::Relaxed);
        let other = other.join().map_err(|_| anyhow::anyhow!("the other panicked"))?;
        outcome.and(other)
    })?;
    println!("the other took the rule away {} times", taken.load(Ordering::Relaxed));
    lab.wait_until(DEADLINE, "settled when the other has ended", |status| status.settled)?;
    eventually(DEADLINE, || {
        let rules = Cmd::line("ip rule list").netns(&lab.node()).run()?;
        ensure!(rules.contains(&format!("{}:", RULE_PROXY_RETURN.0)), "the rule is not back:\n{rules}");
        Ok(())
    })
}

/// Whether it was there.
fn take_away(lab: &Lab) -> Result<bool> {
    let command = format!("ip rule del priority {}", RULE_PROXY_RETURN.0);
    Ok(Cmd::line(&command).netns(&lab.node()).output()?.status.success())
}

fn watch(lab: &Lab) -> Result<()> {
    let object = format!("rule {}:", RULE_PROXY_RETURN.0);
    let is_told =
        |status: &Status| status.fights > 0 && status.complains(&object, "another component keeps changing it");
    let before = lab.wait_until(DEADLINE, "told of the fight", is_told)?;
    ensure!(lab.metrics()?.contains("redirect_fights 1\n"), "no metric tells of it");
    let begun = Instant::now();
    other_things_go_on(lab)?;
    thread::sleep(WATCHED.saturating_sub(begun.elapsed()));
    let after = lab.status()?;
    let seconds = begun.elapsed().as_secs() + 1;
    let rules = |status: &Status| status.repairs.get("rule").copied().unwrap_or_default();
    let repairs = rules(&after) - rules(&before);
    let runs = after.reconciles - before.reconciles;
    println!("@columns fight | over | seconds | repairs | runs");
    println!("@figure fight | a rule | {seconds} | {repairs} | {runs}");
    ensure!(repairs >= seconds / 4, "only {repairs} repairs in {seconds} s: it must not be given up");
    ensure!(repairs <= MOST * seconds, "{repairs} repairs in {seconds} s");
    Ok(())
}

/// Something that has nothing to do with rules.
fn other_things_go_on(lab: &Lab) -> Result<()> {
    let (kind, command) = match lab.mode() {
        Mode::Iptables => ("set", format!("ipset flush {SET_PODS}")),
        Mode::Ebpf => ("guard", "nft delete table ip ztunnel".to_owned()),
    };
    let of_kind = |status: &Status| status.repairs.get(kind).copied().unwrap_or_default();
    let before = of_kind(&lab.status()?);
    Cmd::line(&command).netns(&lab.node()).run()?;
    lab.wait_until(DEADLINE, "repaired elsewhere", |status| of_kind(status) > before).map(drop).context(command)
}
