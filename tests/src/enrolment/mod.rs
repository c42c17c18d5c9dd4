//! What enrolment costs: an agent that starts cold on a node with very many pods, and one pod at a time. The clock is the
//! kernel's side: it stops when the map or the set holds the pod, not when the agent says so.
//!
//! On a kernel without GENEVE the lab has no ztunnel: no tunnels then, and no routes into them, and all the rest.

mod cold;
mod figure;
mod membership;
mod single;

use anyhow::Result;
use serde::Serialize;

use crate::command::Cmd;
use crate::demo::ZTUNNEL;
use crate::harness::options;
use crate::lab::Lab;
use crate::mode::Mode;
use crate::scoped::ScopedLab;

pub use cold::Cold;
pub use figure::Spread;
pub use single::Single;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Pods that are there when the agent starts.
    pub pods: usize,
    /// Cold starts in each mode.
    pub rounds: usize,
    /// Pods that come and go one by one, in each mode.
    pub events: usize,
}

/// What was measured, in both modes.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Whether pods had routes into a tunnel too.
    pub tunnels: bool,
    /// Cold starts, a mode each.
    pub cold: Vec<Cold>,
    /// One pod at a time, a mode each.
    pub single: Vec<Single>,
}

/// Both modes by turns, so that what disturbs the machine disturbs both.
pub(crate) const MODES: [Mode; 2] = [Mode::Ebpf, Mode::Iptables];

/// Measures all of it.
pub fn measure(effort: Effort) -> Result<Figures> {
    let tunnels = has_geneve();
    let mut starts = MODES.map(|mode| (mode, Vec::new()));
    for _ in 0..effort.rounds {
        for (mode, starts) in &mut starts {
            let mut lab = lab(tunnels)?;
            starts.push(cold::start(&mut lab, *mode, effort.pods)?);
        }
    }
    let cold = starts.into_iter().map(|(mode, starts)| Cold::of(mode, effort.pods, &starts)).collect();
    let mut single = Vec::new();
    for mode in MODES {
        let mut lab = lab(tunnels)?;
        single.push(single::measure(&mut lab, mode, effort.events)?);
    }
    Ok(Figures { tunnels, cold, single })
}

/// A node, with ztunnel if there can be tunnels.
pub(crate) fn lab(tunnels: bool) -> Result<ScopedLab> {
    let mut lab = ScopedLab::up(options("enrolment")?)?;
    if !tunnels {
        lab.remove_pod(ZTUNNEL)?;
    }
    Ok(lab)
}

/// Whether this kernel has tunnels.
pub(crate) fn has_geneve() -> bool {
    let probe = "ip link add redirect-probe type geneve id 1 remote 192.0.2.1";
    Cmd::line(&format!("unshare --net {probe}")).run().is_ok()
}

/// The agent has nothing left to do.
pub(crate) fn settle(lab: &Lab) -> Result<()> {
    lab.wait_until(crate::demo::SETTLE, "settled", |status| status.settled).map(drop)
}

/// Tables for people.
#[must_use]
pub fn render(figures: &Figures) -> String {
    let tunnels = if figures.tunnels { "with" } else { "without" };
    let mut text = format!("{tunnels} tunnels\n{}", Cold::HEAD);
    text.extend(figures.cold.iter().map(Cold::row));
    text.push_str(Single::HEAD);
    text.extend(figures.single.iter().map(Single::rows));
    text
}
