//! Guests: a kernel, the host's tools and our programs in a virtual machine without a disk, for the time of one command.
//!
//! [`Guest`] says what is wanted; [`Guest::run`] boots it and watches over it. The other end is the package `redirect-init`.

mod emulator;
pub(crate) mod folder;
mod initramfs;
pub(crate) mod libraries;
mod qemu;
mod run;
mod tools;
pub(crate) mod tree;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::kernels::Kernel;
use crate::programs::Programs;
use crate::workspace::Workspace;

/// Gets what emulates guests, if the machine has none that is new enough.
pub(crate) fn prepare() -> Result<()> {
    emulator::Emulator::get().map(drop)
}

/// What a guest is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    kernel: Kernel,
    programs: Programs,
    /// A script for bash.
    command: String,
    copies: Vec<PathBuf>,
    cpus: u8,
    memory_mb: u32,
    network: bool,
    deadline: Duration,
    name: String,
}

/// How a command in a guest ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// The command's exit status.
    pub(crate) status: i32,
    /// From the start until the command was started.
    pub(crate) boot: Duration,
    /// From the start until the end.
    pub(crate) total: Duration,
}

impl Guest {
    /// A guest that runs a bash script.
    pub(crate) fn new(kernel: Kernel, programs: Programs, command: impl Into<String>) -> Self {
        let name = format!("guest-{}-{}", kernel.series.name, std::process::id());
        let deadline = Duration::from_mins(15);
        Self {
            kernel,
            programs,
            command: command.into(),
            copies: Vec::new(),
            cpus: 1,
            memory_mb: 1024,
            network: false,
            deadline,
            name,
        }
    }

    /// Puts files below `/copy`.
    pub(crate) fn copy(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.copies.extend(paths);
        self
    }

    /// How many processors it has, instead of one. Guests share the host's, and an emulated processor that waits for another one
    /// that is not running costs a third of all time. And where one patches code that another is running, as the kernel does for
    /// its static keys, the emulator has let the other trip over what was half written (an `int3` that nobody owned).
    pub(crate) fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// How much memory it has, its files included.
    pub(crate) fn memory_mb(mut self, memory_mb: u32) -> Self {
        self.memory_mb = memory_mb;
        self
    }

    /// Whether it has an interface, `eth0`, behind which the host's loopback address is 10.0.2.2. The guest gives it its address.
    pub(crate) fn network(mut self, network: bool) -> Self {
        self.network = network;
        self
    }

    /// When it is killed, counted from its start.
    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What its kernel's log is called.
    pub(crate) fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Boots it, passes on what the command writes as it comes, and waits for the end. An error means that the command
    /// did not come to its end.
    pub(crate) fn run(&self, workspace: &Workspace, output: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
        run::run(self, workspace, output)
    }
}
