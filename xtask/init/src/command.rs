//! Runs the command and passes on what it writes.

use std::io::Read;
use std::process::{Command, Stdio};
use std::{io, thread};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use redirect_init::places::{BPF_OBJECT, BPF_OBJECT_VARIABLE, COMMAND, COPY, PROGRAMS};
use redirect_init::wire::Frame;

use crate::host::Host;

/// Runs it to its end; what it left running in the background ends with it.
pub(crate) fn run(host: &mut Host) -> Result<i32> {
    let (mut reader, writer) = io::pipe().context("make a pipe")?;
    let child = command(writer)?.spawn().context("start bash")?;
    let child = Pid::from_raw(i32::try_from(child.id()).context("number of a process")?);
    let waiter = thread::spawn(move || {
        let status = wait_for(child);
        // Everything but ourselves: whatever still held the pipe lets go of it, and the reader comes to its end.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        status
    });
    let mut bytes = vec![0; 1 << 16];
    loop {
        match reader.read(&mut bytes).context("read what the command writes")? {
            0 => break,
            count => host.send(&Frame::Output(bytes[..count].to_vec()))?,
        }
    }
    waiter.join().unwrap_or(Err(Errno::ECHILD)).context("wait for the command")
}

fn command(output: io::PipeWriter) -> Result<Command> {
    let mut command = Command::new("/usr/bin/bash");
    command.arg(COMMAND).current_dir("/root").env_clear();
    command.env("PATH", format!("{COPY}:{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin"));
    command.envs([("HOME", "/root"), ("USER", "root"), ("TERM", "dumb")]);
    // For panics; an error that is waited away in a loop need not cost a walk of the stack.
    command.envs([("RUST_BACKTRACE", "1"), ("RUST_LIB_BACKTRACE", "0")]);
    command.env(BPF_OBJECT_VARIABLE, BPF_OBJECT);
    let errors = output.try_clone().context("share a pipe")?;
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    Ok(command)
}

/// Waits for the command, and for every orphan that the first process inherits meanwhile.
fn wait_for(child: Pid) -> Result<i32, Errno> {
    loop {
        match wait()? {
            WaitStatus::Exited(pid, status) if pid == child => return Ok(status),
            WaitStatus::Signaled(pid, signal, _) if pid == child => return Ok(128 + signal as i32),
            _ => {}
        }
    }
}
