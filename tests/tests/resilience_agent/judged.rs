//! What must hold of all connections while something is done to the agent.

use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_lab::judge::Judge;
use redirect_lab::lab::Lab;
use redirect_lab::tally::Tally;
use redirect_lab::traffic::Traffic;

/// Connections of each kind before and after.
const ENOUGH: usize = 3;
/// How often something is done in one part.
const PART: usize = 20;
/// How long an agent may take until it has settled: much longer than it does with the machine for itself.
pub(crate) const SETTLE: Duration = Duration::from_mins(4);

/// Does `work`, which is `what`, so many times, told which time it is. Clients have ports for so many connections only, so it is in
/// parts. Connections of every kind are made and go on meanwhile: none fails, none breaks, nothing escapes.
pub(crate) fn nothing_happens(
    what: &str,
    times: usize,
    lab: &mut Lab,
    mut work: impl FnMut(&mut Lab, &Traffic, usize) -> Result<()>,
) -> Result<()> {
    let mut tally = Tally::default();
    let outcome = (0..times).step_by(PART).try_for_each(|begin| {
        let turns = begin..times.min(begin + PART);
        let (number, mut turns) = (turns.len(), turns);
        let mut part = Part { what, number, tally: &mut tally };
        part.judge(lab, |lab, traffic| turns.try_for_each(|turn| work(lab, traffic, turn)))
    });
    tally.print();
    outcome
}

/// Some of the times.
struct Part<'a> {
    what: &'a str,
    number: usize,
    tally: &'a mut Tally,
}

impl Part<'_> {
    fn judge(&mut self, lab: &mut Lab, work: impl FnOnce(&mut Lab, &Traffic) -> Result<()>) -> Result<()> {
        let judge = Judge::watch(lab)?;
        let traffic = Traffic::judged_leisurely(lab, &judge, |_| true)?;
        let done = traffic.wait_for_more(ENOUGH).and_then(|()| work(lab, &traffic));
        let done = done.and_then(|()| traffic.wait_for_more(ENOUGH));
        let report = traffic.stop()?;
        let verdict = judge.finish(lab)?;
        self.tally.add(self.what, self.number, &report, &verdict);
        done?;
        report.all_is_well()?;
        ensure!(report.standing.len() == 7, "long connections: {:?}", report.standing);
        verdict.nothing_escaped()
    }
}
