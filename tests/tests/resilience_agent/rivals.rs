//! Two agents at once: the second waits, and both say so; the first ends, in either way, and the second goes on.

use anyhow::{Result, ensure};
use redirect_lab::harness::{eventually, is_settled};
use redirect_lab::lab::Lab;
use redirect_lab::traffic::Traffic;
use rustix::process::Signal;

use crate::judged::{SETTLE, nothing_happens};

/// Runs of the first agent beside the second.
const RUNS: u64 = 3;

/// So many times one agent takes over from another.
pub(crate) fn take_over(lab: &mut Lab, times: usize) -> Result<()> {
    nothing_happens("one agent takes over from another", times, lab, |lab, traffic, turn| {
        one_takes_over(lab, traffic, if turn.is_multiple_of(2) { Signal::KILL } else { Signal::TERM })
    })
}

fn one_takes_over(lab: &mut Lab, traffic: &Traffic, signal: Signal) -> Result<()> {
    let rival = lab.start_rival()?;
    eventually(SETTLE, || {
        let said = rival.said()?;
        ensure!(said.contains("another agent runs here; waiting for it to end"), "the second says: {said}");
        Ok(())
    })?;
    let waits = format!("another one (pid {}) waits", rival.pid());
    let first = lab.wait_until(SETTLE, "telling of the second", |status| status.has_note(&waits))?;
    let goes_on = |status: &redirect_lab::status::Status| status.reconciles >= first.reconciles + RUNS;
    let later = lab.wait_until(SETTLE, "running on", goes_on)?;
    ensure!(later.writes == first.writes, "written: {:?}, before: {:?}", later.writes, first.writes);
    ensure!(rival.alive(), "the second has ended: {}", rival.said()?);
    traffic.wait_for_more(1)?;
    lab.stop_agent(signal)?;
    lab.adopt_rival(rival)?;
    let second = lab.wait_until(SETTLE, "settled", is_settled)?;
    ensure!(!second.has_note("waits for this one"), "nobody waits any more: {:?}", second.notes);
    ensure!(second.total_writes() == 0, "it writes anew: {:?}", second.writes);
    traffic.wait_for_more(1)
}
