//! A program of someone else on a device, one of the object's that do nothing. The kernel counts its runs.

use std::path::Path;
use std::{fmt, fs, mem};

use anyhow::{Context, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use redirect_common::maps::name;

use crate::command::Cmd;
use crate::mode::Attach;
use crate::netns::Netns;
use crate::programs::{Hook, clsact_devices, object};

/// Maps of the object that a program without maps need not have at their size.
const LARGE: [&str; 2] = [name::FLOWS, name::DATAGRAMS];
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// What it says of every packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Those behind it may say (`TC_ACT_UNSPEC`).
    Next,
    /// It may pass, and nobody else is asked (`TC_ACT_OK`).
    Final,
}

impl Verdict {
    const fn program(self) -> &'static str {
        match self {
            Self::Next => "empty",
            Self::Final => "ends",
        }
    }
}

/// Where it comes to stand among those of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// There before the agent.
    Early,
    /// Ahead of all that are there.
    First,
    /// Behind all that are there.
    Last,
}

impl Place {
    fn options(self, attach: Attach) -> TcAttachOptions {
        let priority = match self {
            Self::First => 1,
            Self::Early => 2,
            Self::Last => u16::MAX,
        };
        match (attach, self) {
            (Attach::Clsact, _) => TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() }),
            (Attach::Tcx, Self::First) => TcAttachOptions::TcxOrder(LinkOrder::first()),
            (Attach::Tcx, Self::Early | Self::Last) => TcAttachOptions::TcxOrder(LinkOrder::last()),
        }
    }
}

/// Puts a program that does nothing in the place of the one that the pinned link attaches. It stays with the link.
pub fn take_over(pin: &Path) -> Result<()> {
    let mut ebpf = load()?;
    let program: &mut SchedClassifier =
        ebpf.program_mut(Verdict::Next.program()).context("no such program")?.try_into()?;
    program.load().context("the kernel does not take the program")?;
    let pinned = PinnedLink::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
    let swapped = program.attach_to_link(FdLink::from(pinned).try_into()?);
    swapped.map(drop).with_context(|| format!("cannot swap the program of {}", pin.display()))
}

/// A filter of the agent's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    device: String,
    hook: Hook,
    priority: u16,
}

impl Filter {
    /// The handle of the agent's filters; `docs/agent.md` names it.
    const HANDLE: TcHandle = TcHandle::new(0, 0x7264);
    /// What its programs are called the agent takes for its own; this one has maps that nobody fills.
    const OTHER: &str = "redirect_from_ip";

    /// From what `tc` calls them.
    #[must_use]
    pub fn new(device: &str, hook: &str, priority: &str) -> Option<Self> {
        let hook = Hook::ALL.into_iter().find(|known| known.name() == hook)?;
        Some(Self { device: device.to_owned(), hook, priority: priority.parse().ok()? })
    }

    /// Puts another program of the object's in its place, as an agent of another version would. It stays.
    pub fn take_over(&self, netns: &Netns) -> Result<()> {
        let Self { device, hook, priority } = self;
        let mut ebpf = load()?;
        let program: &mut SchedClassifier = ebpf.program_mut(Self::OTHER).context("no such program")?.try_into()?;
        program.load().context("the kernel does not take the program")?;
        let swapped = netns.run(|| -> Result<_> {
            let link = SchedClassifierLink::attached(device, hook.attach_type(), *priority, Self::HANDLE, None)?;
            Ok(program.attach_to_link(link)?)
        })?;
        let id = swapped.with_context(|| format!("cannot swap the program of {device} {hook:?} {priority}"))?;
        mem::forget(program.take_link(id)?);
        Ok(())
    }
}

/// An attached program. By TCX it goes with the value; a filter may stay, unless it is detached.
#[derive(Debug)]
pub struct Foreign {
    what: String,
    verdict: Verdict,
    netns: Netns,
    ebpf: Ebpf,
}

impl Foreign {
    /// Attaches another one.
    pub fn attach(
        netns: &Netns,
        device: &str,
        hook: Hook,
        attach: Attach,
        place: Place,
        verdict: Verdict,
    ) -> Result<Self> {
        let what = format!("the {place:?} program by {attach} on {device} {hook:?}");
        let mut ebpf = load()?;
        let name = verdict.program();
        let program: &mut SchedClassifier = ebpf.program_mut(name).context("no such program")?.try_into()?;
        program.load().context("the kernel does not take the program")?;
        if attach == Attach::Clsact && !clsact_devices(netns)?.iter().any(|other| other == device) {
            Cmd::line("tc qdisc add dev").args([device, "clsact"]).netns(netns).run()?;
        }
        netns
            .run(|| program.attach_with_options(device, hook.attach_type(), place.options(attach)))?
            .with_context(|| format!("cannot attach {what}"))?;
        Ok(Self { what, netns: netns.clone(), verdict, ebpf })
    }

    /// Takes it away. That of a filter is a request to the netns that one is in.
    pub fn detach(self) -> Result<()> {
        let Self { netns, ebpf, .. } = self;
        netns.run(move || drop(ebpf))
    }

    /// Its number in the kernel.
    pub fn id(&self) -> Result<u32> {
        Ok(self.program()?.info()?.id())
    }

    /// How often it has run.
    pub fn runs(&self) -> Result<u64> {
        Ok(self.program()?.info()?.run_count())
    }

    fn program(&self) -> Result<&SchedClassifier> {
        Ok(self.ebpf.program(self.verdict.program()).context("no such program")?.try_into()?)
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

fn load() -> Result<Ebpf> {
    let path = object()?;
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut loader = EbpfLoader::new();
    for map in LARGE {
        loader.map_max_entries(map, 1024);
    }
    loader.load(&bytes).context("cannot create the maps")
}

/// The kernel counts runs of programs until the value goes.
#[derive(Debug)]
pub struct Statistics(String);

impl Statistics {
    /// From now on.
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).with_context(|| format!("cannot read {STATISTICS}"))?;
        fs::write(STATISTICS, "1").with_context(|| format!("cannot write {STATISTICS}"))?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATISTICS, &self.0) {
            eprintln!("{STATISTICS} stays 1: {error}");
        }
    }
}
