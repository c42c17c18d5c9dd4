//! The first process of a guest. It prepares the guest as a Debian node is prepared, runs one command, tells the host how it
//! ended, and powers off. It serves nothing else: a guest lives as long as its command.

mod command;
mod host;
mod mounts;
mod settings;

use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::reboot::{RebootMode, reboot};
use redirect_init::wire::Frame;

use crate::host::Host;

fn main() -> ExitCode {
    let result = prepare().and_then(run);
    if let Err(error) = result {
        // Standard error is the kernel's console, which the host keeps.
        eprintln!("redirect-init: {error:#}");
    }
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("redirect-init: power off: {error}");
    ExitCode::FAILURE
}

/// Before this is done the host can only be told by the console.
fn prepare() -> Result<Host> {
    mounts::mount_all()?;
    let modules = settings::load_modules();
    // The modules that failed are told to the host, if the one for speaking with it is not among them.
    let mut host = Host::open()?;
    if let Err(error) = modules.and_then(|()| settings::apply()) {
        host.send(&Frame::Failed(format!("{error:#}")))?;
        host.wait_for_acknowledgement()?;
        return Err(error);
    }
    Ok(host)
}

fn run(mut host: Host) -> Result<()> {
    host.send(&Frame::Ready)?;
    let last = match command::run(&mut host) {
        Ok(status) => Frame::Exit(status),
        Err(error) => Frame::Failed(format!("{error:#}")),
    };
    host.send(&last)?;
    host.wait_for_acknowledgement().context("wait until the host has read everything")
}
