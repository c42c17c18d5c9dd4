//! The agent ends and is started again, at another moment each time: while it waits for events, while a pod joins or leaves, and
//! while it takes over from the one before.

use anyhow::Result;
use redirect_lab::harness::{is_settled, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::traffic::Traffic;
use rustix::process::Signal;

use crate::judged::{SETTLE, nothing_happens};

const LABEL: &str = "istio.io/dataplane-mode";
/// A pod that nobody talks to; it joins the mesh and leaves it, so that an agent always has something to do.
const GUEST: &str = "plain-b";

/// So many agents end by this signal.
pub(crate) fn ended_by(lab: &mut Lab, signal: Signal, times: usize) -> Result<()> {
    let what = if signal == Signal::KILL { "the agent is killed" } else { "the agent is told to end" };
    nothing_happens(what, times, lab, |lab, traffic, turn| once(lab, traffic, signal, turn))?;
    lab.label_pod(GUEST, LABEL, None)?;
    lab.wait_until(SETTLE, "without the guest", |status| is_settled(status) && !status.meshed(GUEST)).map(drop)
}

/// One agent ends by this signal, and the next one settles.
fn once(lab: &mut Lab, traffic: &Traffic, signal: Signal, turn: usize) -> Result<()> {
    let joins = turn.is_multiple_of(2);
    let takes_over = turn % 3 == 2;
    lab.label_pod(GUEST, LABEL, Some(if joins { "ambient" } else { "none" }))?;
    // From at once to when all is done; on a slow machine too.
    traffic.wait_for_more(turn % 3)?;
    lab.stop_agent(signal)?;
    traffic.wait_for_more(1)?;
    lab.start_agent(&watchful())?;
    if takes_over {
        traffic.wait_for_more(1 + turn % 5)?;
        lab.stop_agent(signal)?;
        lab.start_agent(&watchful())?;
    }
    lab.wait_until(SETTLE, "settled", |status| is_settled(status) && status.meshed(GUEST) == joins)?;
    traffic.wait_for_more(1)
}
