//! What an agent holds: descriptors, memory, and objects of the kernel's.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, ensure};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};
use redirect_lab::lab::Lab;

/// Counted at one time. Nobody else in the guest has BPF objects.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    descriptors: usize,
    maps: usize,
    programs: usize,
    links: usize,
    /// Resident set, in units of 1024 bytes.
    resident: u64,
}

/// The allocator need not give back all that it has: so many parts of a hundred, and units of 1024 bytes, may be more.
const MORE_PERCENT: u64 = 10;
const MORE: u64 = 2048;

impl Held {
    /// Of a figure that it is.
    pub(crate) const COLUMNS: &str = "descriptors | maps | programs | links | resident KiB";

    pub(crate) fn by(lab: &Lab) -> Result<Self> {
        let process = format!("/proc/{}", lab.agent().context("there is no agent")?.pid);
        Ok(Self {
            descriptors: fs::read_dir(format!("{process}/fd"))?.count(),
            maps: loaded_maps().collect::<Result<Vec<_>, _>>()?.len(),
            programs: loaded_programs().collect::<Result<Vec<_>, _>>()?.len(),
            links: loaded_links().collect::<Result<Vec<_>, _>>()?.len(),
            resident: resident(&process)?,
        })
    }

    pub(crate) fn is_no_less_than(&self, after: &Self) -> Result<()> {
        let most = self.resident + self.resident * MORE_PERCENT / 100 + MORE;
        let same = |what: &Self| (what.descriptors, what.maps, what.programs, what.links);
        ensure!(same(self) == same(after) && after.resident <= most, "before: {self}; now: {after}");
        Ok(())
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, maps, programs, links, resident } = self;
        write!(f, "{descriptors} | {maps} | {programs} | {links} | {resident}")
    }
}

/// `VmRSS` of `proc_pid_status(5)`.
fn resident(process: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(number.parse()?)
}
