//! The agent is replaced by one of another version, and that one by the first again: its maps have another layout, and its record says more.

use std::fs;

use anyhow::{Context, Result, ensure};
use redirect_common::maps::LAYOUT;
use redirect_lab::harness::{is_settled, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::traffic::Traffic;
use rustix::process::Signal;

use crate::judged::{SETTLE, nothing_happens};

/// What only the other version writes on record.
const OTHERS: &str = "\"other\": \"version of process ";

/// So many upgrades and downgrades, in turn by an orderly end and by a crash.
pub(crate) fn change(lab: &mut Lab, times: usize) -> Result<()> {
    nothing_happens("an upgrade and a downgrade", times, lab, |lab, traffic, turn| {
        let ways = if turn.is_multiple_of(2) { [Signal::TERM, Signal::KILL] } else { [Signal::KILL, Signal::TERM] };
        to(lab, traffic, ways[0], true)?;
        to(lab, traffic, ways[1], false)
    })
}

fn to(lab: &mut Lab, traffic: &Traffic, signal: Signal, other: bool) -> Result<()> {
    lab.stop_agent(signal)?;
    traffic.wait_for_more(1)?;
    let next = if other { watchful().of_other_version() } else { watchful() };
    lab.start_agent(&next)?;
    lab.wait_until(SETTLE, "settled", is_settled)?;
    is_whole(lab, other)?;
    traffic.wait_for_more(1)
}

/// There are maps of its layout and of no other, and nothing on record was forgotten.
fn is_whole(lab: &Lab, other: bool) -> Result<()> {
    let record = lab.agent_dir().join("record.json");
    let text = fs::read_to_string(&record).with_context(|| format!("no record {}", record.display()))?;
    ensure!(text.contains(OTHERS), "what the other version knows is forgotten: {text}");
    ensure!(!lab.agent_dir().join("record.unread.json").exists(), "the record could not be read");
    if lab.mode() != Mode::Ebpf {
        return Ok(());
    }
    let mut pins: Vec<_> = fs::read_dir(lab.bpf_dir())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    pins.retain(|name| name != "links");
    let own = format!("v{}", if other { LAYOUT + 1 } else { LAYOUT });
    ensure!(pins == [own.as_str()], "pinned are {pins:?}, and its layout is {own}");
    Ok(())
}
