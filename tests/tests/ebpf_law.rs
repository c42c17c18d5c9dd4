//! The second reader of the law: the programs in the kernel at hand, packet by packet, against the law in user space.
//!
//! The corpus goes through the program that meets each packet, and so do packets made at random and of the corpus by changing
//! it: `REDIRECT_RANDOM_PACKETS` of them, from the seed `REDIRECT_SEED`.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use redirect_common::names::TUNNEL_PORT;
use redirect_common::policy::{Row, Seat};
use redirect_lab::bpf::compare::Comparison;
use redirect_lab::bpf::mutate::Mutator;
use redirect_lab::bpf::object::Given;
use redirect_lab::bpf::program::Program;
use redirect_lab::bpf::random::Random;
use redirect_lab::bpf::world::World;
use redirect_lab::corpus::{Difference, Place, Step, conversations};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Bits that belong to somebody else.
const FOREIGN: u32 = 0x8001_0002;
const PACKETS: usize = 1_000_000;
/// On an emulated processor everything takes twenty times as long.
const PACKETS_EMULATED: usize = 50_000;
const SEED: u64 = 0x7265_6469_7265_6374;

#[test]
fn the_programs_obey_the_law_on_the_corpus() -> Result<()> {
    let bridged = World::of_the_corpus(16081).bridged();
    for (world, uplink) in [
        (World::of_the_corpus(TUNNEL_PORT), Program::FromNetwork),
        (World::of_the_corpus(TUNNEL_PORT), Program::FromIp),
        (bridged.clone(), Program::FromNetwork),
        (bridged.traced(), Program::FromNetwork),
    ] {
        judge_corpus(&world, uplink)?;
    }
    Ok(())
}

/// On a node whose uplink has this program.
fn judge_corpus(world: &World, uplink: Program) -> Result<()> {
    let mut comparison = Comparison::new(world.clone())?;
    let mut differences: BTreeMap<Difference, usize> = BTreeMap::new();
    let (mut named, mut wrong) = (0, Vec::new());
    for conversation in conversations(world.tunnel_port) {
        for (at, step) in conversation.steps.iter().enumerate() {
            named += 1;
            for (piece, frame) in frames(step).into_iter().enumerate() {
                let name = || format!("{} / {} / {piece}", conversation.name, step.name);
                let program = if step.place == Place::Uplink { uplink } else { Program::at(step.place) };
                let given = Given { frame: &program.part(&frame), mark: FOREIGN | step.mark, ingress: 0 };
                let refused = comparison.refused;
                comparison.move_to(if step.place == Place::ProxyB { Seat::B } else { Seat::A })?;
                let row = comparison.packet(program, given, name)?;
                if row == step.law.ok() || comparison.refused > refused {
                    continue;
                }
                match Difference::of(&conversation, at, piece, &frame, row) {
                    Some(difference) if difference.has_link_layer() || program == Program::FromIp => {
                        *differences.entry(difference).or_default() += 1;
                    }
                    _ => wrong.push(format!("{}: the programs' law gives {row:?}, not {:?}", name(), step.law)),
                }
            }
        }
    }
    println!(
        "{named} named packets, {} frames compared, {} refused by the kernel",
        comparison.compared, comparison.refused
    );
    for (difference, count) in &differences {
        println!("{count} frames differ by design: {difference}");
    }
    let link_layer = uplink != Program::FromIp;
    for difference in Difference::ALL.into_iter().filter(|difference| difference.has_link_layer() || !link_layer) {
        ensure!(differences.contains_key(&difference), "the corpus does not show that {difference}");
    }
    ensure!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(named >= 2000, "only {named} packets");
    finish(&comparison)
}

/// A packet's frames: several if it is sent in fragments, which the programs judge singly.
fn frames(step: &Step) -> Vec<Vec<u8>> {
    step.packets(1).into_iter().map(|packet| step.frame(MAC, MAC, &packet)).collect()
}

#[test]
fn the_programs_obey_the_law_on_random_packets() -> Result<()> {
    let emulated = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?.contains("QEMU TCG");
    let packets = setting("REDIRECT_RANDOM_PACKETS", if emulated { PACKETS_EMULATED } else { PACKETS })?;
    let seed = setting("REDIRECT_SEED", SEED)?;
    let (mut random, since) = (Random::new(seed), Instant::now());
    for (world, share) in [
        (World::of_the_corpus(TUNNEL_PORT), packets / 2),
        (World::of_the_corpus(TUNNEL_PORT).bridged(), packets - packets / 2),
    ] {
        let mutator = Mutator::new(&conversations(TUNNEL_PORT), TUNNEL_PORT);
        let mut comparison = Comparison::new(world)?;
        let mut rows: BTreeMap<Option<Row>, usize> = BTreeMap::new();
        for number in 0.. {
            if comparison.compared == share {
                break;
            }
            ensure!(number < 2 * share + 1000, "the kernel refuses most packets");
            let program = random.one(&Program::OF_THE_LAW).context("no program")?;
            // Now and then: it costs the kernel's test a call of its own.
            if number % 8 == 0 {
                comparison.move_to(random.one(&Seat::ALL).context("no seat")?)?;
            }
            let frame = mutator.frame(&mut random);
            let given = Given { frame: &program.part(&frame), mark: random.word(), ingress: 0 };
            let row = comparison.packet(program, given, || format!("seed {seed}, packet {number}"))?;
            *rows.entry(row).or_default() += 1;
        }
        println!("seed {seed}: {} packets compared, {} refused, {rows:?}", comparison.compared, comparison.refused);
        ensure!(rows.len() == 11, "not every row was met: {rows:?}");
        finish(&comparison)?;
    }
    println!("{packets} packets in {:.1} s", since.elapsed().as_secs_f64());
    Ok(())
}

/// What goes to pods past ztunnel, and what comes to the tunnels from elsewhere, on their way through the programs on egress.
/// Kernels before 5.15 or so let no test say where a packet arrived: there it is only what local sockets send, and the rest is
/// shown by the suites with traffic.
#[test]
fn what_passes_ztunnel_by_is_dropped() -> Result<()> {
    let mut comparison = Comparison::new(World::of_the_corpus(TUNNEL_PORT))?;
    let ingress = u32::from(comparison.can_say_where_packets_arrive()?);
    for conversation in conversations(TUNNEL_PORT) {
        for step in &conversation.steps {
            for frame in frames(step) {
                // As if it had been translated since: what is remembered, by it too, counts here again.
                comparison.move_to(if step.place == Place::ProxyB { Seat::B } else { Seat::A })?;
                let given = Given { frame: &frame, mark: FOREIGN, ingress: 0 };
                comparison
                    .packet(Program::at(step.place), given, || format!("{} / {}", conversation.name, step.name))?;
                for (program, mark) in
                    [(Program::ToPod, FOREIGN), (Program::ToPod, FOREIGN | 0x200), (Program::FromNode, FOREIGN)]
                {
                    let given = Given { frame: &frame, mark, ingress };
                    comparison.packet(program, given, || format!("{} / {}", conversation.name, step.name))?;
                }
            }
        }
    }
    println!("arrived at {ingress}: {} packets compared, {} refused", comparison.compared, comparison.refused);
    ensure!(comparison.compared > comparison.refused, "the kernel refuses most packets");
    finish(&comparison)
}

fn finish(comparison: &Comparison) -> Result<()> {
    let (disagreements, described) = (comparison.disagreements, comparison.described.join("\n"));
    ensure!(disagreements == 0, "{disagreements} disagreements, among them:\n{described}");
    let (counted, expected) = comparison.counts()?;
    ensure!(counted == expected, "the programs counted {counted:?}, the law {expected:?}");
    Ok(())
}

fn setting<T: FromStr>(name: &str, otherwise: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("{name}={value}")),
        Err(_) => Ok(otherwise),
    }
}
