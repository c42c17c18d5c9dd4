//! Writes of the agent fail, one after the other, while pods join and leave, while another version or another mode takes over, at the
//! start, at a cleanup, and while a ztunnel follows another: it says so, and what stands in the end is what would have stood without.
//! Meanwhile connections of those that belong to the mesh before and after are made and go on, and none escapes. The writes of each phase
//! are counted first; then some of them fail, in one of three ways each: every sixtieth, all in the long form, or every
//! `REDIRECT_FAULTS_EVERY`th.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod judged;
mod phase;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::faults::{How, Point, REASON};
use redirect_lab::folders::Folders;
use redirect_lab::harness::{Checks, is_settled, options};
use redirect_lab::lab::Lab;
use redirect_lab::neighbours::Neighbours;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::share::Share;
use redirect_lab::snapshot::Snapshot;
use redirect_lab::table;
use redirect_lab::tally::Tally;

use judged::Watched;
use phase::{DEADLINE, NEXT, Phase};

/// Every which write fails in the short form; every one in the long form.
const EVERY: usize = 60;
/// So many at a time fail under the same connections: clients have ports for so many only.
const PART: usize = 10;
/// How often a write is to fail that there is not each time.
const TRIES: usize = 3;

#[test]
fn a_write_that_fails_leaves_nothing_half_done() -> Result<()> {
    let mut lab = ScopedLab::up(options("faults")?)?;
    Folders::new(&lab)?;
    let neighbours = Neighbours::move_in(&lab)?;
    let mut checks = Checks::default();
    let mut tally = Tally::default();
    println!("@columns writes that fail | while | writes | chosen | failed, and it was as without");
    for phase in Phase::ALL {
        let golden = Golden::of(&mut lab, phase, &mut tally)?;
        let ways = golden.by_way();
        println!("{phase:?}: {} writes: {ways:?}", golden.points.len());
        checks.check(&format!("{phase:?} has writes"), || {
            ensure!(!golden.points.is_empty(), "no write was counted");
            Ok(())
        });
        let (chosen, mut held) = (chosen(phase, &golden.points)?, 0);
        let turns: Vec<_> = chosen.iter().copied().enumerate().collect();
        for part in turns.chunks(PART) {
            phase.prepare(&mut lab)?;
            let watched = Watched::begin(phase, &lab)?;
            for (turn, place) in part.iter().copied() {
                // From phase to phase another is the first: the short form has few of each.
                let how = How::ALL[(turn + phase as usize) % How::ALL.len()];
                let point = &golden.points[place];
                checks.check(&format!("{phase:?}, write {place} ({point}): {how}"), || {
                    golden.holds(&mut lab, how, point).inspect(|()| held += 1)
                });
            }
            let name = format!("{phase:?}, {} writes: connections", part.len());
            checks.check(&name, || watched.map_or(Ok(()), |watched| watched.end(&lab, part.len(), &mut tally)));
        }
        println!("@figure writes that fail | {phase:?} | {} | {} | {held}", golden.points.len(), chosen.len());
    }
    tally.print();
    checks.check("the table, after all of it", || {
        lab.remove_pod(NEXT)?;
        lab.wait_until(DEADLINE, "settled", is_settled)?;
        table::check(&lab, ZTUNNEL)
    });
    checks.check("a cleanup leaves nothing, and of others everything", || neighbours.outlive_cleanup(&mut lab));
    checks.finish()
}

/// Some of the points, and the first of each way to write where that takes least.
fn chosen(phase: Phase, points: &[Point]) -> Result<Vec<usize>> {
    let every: usize = match std::env::var("REDIRECT_FAULTS_EVERY") {
        Ok(number) => number.parse().context("REDIRECT_FAULTS_EVERY")?,
        Err(_) => EVERY,
    };
    ensure!(every > 0, "every 0th write is none");
    let wanted = |place: &usize| Share::wanted().map_or(place.is_multiple_of(every), |share| share.has(*place));
    let mut chosen: Vec<_> = (0..points.len()).filter(wanted).collect();
    if phase.is_brief() {
        let first = |way: &str| points.iter().position(|point| point.way() == way);
        chosen.extend(["netlink", "batch", "bpf", "file"].into_iter().filter_map(first));
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// A phase as it is when nothing fails.
struct Golden {
    phase: Phase,
    /// Its writes.
    points: Vec<Point>,
    /// What stands afterwards.
    after: Vec<Snapshot>,
    /// What the runtime's folders have then.
    folders: String,
    /// And where maps are pinned.
    pins: BTreeSet<String>,
}

impl Golden {
    /// Goes through it once, under the connections that there will be then: some writes are for them.
    fn of(lab: &mut Lab, phase: Phase, tally: &mut Tally) -> Result<Self> {
        phase.prepare(lab)?;
        let watched = Watched::begin(phase, lab)?;
        lab.count_writes()?;
        phase.begin(lab)?;
        phase.settles(lab, None)?;
        let points = lab.points()?;
        lab.end_faults()?;
        watched.map_or(Ok(()), |watched| watched.end(lab, 0, tally))?;
        let (after, folders, pins) = (phase.look(lab)?, Folders::of(lab).describe()?, phase::pins(lab)?);
        Ok(Self { phase, points, after, folders, pins })
    }

    fn by_way(&self) -> BTreeMap<&str, usize> {
        let mut ways = BTreeMap::new();
        for way in self.points.iter().map(Point::way) {
            *ways.entry(way).or_default() += 1;
        }
        ways
    }

    /// The same with a write that fails. What a run writes, and in how many steps, may hang on when it looks: where the write is not made
    /// this time, it is done once more.
    fn holds(&self, lab: &mut Lab, how: How, point: &Point) -> Result<()> {
        for _ in 0..TRIES {
            if self.holds_once(lab, how, point)? {
                return Ok(());
            }
        }
        bail!("it was not made in {TRIES} tries, so nothing is known of its failure")
    }

    /// Whether the write was reached; in any case it is as it must be.
    fn holds_once(&self, lab: &mut Lab, how: How, point: &Point) -> Result<bool> {
        let phase = self.phase;
        phase.prepare(lab)?;
        let said = fs::read_to_string(lab.agent_log()).unwrap_or_default().len();
        lab.want_fault(how, point)?;
        let begun = phase.begin(lab);
        let settled = phase.settles(lab, Some(how));
        let (points, fired) = (lab.points()?, lab.fault_has_fired());
        lab.end_faults()?;
        settled?;
        if !fired {
            println!("        {phase:?}: not among {} writes this time", points.len());
            return begun.map(|()| false);
        }
        if how != How::Abort {
            let log = fs::read_to_string(lab.agent_log())?;
            let since = log.get(said..).unwrap_or_default();
            let told = since.contains(REASON) || begun.is_err_and(|error| format!("{error:#}").contains(REASON));
            ensure!(told, "nobody was told; the agent's log has\n{since}");
        }
        let changes: String =
            self.after.iter().zip(&phase.look(lab)?).filter_map(|(golden, now)| golden.diff(now)).collect();
        ensure!(changes.is_empty(), "afterwards there is\n{changes}");
        let folders = Folders::of(lab).describe()?;
        ensure!(folders == self.folders, "the runtime's folders have\n{folders}and not\n{}", self.folders);
        let pins = phase::pins(lab)?;
        ensure!(pins == self.pins, "pinned are {pins:?} and not {:?}", self.pins);
        let left: Vec<_> = half_written(lab)?;
        ensure!(left.is_empty(), "half-written files stay: {left:?}");
        Ok(true)
    }
}

/// Files of the agent that another file was to be made of.
fn half_written(lab: &Lab) -> Result<Vec<String>> {
    let names = fs::read_dir(lab.agent_dir())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    Ok(names.into_iter().filter(|name| Path::new(name).extension().is_some_and(|end| end == "tmp")).collect())
}
