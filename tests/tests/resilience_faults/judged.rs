//! Connections of those that belong to the mesh before and after, while writes fail.

use anyhow::{Result, ensure};
use redirect_lab::judge::Judge;
use redirect_lab::lab::Lab;
use redirect_lab::tally::Tally;
use redirect_lab::traffic::{DIRECT, Traffic};

use crate::phase::Phase;

/// Connections of each kind before and after.
const ENOUGH: usize = 2;
/// Those that have nothing to do with `app-b`, which joins and leaves.
const OF_WHO_STAYS: [&str; 3] = ["meshed to remote", "remote to meshed", DIRECT[0]];

/// What connections may suffer from a phase in which no write fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    /// None.
    Nothing,
    /// A drain that is over at once ends those of the former ztunnel.
    Some,
}

/// Connections, and their judge.
pub(crate) struct Watched {
    judge: Judge,
    traffic: Traffic,
    phase: Phase,
    harm: Harm,
}

impl Watched {
    /// From now on, unless everything comes or goes in this phase.
    pub(crate) fn begin(phase: Phase, lab: &Lab) -> Result<Option<Self>> {
        let (all, harm) = match phase {
            Phase::Start | Phase::Cleanup => return Ok(None),
            Phase::Enrol | Phase::Unenrol => (false, Harm::Nothing),
            Phase::Upgrade | Phase::Mode => (true, Harm::Nothing),
            Phase::Rollout => (true, Harm::Some),
        };
        let judge = Judge::watch(lab)?;
        let traffic = Traffic::judged_leisurely(lab, &judge, |name| all || OF_WHO_STAYS.contains(&name))?;
        traffic.wait_for_more(ENOUGH)?;
        Ok(Some(Self { judge, traffic, phase, harm }))
    }

    /// What became of them while so many writes failed.
    pub(crate) fn end(self, lab: &Lab, writes: usize, tally: &mut Tally) -> Result<()> {
        let Self { judge, traffic, phase, harm } = self;
        let going_on = traffic.wait_for_more(ENOUGH);
        let (report, verdict) = (traffic.stop()?, judge.finish(lab)?);
        tally.add(&format!("writes fail: {phase:?}"), writes, &report, &verdict);
        going_on?;
        verdict.nothing_escaped()?;
        ensure!(report.astray.is_empty() && report.gave_up.is_empty(), "{:?}, {:?}", report.astray, report.gave_up);
        if harm == Harm::Nothing { report.all_is_well() } else { Ok(()) }
    }
}
