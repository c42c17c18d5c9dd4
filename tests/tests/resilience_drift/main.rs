//! Whatever of the datapath somebody removes or changes, on the node or in ztunnel's namespace, is put back, is counted as a repair, and
//! is named in status with what was found; also five things at once, every other time such as the kernel tells of. How long it took is
//! printed by kind, and not judged. One of each kind at each place; all of each in the long form, or the share of all that is asked for.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod fight;
mod plugin;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use redirect_common::names::TUNNELS;
use redirect_lab::bpf::random::Random;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::drift::{
    Figures, Removal, changes, changes_of_maps, describe_maps, pinned_links, removals, sections,
};
use redirect_lab::harness::{Checks, eventually, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::mode::Mode;
use redirect_lab::neighbours::Neighbours;
use redirect_lab::netns::Netns;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::share::{Share, often};
use redirect_lab::snapshot::{Section, Snapshot};
use redirect_lab::status::Status;
use redirect_lab::table;
use rustix::process::Signal;

use plugin::Plugin;

/// Generous: emulated processors are slow.
const REPAIR: Duration = Duration::from_mins(1);
/// How many kinds of things there are at least, whatever the mode.
const KINDS: usize = 18;
/// How often five things go at once, in the short form and in the long one.
const ROUNDS: usize = 3;
const ROUNDS_LONG: usize = 60;
const AT_ONCE: usize = 5;
/// How long nothing has been put back when all of several things are.
const QUIET: Duration = Duration::from_secs(1);
const SEED: u64 = 5;

/// What there is to break at a place.
struct Place {
    name: &'static str,
    netns: Netns,
    golden: Snapshot,
    breaks: Vec<Removal>,
}

#[test]
fn whatever_changes_is_put_back() -> Result<()> {
    let mut lab = ScopedLab::up(options("resdrift")?)?;
    let neighbours = Neighbours::move_in(&lab)?;
    let netns = [lab.node(), lab.pod_netns(ZTUNNEL)];
    let before = netns.clone().map(|netns| shape(&lab, &netns));
    let plugin = Plugin::new(&lab)?;
    start(&mut lab, &plugin.options(watchful())?)?;
    let mut places = Vec::new();
    for ((netns, before), name) in netns.into_iter().zip(before).zip(["node", "ztunnel"]) {
        places.push(Place::look(&lab, name, netns, &before?)?);
    }
    let mut checks = Checks::default();
    let mut figures = Figures::default();
    checks.check("plugin: entry of the list removed, and changed", || plugin.loses_its_entry(&mut figures));
    for place in &places {
        println!("{} things to break in {}", place.breaks.len(), place.netns.name());
        for thing in &place.breaks {
            let name = format!("{}: {}: {}", place.name, thing.kind, thing.what);
            checks.check(&name, || place.puts_back(&mut lab, &[thing], &mut figures));
        }
    }
    let mut random = Random::new(SEED);
    for round in 1..=often(ROUNDS, ROUNDS_LONG) {
        let place = &places[random.below(4) / 3];
        let things = place.several(&mut random, round % 2 == 0);
        let names: Vec<_> = things.iter().map(|thing| thing.what.as_str()).collect();
        let name = format!("{}: five at once, round {round}: {}", place.name, names.join("; "));
        checks.check(&name, || place.puts_back(&mut lab, &things, &mut figures));
    }
    checks.check("plugin: program removed, and changed", || plugin.loses_its_program(&mut figures));
    checks.check("files of the agent's own removed", || plugin::own_files_come_back(&lab, &mut figures));
    checks.check("the table, after all of it", || table::check(&lab, ZTUNNEL));
    checks.check("a cleanup leaves nothing, and of others everything", || {
        neighbours.outlive_cleanup(&mut lab)?;
        plugin.is_gone()
    });
    checks.check("there were enough kinds", || {
        ensure!(figures.kinds() >= KINDS, "only {}", figures.kinds());
        Ok(())
    });
    print!("{}", figures.lines());
    checks.finish()
}

#[test]
fn a_fight_is_told_of_and_costs_little() -> Result<()> {
    fight::is_told_of_and_costs_little()
}

/// The tunnel's link that a thing has to do with.
fn tunnel_of(thing: &Removal) -> Option<&'static str> {
    let links = TUNNELS.iter().flat_map(|tunnel| [tunnel.node_link, tunnel.proxy_link]);
    links.into_iter().find(|link| thing.what.split_whitespace().any(|word| word == *link))
}

/// Nothing was put back for a while. Of several things the first may be back and the others not: who looks at everything then, with a dozen
/// tools, takes both processors from the repair that is to be measured.
fn quiet(status: &Status) -> bool {
    let last = status.last_repairs.iter().filter_map(|repair| repair.at().ok()).max();
    last.and_then(|last| last.elapsed().ok()).is_none_or(|since| since >= QUIET)
}

/// What is broken for the third time in a minute is taken for a fight, and put back a second later. The next agent knows nothing of it.
fn forget_fights(lab: &mut Lab) -> Result<()> {
    if lab.status()?.fights == 0 { Ok(()) } else { next_agent(lab) }
}

fn next_agent(lab: &mut Lab) -> Result<()> {
    lab.stop_agent(Signal::TERM)?;
    start(lab, &Plugin::of(lab).options(watchful())?).map(drop)
}

fn shape(lab: &Lab, netns: &Netns) -> Result<Snapshot> {
    Snapshot::shape(netns, &sections(lab.options().backend))
}

impl Place {
    fn look(lab: &Lab, name: &'static str, netns: Netns, before: &Snapshot) -> Result<Self> {
        let golden = shape(lab, &netns)?;
        let backend = lab.options().backend;
        let mut breaks = Vec::new();
        if netns == lab.node() && lab.mode() == Mode::Ebpf {
            // First: pins are named by the indices of devices, some of which are made again below.
            breaks.extend(pinned_links(&lab.bpf_dir().join("links"))?);
            breaks.extend(changes_of_maps(lab)?);
        }
        breaks.extend(removals(before, &golden, backend));
        breaks.extend(changes(before, &golden, backend));
        let (mut seen, mut number) = (BTreeSet::new(), 0..);
        breaks.retain(|thing| {
            let in_share = |place| Share::wanted().is_some_and(|share| share.has(place));
            let wanted = number.next().is_some_and(in_share);
            seen.insert(thing.kind) || wanted
        });
        Ok(Self { name, netns, golden, breaks })
    }

    /// Different things at random, of which no more than two are of one kind of object, or have to do with one tunnel's link: a link that is
    /// broken three times is fought over, and so is the neighbour that goes with its link, with its address, and with its MAC address. Where
    /// only what is `told` is wanted, the kernel tells of each.
    fn several(&self, random: &mut Random, told: bool) -> Vec<&Removal> {
        let mut left: Vec<_> = self.breaks.iter().filter(|thing| thing.told || !told).collect();
        let mut things: Vec<&Removal> = Vec::new();
        while things.len() < AT_ONCE && !left.is_empty() {
            let thing = left.swap_remove(random.below(left.len()));
            let tunnel = tunnel_of(thing);
            let alike =
                |other: &&&Removal| other.section == thing.section || tunnel.is_some() && tunnel_of(other) == tunnel;
            if things.iter().filter(alike).count() < 2 {
                things.push(thing);
            }
        }
        things
    }

    /// What is not as it was.
    fn text(&self, sections: &[Section]) -> Result<String> {
        let differs = self.golden.part(sections).diff(&Snapshot::shape(&self.netns, sections)?);
        Ok(differs.unwrap_or_default())
    }

    /// Breaks some things, the first of which must be there, and waits until everything is as it was.
    fn puts_back(&self, lab: &mut Lab, things: &[&Removal], figures: &mut Figures) -> Result<()> {
        let several = things.len() > 1;
        // Of several one or the other was broken before, and is counted on.
        if several {
            next_agent(lab)?;
        } else {
            forget_fights(lab)?;
        }
        let maps = self.maps(lab)?;
        let before = lab.status()?.total_repairs();
        let begun = SystemTime::now();
        for (at, thing) in things.iter().enumerate() {
            match thing.apply(&self.netns) {
                // It went with another.
                Err(error) if at > 0 => println!("        not there: {error:#}"),
                outcome => outcome?,
            }
        }
        let broken = SystemTime::now();
        if several {
            // Whoever asks takes time from the repair as well.
            thread::sleep(QUIET);
        }
        let rests = |status: &Status| !several || quiet(status);
        let repaired = |status: &Status| status.settled && status.total_repairs() > before && rests(status);
        lab.wait_until(REPAIR, "settled with a repair more", repaired)?;
        // With a link go its addresses, routes and settings.
        let whole = sections(lab.options().backend);
        let sections = match things {
            [thing] if thing.section != Section::LINKS => vec![thing.section],
            _ => whole,
        };
        eventually(REPAIR, || {
            let differs = self.text(&sections)?;
            ensure!(differs.is_empty(), "{differs}");
            let now = self.maps(lab)?;
            ensure!(now == maps, "the maps were\n{maps}and are\n{now}");
            Ok(())
        })?;
        let took = self.took(&lab.status()?, begun, broken)?;
        let (told, kind) = match things {
            [thing] => (thing.told, thing.kind),
            _ => (things.iter().all(|thing| thing.told), "five at once"),
        };
        println!("        {} ms", took.as_millis());
        figures.add(told, &if self.name == "node" { kind.to_owned() } else { format!("{kind}, {}", self.name) }, took);
        Ok(())
    }

    fn maps(&self, lab: &Lab) -> Result<String> {
        if self.name == "node" && lab.mode() == Mode::Ebpf { describe_maps(lab) } else { Ok(String::new()) }
    }

    /// From when the tool that broke it had ended until the last write of the repair; none if that came sooner.
    fn took(&self, status: &Status, begun: SystemTime, broken: SystemTime) -> Result<Duration> {
        let mut repairs = Vec::new();
        for repair in &status.last_repairs {
            repairs.push((repair.at()?, repair));
        }
        repairs.retain(|(at, repair)| *at >= begun && repair.place == self.name);
        let last = repairs.iter().max_by_key(|(at, _)| *at);
        let Some((at, repair)) = last else { anyhow::bail!("status names no repair here: {:?}", status.last_repairs) };
        ensure!(repair.found.is_some(), "status does not say what was found of {} {}", repair.kind, repair.object);
        Ok(at.duration_since(broken).unwrap_or_default())
    }
}
