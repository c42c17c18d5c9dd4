//! Loading the object, and running its programs on bytes.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TestRun, TestRunOptions};
use aya::sys::SyscallError;
use aya::{Ebpf, EbpfLoader};
use redirect_common::maps::COUNTERS;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::context::Context;
use super::program::Program;

/// Where the object is. `cargo xtask` sets it; by hand: `REDIRECT_BPF_OBJECT=$(cargo xtask build-ebpf)`.
const OBJECT: &str = "REDIRECT_BPF_OBJECT";

/// The object, loaded: its maps are its own and go with it.
#[derive(Debug)]
pub struct Object {
    ebpf: Ebpf,
}

/// What came of running a program on a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// What the program returned.
    pub action: i32,
    /// The packet's mark afterwards.
    pub mark: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// What a program is given.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// From the Ethernet header on.
    pub frame: &'a [u8],
    /// The packet's mark before.
    pub mark: u32,
    /// Index of the device where it arrived; 0 for what a local socket sends.
    pub ingress: u32,
}

/// The path that the environment names.
pub fn path() -> Result<PathBuf> {
    let path = env::var_os(OBJECT).with_context(|| format!("{OBJECT} does not say where the BPF object is"))?;
    Ok(PathBuf::from(path))
}

/// The object's bytes.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Kernels before 5.11 charge maps to the limit of locked memory.
pub(super) fn lift_limits() {
    // Newer ones do not ask, and older ones say so themselves when it is too low.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}

impl Object {
    /// Makes the maps and loads all programs.
    pub fn load() -> Result<Self> {
        lift_limits();
        let mut ebpf = EbpfLoader::new().load(&read(&path()?)?).context("create the maps")?;
        for program in Program::ALL {
            let loaded = classifier(&mut ebpf, program)?.load();
            loaded.with_context(|| format!("the kernel does not take {program}"))?;
        }
        Ok(Self { ebpf })
    }

    /// Runs a program on a packet once. `None` if this kernel runs no program on such bytes: kernels since 6.1.8 want
    /// something behind the Ethernet header, some later ones a whole IP header (`bpf_prog_test_run_skb`).
    pub fn run(&self, program: Program, given: Given<'_>) -> Result<Option<Ran>> {
        let context = Context { mark: given.mark, ingress_ifindex: given.ingress }.bytes();
        let mut context_out = [0; Context::ROOM];
        let mut frame = vec![0; given.frame.len()];
        let options = TestRunOptions {
            data_in: Some(given.frame),
            data_out: Some(&mut frame),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        };
        match self.classifier(program)?.test_run(options) {
            Ok(result) => {
                let action = result.return_value.cast_signed();
                Ok(Some(Ran { action, mark: Context::mark_of(&context_out), frame }))
            }
            Err(error) if is_invalid(&error) => Ok(None),
            Err(error) => Err(anyhow!(error).context(format!("run {program}"))),
        }
    }

    /// Runs a program on a packet many times, and says how long one run took.
    pub fn time(&self, program: Program, given: Given<'_>, repeat: u32) -> Result<Duration> {
        let context = Context { mark: given.mark, ingress_ifindex: given.ingress }.bytes();
        let options =
            TestRunOptions { data_in: Some(given.frame), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
        let result = self.classifier(program)?.test_run(options).with_context(|| format!("run {program}"))?;
        Ok(result.duration)
    }

    /// Packets by counter, of all processors.
    pub fn counts(&self) -> Result<Vec<u64>> {
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map("COUNTS")?)?;
        (0..COUNTERS).map(|index| Ok(counts.get(&index, 0)?.iter().sum())).collect()
    }

    /// As aya has it.
    pub(super) fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    /// What the kernel says of a program.
    pub(super) fn info(&self, program: Program) -> Result<ProgramInfo> {
        self.classifier(program)?.info().with_context(|| format!("ask about {program}"))
    }

    pub(super) fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        HashMap::try_from(self.map_mut(name)?).with_context(|| format!("the map {name}"))
    }

    pub(super) fn array<V: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Array::try_from(self.map_mut(name)?).with_context(|| format!("the map {name}"))
    }

    /// Empties a hash map.
    pub(super) fn clear<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> Result<()> {
        let mut map: HashMap<_, K, V> = self.hash(name)?;
        let keys = map.keys().collect::<Result<Vec<K>, MapError>>().with_context(|| format!("list {name}"))?;
        for key in keys {
            map.remove(&key).with_context(|| format!("empty {name}"))?;
        }
        Ok(())
    }

    fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).with_context(|| format!("no map {name}"))
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn classifier(&self, program: Program) -> Result<&SchedClassifier> {
        let found = self.ebpf.program(program.name()).with_context(|| format!("no program {program}"))?;
        Ok(found.try_into()?)
    }
}

pub(super) fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut(program.name()).with_context(|| format!("no program {program}"))?.try_into()?)
}

fn is_invalid(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(SyscallError { io_error, .. }) = error else { return false };
    io_error.kind() == io::ErrorKind::InvalidInput
}
