//! Installs what the machine lacks. Everything here can be repeated, and then only looks.

use anyhow::Result;

use crate::kernels::{Kernel, MATRIX};
use crate::workspace::Workspace;
use crate::{deny, ebpf, guest, packages, progress};

/// Everything that any command needs.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    packages::install(packages::BASE)?;
    packages::install(packages::IMAGE)?;
    ebpf::prepare(workspace)?;
    deny::prepare(workspace)?;
    guest::prepare()?;
    for series in MATRIX {
        let kernel = Kernel::get(workspace, series)?;
        progress::say(format!("kernel {}: {}", series.name, kernel.release));
    }
    progress::say("everything is there");
    Ok(())
}
