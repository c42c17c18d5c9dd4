//! The tc programs on the devices of a netns, in the order in which they run. The kernel is asked, not the agent.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use nix::net::if_::if_nameindex;
use serde::Deserialize;

use crate::command::Cmd;
use crate::mode::Attach;
use crate::netns::Netns;

/// Where the BPF object is. `cargo xtask` sets it; by hand: `REDIRECT_BPF_OBJECT=$(cargo xtask build-ebpf)`.
pub const OBJECT_VARIABLE: &str = "REDIRECT_BPF_OBJECT";
/// What the names of the agent's programs start with. The kernel keeps 15 bytes of a name.
const OURS: &str = "redirect_";
/// How often a hook is looked at again because a program was replaced between its number being read and its name.
const LOOKS: usize = 10;

/// The BPF object that the environment names.
pub fn object() -> Result<PathBuf> {
    let path = std::env::var_os(OBJECT_VARIABLE);
    path.map(PathBuf::from).with_context(|| format!("{OBJECT_VARIABLE} does not say where the BPF object is"))
}

/// A direction, seen from the node's stack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// What the device receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As `tc` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// As aya names it.
    #[must_use]
    pub const fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// A program on a hook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hung {
    /// The device.
    pub device: String,
    /// Which of its hooks.
    pub hook: Hook,
    /// How it is attached.
    pub attach: Attach,
    /// Place among filters, for [`Attach::Clsact`].
    pub priority: Option<u32>,
    /// Its number in the kernel; a program that was swapped has another one.
    pub id: u32,
    /// Its name, as far as the kernel keeps it.
    pub name: String,
}

impl Hung {
    /// Whether it is one of the agent's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name.starts_with(OURS)
    }
}

/// Without the number, which differs from one load to the next.
impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, hook, attach, priority, name, .. } = self;
        let priority = priority.map(|priority| format!(" {priority}")).unwrap_or_default();
        write!(f, "{device} {} {attach}{priority} {name}", hook.name())
    }
}

/// Every program on every device: of one hook first those of TCX, then the filters (`sch_handle_ingress`, net/core/dev.c).
pub fn hung(netns: &Netns) -> Result<Vec<Hung>> {
    hung_on(netns, &devices(netns)?)
}

/// The same for these devices only.
pub fn hung_on(netns: &Netns, devices: &[String]) -> Result<Vec<Hung>> {
    let with_clsact = clsact_devices(netns)?;
    let mut all = Vec::new();
    for device in devices {
        for hook in Hook::ALL {
            all.extend(links(netns, device, hook)?);
            if with_clsact.contains(device) {
                all.extend(filters(netns, device, hook)?);
            }
        }
    }
    Ok(all)
}

/// All of it as text: a line per qdisc, and a line per program.
pub fn text(netns: &Netns) -> Result<String> {
    let qdiscs = clsact_devices(netns)?.into_iter().map(|device| format!("{device} clsact\n"));
    let programs = hung(netns)?.into_iter().map(|hung| format!("{hung}\n"));
    let mut lines: Vec<_> = qdiscs.collect();
    lines.sort();
    Ok(lines.into_iter().chain(programs).collect())
}

/// Names of the devices of a netns, in their order: that of indices is another one when a device was made again.
pub fn devices(netns: &Netns) -> Result<Vec<String>> {
    let mut names = netns.run(|| {
        let all = if_nameindex()?;
        Ok::<_, nix::Error>(all.iter().map(|device| device.name().to_string_lossy().into_owned()).collect::<Vec<_>>())
    })??;
    names.sort();
    Ok(names)
}

#[derive(Deserialize)]
struct Qdisc {
    kind: String,
    dev: String,
}

/// The devices that have the qdisc which filters hang on.
pub fn clsact_devices(netns: &Netns) -> Result<Vec<String>> {
    let text = Cmd::line("tc -j qdisc show").netns(netns).run()?;
    let all: Vec<Qdisc> = serde_json::from_str(&text).with_context(|| format!("tc says {text:?}"))?;
    Ok(all.into_iter().filter(|qdisc| qdisc.kind == "clsact").map(|qdisc| qdisc.dev).collect())
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default)]
    pref: u32,
    #[serde(default)]
    options: FilterOptions,
}

#[derive(Default, Deserialize)]
struct FilterOptions {
    prog: Option<FilterProgram>,
}

#[derive(Deserialize)]
struct FilterProgram {
    id: u32,
    #[serde(default)]
    name: String,
}

/// A filter's program is asked for its name by its number; one that was replaced meanwhile has none. Nor has one that never had.
fn filters(netns: &Netns, device: &str, hook: Hook) -> Result<Vec<Hung>> {
    let mut hung = Vec::new();
    for _ in 0..LOOKS {
        hung = filters_at_once(netns, device, hook)?;
        if hung.iter().all(|hung| !hung.name.is_empty()) {
            break;
        }
    }
    Ok(hung)
}

fn filters_at_once(netns: &Netns, device: &str, hook: Hook) -> Result<Vec<Hung>> {
    let text = Cmd::line("tc -j filter show dev").args([device, hook.name()]).netns(netns).run()?;
    let all: Vec<Filter> = serde_json::from_str(&text).with_context(|| format!("tc says {text:?}"))?;
    let hung = |filter: Filter| {
        let program = filter.options.prog?;
        let (device, priority) = (device.to_owned(), Some(filter.pref));
        Some(Hung { device, hook, attach: Attach::Clsact, priority, id: program.id, name: program.name })
    };
    Ok(all.into_iter().filter_map(hung).collect())
}

fn links(netns: &Netns, device: &str, hook: Hook) -> Result<Vec<Hung>> {
    let ask = || netns.run(|| SchedClassifier::query_tcx(device, hook.attach_type()));
    let mut asked = ask()?;
    for _ in 1..LOOKS {
        if !asked.as_ref().is_err_and(was_replaced) {
            break;
        }
        asked = ask()?;
    }
    let infos = match asked {
        Ok((_, infos)) => infos,
        // Kernels before 6.6 do not know what is asked for; and where nothing was ever attached there is no list.
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("which programs are on {device}")),
    };
    let hung = |info: ProgramInfo| {
        let name = String::from_utf8_lossy(info.name()).into_owned();
        Hung { device: device.to_owned(), hook, attach: Attach::Tcx, priority: None, id: info.id(), name }
    };
    Ok(infos.into_iter().map(hung).collect())
}

/// The list names a program that the kernel no longer has.
fn was_replaced(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(SyscallError { call, io_error }) = error else { return false };
    *call == "bpf_prog_get_fd_by_id" && io_error.raw_os_error() == Some(nix::libc::ENOENT)
}

fn is_absence(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(SyscallError { call, io_error }) = error else { return false };
    let absent = [nix::libc::EINVAL, nix::libc::ENOENT].map(Some);
    *call == "bpf_prog_query" && absent.contains(&io_error.raw_os_error())
}

/// Whether this kernel has TCX: only one that has it can be asked what is attached by it.
pub fn has_tcx(netns: &Netns) -> Result<bool> {
    netns.run(|| SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok())
}
