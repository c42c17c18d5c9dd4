//! The BPF object on a real kernel: its verifier takes the program, and the program does with packets what it says.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::net::Ipv4Addr;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};

/// Where the object is. `cargo xtask test` sets it; by hand: `REDIRECT_BPF_OBJECT=$(cargo xtask build-ebpf)`.
const OBJECT: &str = "REDIRECT_BPF_OBJECT";
const PROGRAM: &str = "redirect_from_pod";
/// `TC_ACT_UNSPEC`, as the kernel reports it.
const NEXT: u32 = u32::MAX;

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 6);

/// Indices of the map of counters.
const MESHED: u32 = 0;
const OTHER: u32 = 1;
const UNPARSED: u32 = 2;

fn load() -> Result<Ebpf> {
    let path = env::var_os(OBJECT).with_context(|| format!("{OBJECT} does not say where the BPF object is"))?;
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut ebpf = EbpfLoader::new().load(&bytes).context("create the maps")?;
    classifier(&mut ebpf)?.load().context("the kernel does not take the program")?;
    let mut pods: HashMap<_, [u8; 16], u32> = HashMap::try_from(ebpf.map_mut("PODS").context("no map PODS")?)?;
    pods.insert(POD.to_ipv6_mapped().octets(), 0, 0).context("add a pod")?;
    Ok(ebpf)
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut(PROGRAM).with_context(|| format!("no program {PROGRAM}"))?.try_into()?)
}

/// Runs the program on a frame, which it must not change.
fn run(ebpf: &mut Ebpf, frame: &[u8]) -> Result<u32> {
    let mut after = vec![0; frame.len()];
    let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut after), ..TestRunOptions::default() };
    let result = classifier(ebpf)?.test_run(options).context("run the program")?;
    ensure!(after == frame, "the program changed the packet");
    Ok(result.return_value)
}

fn counted(ebpf: &Ebpf) -> Result<[u64; 3]> {
    let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(ebpf.map("COUNTS").context("no map COUNTS")?)?;
    let sum = |index| Ok::<_, anyhow::Error>(counts.get(&index, 0)?.iter().sum());
    Ok([sum(MESHED)?, sum(OTHER)?, sum(UNPARSED)?])
}

/// A TCP segment in an Ethernet frame, behind VLAN tags if there are any.
fn frame(source: Ipv4Addr, tags: usize, options: usize) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    for _ in 0..tags {
        bytes.extend([0x81, 0x00, 0x00, 0x07]);
    }
    let length = u8::try_from(20 + 4 * options + 20).unwrap_or(u8::MAX);
    let first = 0x45 + u8::try_from(options).unwrap_or(0);
    bytes.extend([0x08, 0x00, first, 0, 0, length, 0, 0, 0, 0, 64, 6, 0, 0]);
    bytes.extend(source.octets());
    bytes.extend([10, 244, 2, 3]);
    // Options without effect (RFC 791, "no operation"), then a segment from port 1234 to port 80.
    bytes.extend(std::iter::repeat_n(1, 4 * options));
    bytes.extend([4, 210, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    bytes
}

#[test]
fn packets_are_counted_by_source() -> Result<()> {
    let mut ebpf = load()?;
    for (source, expected) in [(POD, [1, 0, 0]), (STRANGER, [1, 1, 0]), (POD, [2, 1, 0])] {
        ensure!(run(&mut ebpf, &frame(source, 0, 0))? == NEXT, "the program gives a verdict of its own");
        let counts = counted(&ebpf)?;
        ensure!(counts == expected, "counted {counts:?}, not {expected:?}");
    }
    Ok(())
}

#[test]
fn tags_and_options_hide_nothing() -> Result<()> {
    let mut ebpf = load()?;
    for (tags, options) in [(1, 0), (2, 0), (0, 1), (0, 10), (2, 10)] {
        ensure!(run(&mut ebpf, &frame(POD, tags, options))? == NEXT, "a verdict for {tags} tags and {options} options");
    }
    let counts = counted(&ebpf)?;
    ensure!(counts == [5, 0, 0], "counted {counts:?}");
    Ok(())
}

#[test]
fn what_cannot_be_read_is_passed_on() -> Result<()> {
    let mut ebpf = load()?;
    let arp = [&[2; 12][..], &[0x08, 0x06], &[0; 28]].concat();
    let cut_off = &frame(POD, 0, 0)[..40];
    let too_many_tags = frame(POD, 5, 0);
    for bytes in [&arp, cut_off, &too_many_tags] {
        ensure!(run(&mut ebpf, bytes)? == NEXT, "a verdict for {bytes:?}");
    }
    let counts = counted(&ebpf)?;
    ensure!(counts == [0, 0, 3], "counted {counts:?}");
    Ok(())
}
