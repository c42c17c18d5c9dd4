//! The BPF side of ebpf mode as the agent holds it: programs loaded, maps pinned or adopted, and the way to attach.
//!
//! Every start loads the programs anew, over the maps that are pinned; what is attached already is swapped only when it is
//! not the same program over the same maps. So an upgrade and a restart are one path.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use aya::maps::{MapData, MapInfo, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use redirect_common::maps::{COUNTERS, Tracing, counter_name, name};

use crate::config::TcAttach;
use crate::kernel::bpf::write;
use crate::kernel::file;
use crate::resources::blocked::Packets;
use crate::resources::pin::Pins;
use crate::resources::program::{self, AttachKind, Programs};
use crate::trace::{self, Reader};

mod folders;

use folders::maps_dir;
pub(crate) use folders::{folders, forget_other_layouts, links_dir, pins, unpin};

/// The object, of the same build as this agent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("REDIRECT_EBPF_OBJECT"));
/// Instructions are translated to the processor's: 0 is the interpreter (Documentation/admin-guide/sysctl/net.rst).
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Maps whose number of entries is configured.
const FLOWS: [&str; 2] = [name::FLOWS, name::DATAGRAMS];

/// Every program that is attached somewhere.
const PROGRAMS: [&str; 7] = [
    "redirect_from_pod",
    "redirect_from_network",
    "redirect_from_ip",
    "redirect_from_proxy",
    "redirect_from_tunnel",
    "redirect_from_node",
    "redirect_to_pod",
];

/// What ebpf mode works with.
pub(crate) struct Bpf {
    pub(crate) ebpf: Ebpf,
    pub(crate) programs: Programs,
    pub(crate) pins: Pins,
    pub(crate) kind: AttachKind,
    /// What the programs say of packets of a traced pod.
    pub(crate) reader: Reader,
}

/// What is asked of it.
pub(crate) struct Options<'a> {
    /// Directory of the pins.
    pub(crate) dir: &'a Path,
    pub(crate) attach: TcAttach,
    /// How many flows are remembered.
    pub(crate) flows: u32,
}

/// Finds out by doing it whether BPF can be used, and loads the programs. An error names what stands against it; nothing is
/// attached yet.
pub(crate) fn open(options: &Options<'_>) -> anyhow::Result<Bpf> {
    check_jit()?;
    folders::check(options.dir)?;
    lift_memory_limit();
    let mut ebpf = load(options)?;
    let pins = Pins::open(&folders(options.dir), &maps_dir(options.dir))?;
    let programs = load_programs(&mut ebpf)?;
    let kind = choose(options.attach, &programs)?;
    let reader = trace::start(&mut ebpf)?;
    Ok(Bpf { ebpf, programs, pins, kind, reader })
}

impl Bpf {
    /// Loads a program once more, for a device on which it stands: one runs the same program at most once (`bpf_mprog_exists`,
    /// kernel/bpf/mprog.c), so only another load of it can stand there before the former goes. Where that is attached it stays.
    pub(crate) fn load_again(&mut self, name: &'static str) -> anyhow::Result<()> {
        let program = classifier(&mut self.ebpf, name)?;
        // It is not loaded where an earlier try ended here.
        let _ = program.unload();
        load_program(name, program)?;
        self.programs.add(name, program)
    }

    /// Packets by verdict, of all processors together. Every verdict is named.
    pub(crate) fn counts(&self) -> anyhow::Result<Packets> {
        let map = self.ebpf.map(name::COUNTS).context("no map COUNTS")?;
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        let sum = |index: u32| Ok((counter_name(index).to_owned(), map.get(&index, 0)?.iter().sum()));
        (0..COUNTERS).map(sum).collect()
    }

    /// Lines about traced packets that were not shown, be it that the programs did not write them or that the agent left them
    /// out.
    pub(crate) fn lost_lines(&self) -> anyhow::Result<u64> {
        let map = self.ebpf.map(name::TRACING).context("no map TRACING")?;
        let map: PerCpuArray<_, [u64; 3]> = PerCpuArray::try_from(map)?;
        let unwritten: u64 = map.get(&0, 0)?.iter().map(|words| Tracing::from_words(*words).lost).sum();
        Ok(unwritten + self.reader.lost())
    }
}

fn check_jit() -> anyhow::Result<()> {
    match fs::read_to_string(JIT) {
        Ok(value) => ensure!(
            value.trim() != "0",
            "the kernel's BPF compiler is switched off ({JIT} is 0); interpreted programs on every packet are too slow"
        ),
        // A kernel that always compiles need not have the switch; one without BPF fails below.
        Err(error) => tracing::debug!(%error, "{JIT} cannot be read"),
    }
    Ok(())
}

/// Before Linux 5.11 maps count as locked memory of the user, and containers may lock little.
fn lift_memory_limit() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "the limit of locked memory stays (CAP_SYS_RESOURCE)");
    }
}

fn load(options: &Options<'_>) -> anyhow::Result<Ebpf> {
    let maps = maps_dir(options.dir);
    for directory in [options.dir, &maps, &links_dir(options.dir)] {
        file::make_directory(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let wanted = Object::parse(OBJECT).context("read the BPF object")?;
    for (map, wanted) in wanted.maps.iter().filter(|(map, _)| name::ALL.contains(&map.as_str())) {
        let entries = if FLOWS.contains(&map.as_str()) { options.flows } else { wanted.max_entries() };
        let pin = maps.join(map);
        drop_unlike(&pin, [wanted.key_size(), wanted.value_size(), entries])?;
        make_map(&pin, map, wanted.clone(), entries).context(
            "create the BPF maps (is CAP_BPF, or CAP_SYS_ADMIN, missing? before Linux 5.11 also CAP_SYS_RESOURCE)",
        )?;
    }
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(name::FLOWS, options.flows).map_max_entries(name::DATAGRAMS, options.flows);
    for map in name::ALL {
        loader.map_pin_path(map, maps.join(map));
    }
    write("load the object", || Ok(loader.load(OBJECT)?)).context("load the BPF object over its maps")
}

/// Makes and pins a map that is not there. The loader would make them all in one call, of which nobody could say how far it came.
fn make_map(pin: &Path, name: &str, mut wanted: aya_obj::Map, entries: u32) -> anyhow::Result<()> {
    if pin.exists() {
        return Ok(());
    }
    wanted.set_max_entries(entries);
    write(&format!("make {name}"), || Ok(MapData::create(wanted, name, None)?.pin(pin)?))
        .with_context(|| format!("make map {name}"))
}

/// Unpins a map that is not what the programs were made for: key size, value size and entries. The programs that stand keep it
/// until they are swapped for those with the new one, which is filled first. Flows are lost with it, and no connection:
/// ztunnel looks up its sockets first.
fn drop_unlike(pin: &Path, wanted: [u32; 3]) -> anyhow::Result<()> {
    if !pin.exists() {
        return Ok(());
    }
    let info = MapInfo::from_pin(pin).with_context(|| format!("look at the pinned map {}", pin.display()))?;
    let found = [info.key_size(), info.value_size(), info.max_entries()];
    if found != wanted {
        tracing::info!(pin = %pin.display(), ?found, ?wanted, "a pinned map is of another layout and is made anew");
        file::remove(pin).with_context(|| format!("unpin {}", pin.display()))?;
    }
    Ok(())
}

fn load_programs(ebpf: &mut Ebpf) -> anyhow::Result<Programs> {
    let mut programs = Programs::default();
    for name in PROGRAMS {
        let program = classifier(ebpf, name)?;
        load_program(name, program)?;
        // The switch is not to be seen in a namespace other than the first (`sysctl_core_init`, net/core/sysctl_net_core.c).
        let compiled = program.info().with_context(|| format!("look at program {name}"))?.size_jitted();
        ensure!(compiled > 0, "the kernel does not compile BPF programs (net.core.bpf_jit_enable is 0)");
        programs.add(name, program)?;
    }
    Ok(programs)
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))?.try_into()?)
}

fn load_program(name: &str, program: &mut SchedClassifier) -> anyhow::Result<()> {
    write(&format!("load {name}"), || Ok(program.load()?))
        .with_context(|| format!("the kernel does not take program {name}"))
}

fn choose(attach: TcAttach, programs: &Programs) -> anyhow::Result<AttachKind> {
    let try_kind = |kind| program::probe(kind, programs).with_context(|| format!("attach programs by {kind}"));
    match attach {
        TcAttach::Tcx => try_kind(AttachKind::Tcx).map(|()| AttachKind::Tcx),
        TcAttach::Clsact => try_kind(AttachKind::Clsact).map(|()| AttachKind::Clsact),
        TcAttach::Auto => {
            // Twice: the kernel may be short of something just then, and filters would be behind all that others attach by TCX.
            let again = |error| {
                tracing::info!(error = format!("{error:#}"), "TCX is tried once more");
                try_kind(AttachKind::Tcx)
            };
            let Err(tcx) = try_kind(AttachKind::Tcx).or_else(again) else { return Ok(AttachKind::Tcx) };
            let Err(clsact) = try_kind(AttachKind::Clsact) else { return Ok(AttachKind::Clsact) };
            bail!("{tcx:#}; {clsact:#}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_map_of_the_object_is_pinned() {
        let object = Object::parse(OBJECT).unwrap();
        let maps: BTreeSet<_> = object.maps.keys().map(String::as_str).collect();
        assert_eq!(maps, BTreeSet::from(name::ALL));
    }
}
