//! What connections and judge had to say, added up over all times that the same thing was done: a row of the report's table.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::judge::Verdict;
use crate::traffic::Report;

/// How many failures, breaks and escapes a reader gets to see each time.
const SHOWN: usize = 8;

/// Sums, by what was done.
#[derive(Clone, Default, Debug)]
pub struct Tally(BTreeMap<String, Sums>);

#[derive(Clone, Default, Debug)]
struct Sums {
    times: usize,
    connections: usize,
    failed: usize,
    broken: usize,
    packets: u64,
    escapes: usize,
    slowest: Duration,
}

impl Tally {
    /// Adds what came of it when something was done so many times, and tells of it.
    pub fn add(&mut self, what: &str, times: usize, report: &Report, verdict: &Verdict) {
        tell(report, verdict);
        let sums = self.0.entry(what.to_owned()).or_default();
        sums.times += times;
        sums.connections += report.tried;
        sums.failed += report.failed.len();
        sums.broken += report.broken.len();
        sums.packets += verdict.packets;
        sums.escapes += verdict.escapes.len();
        sums.slowest = sums.slowest.max(report.slowest.0);
    }

    /// Prints a row for each.
    pub fn print(&self) {
        println!("@columns connections | while | times | new | failed | broke | packets seen | escapes | slowest");
        for (what, sums) in &self.0 {
            let Sums { times, connections, failed, broken, packets, escapes, slowest } = sums;
            println!(
                "@figure connections | {what} | {times} | {connections} | {failed} | {broken} | {packets} | {escapes} | {slowest:.1?}"
            );
        }
    }
}

fn tell(report: &Report, verdict: &Verdict) {
    let (time, stream) = report.slowest;
    let classes = report.classes();
    let (tried, held_up) = (report.tried, report.held_up);
    println!(
        "        {verdict}; {tried} connections, slowest {time:.1?} ({stream}), held up for {held_up:.1?}, failed: {classes:?}"
    );
    for escape in verdict.escapes.iter().take(SHOWN) {
        println!("        {escape}");
    }
    for failure in report.failed.iter().take(SHOWN).chain(report.broken.iter().take(SHOWN)) {
        println!("        {failure}");
    }
}
