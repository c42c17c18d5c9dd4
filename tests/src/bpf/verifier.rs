//! What the kernel's verifier says of the programs: what each costs to verify, and how big it is.
//!
//! aya shows the verifier's log only where it refuses, and kernels before 5.16 tell the cost nowhere else: so each program is
//! loaded a second time here, with the log.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::Map;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};
use nix::libc::{SYS_bpf, syscall};
use serde::Serialize;

use super::object::{self, Object};
use super::program::Program;

/// `BPF_LOG_STATS` (`include/linux/bpf_verifier.h`): the numbers, and not every step.
const STATISTICS: u32 = 4;
const LOG_LEN: usize = 1 << 16;

/// One program on the kernel at hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verified {
    /// Its name.
    pub program: &'static str,
    /// Instructions that the verifier went through, on all paths.
    pub instructions: u64,
    /// Bytes of stack: of the program and of each of its functions.
    pub stack: Vec<u64>,
    /// Bytes of what the kernel made of it.
    pub translated: u32,
    /// Bytes of machine code; 0 without the compiler.
    pub compiled: u32,
    /// Maps that it uses.
    pub maps: usize,
}

/// All programs of the object.
pub fn verify() -> Result<Vec<Verified>> {
    let object = Object::load()?;
    let again = parse(object.ebpf())?;
    Program::ALL.into_iter().map(|program| one(&object, &again, program)).collect()
}

fn one(object: &Object, again: &aya_obj::Object, program: Program) -> Result<Verified> {
    let info = object.info(program)?;
    let found = again.programs.get(program.name()).with_context(|| format!("no program {program}"))?;
    let code = again.functions.get(&found.function_key()).with_context(|| format!("{program} has no code"))?;
    let log = log_of(&code.instructions, &found.license).with_context(|| format!("load {program}"))?;
    let (instructions, stack) = read(&log).with_context(|| format!("the verifier says of {program}: {log}"))?;
    Ok(Verified {
        program: program.name(),
        instructions,
        stack,
        translated: info.size_translated().unwrap_or_default(),
        compiled: info.size_jitted(),
        maps: info.map_ids()?.map_or(0, |maps| maps.len()),
    })
}

/// The object once more, with the same maps.
fn parse(ebpf: &Ebpf) -> Result<aya_obj::Object> {
    let mut parsed = aya_obj::Object::parse(&object::read(&object::path()?)?).context("parse the object")?;
    let text: HashSet<usize> = parsed.functions.keys().map(|(section, _)| *section).collect();
    let known = parsed.maps.clone();
    let maps = ebpf.maps().map(|(name, map)| {
        let shape = known.get(name).with_context(|| format!("the object has no map {name}"))?;
        Ok((name, fd(map)?, shape))
    });
    let maps = maps.collect::<Result<Vec<_>>>()?;
    parsed.relocate_maps(maps.into_iter(), &text).context("name the maps")?;
    parsed.relocate_calls(&text).context("put the functions together")?;
    Ok(parsed)
}

fn fd(map: &Map) -> Result<RawFd> {
    match map {
        Map::Array(map) | Map::HashMap(map) | Map::LruHashMap(map) | Map::PerCpuArray(map) | Map::RingBuf(map) => {
            Ok(map.fd().as_fd().as_raw_fd())
        }
        other => bail!("a map of a kind that no program has: {other:?}"),
    }
}

/// Loads a program and gives what the verifier says, whether it takes it or not.
fn log_of(code: &[bpf_insn], license: &CStr) -> Result<String> {
    let mut log = vec![0_u8; LOG_LEN];
    // SAFETY: it is integers all through, for which zero is a value.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: as above, so each member of the union can be read and written.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.insns = code.as_ptr() as u64;
    load.insn_cnt = u32::try_from(code.len()).context("too long for a program")?;
    load.license = license.as_ptr() as u64;
    load.log_level = STATISTICS;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = u32::try_from(log.len()).context("too long for a log")?;
    // SAFETY: what the structure points to outlives the call, and the lengths are theirs.
    let loaded = unsafe { syscall(SYS_bpf, bpf_cmd::BPF_PROG_LOAD as u32, &raw mut attr, size_of::<bpf_attr>()) };
    let error = io::Error::last_os_error();
    let text = CStr::from_bytes_until_nul(&log).map_or_else(|_| CString::default(), CStr::to_owned);
    let text = text.to_string_lossy().into_owned();
    match RawFd::try_from(loaded) {
        Ok(fd @ 0..) => {
            // SAFETY: the kernel has just given it to us.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            Ok(text)
        }
        _ => Err(anyhow!(error).context(text)),
    }
}

/// `print_verification_stats` (`kernel/bpf/verifier.c`): `stack depth 136+40` and `processed 1234 insns (limit 1000000) ...`.
fn read(log: &str) -> Option<(u64, Vec<u64>)> {
    let after = |words: &str| log.lines().find_map(|line| line.strip_prefix(words));
    let instructions = after("processed ")?.split(' ').next()?.parse().ok()?;
    let depths = after("stack depth ")?;
    // Newer kernels say `stack depth max 176`, and of each function in lines of its own.
    let depths = depths.strip_prefix("max ").unwrap_or(depths).split_whitespace().next()?;
    Some((instructions, depths.split('+').map(str::parse).collect::<Result<_, _>>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read() {
        let log = "verification time 300 usec\nstack depth 136+40\nprocessed 412 insns (limit 1000000) max_states 2\n";
        assert_eq!(read(log), Some((412, vec![136, 40])));
        assert_eq!(read("stack depth max 176\nprocessed 412 insns (limit 1000000)\n"), Some((412, vec![176])));
        assert_eq!(read("stack depth 8\n"), None);
    }
}
