//! Boots a guest and watches over it until it ends: by itself, by its deadline, or because its kernel broke.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use redirect_init::wire::{ACKNOWLEDGE, Frame};

use super::emulator::Emulator;
use super::folder::RunFolder;
use super::watch::Watch;
use super::{Guest, Outcome, initramfs, qemu};
use crate::progress;
use crate::workspace::Workspace;

/// How long a broken kernel may go on, so that its log has the whole story.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What the threads that read from a guest tell the one that watches over it.
enum Event {
    Console(Vec<u8>),
    Frame(Frame),
    Stderr(String),
    /// The port to `redirect-init` was closed: QEMU ended.
    Closed,
}

/// How long a guest may take until our programs run in it: ten times what a busy machine needs. A kernel that has lost its clock says no more.
const BOOT: Duration = Duration::from_mins(5);
/// How often a guest is started that breaks before any of our programs has run in it: that is the emulator's doing.
const STARTS: u32 = 2;

/// Runs `guest` to its end.
pub(super) fn run(guest: &Guest, workspace: &Workspace, output: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
    let folder = RunFolder::new(workspace)?;
    let archive = folder.path().join("initramfs");
    initramfs::write(guest, workspace, &archive)?;
    let log = workspace.cache("vm/logs")?.join(format!("{}.kernel.log", guest.name));
    let emulator = Emulator::get()?;
    let mut left = STARTS;
    loop {
        left -= 1;
        let mut session = Session::start(qemu::command(&emulator, guest, &archive), guest.deadline, &log)?;
        let ended = session.watch(output);
        session.stop();
        match ended {
            Ok(outcome) => return Ok(outcome),
            Err(error) if left > 0 && session.broke_while_booting() => {
                progress::say(format!("{error:#} while it booted; it is started once more"));
            }
            // What went wrong comes first, then the log that may say why.
            Err(error) => bail!("{error:#}\n{}", session.story(&log)),
        }
    }
}

struct Session {
    qemu: Child,
    port: UnixStream,
    events: Receiver<Event>,
    started: Instant,
    deadline: Instant,
    /// How long it took until the command was started, if it was.
    boot: Option<Duration>,
    /// Whether the machine is at fault: its kernel broke or did not come up, or QEMU has ended by itself, as it does now and then in its first
    /// seconds (`iotlb_to_section: Assertion … failed`).
    broke: bool,
    watch: Watch,
    log: File,
    stderr: String,
}

impl Session {
    fn start(mut command: Command, deadline: Duration, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let (console, console_of_qemu) = UnixStream::pair().context("make a socket")?;
        let (port, port_of_qemu) = UnixStream::pair().context("make a socket")?;
        command.stdin(OwnedFd::from(console_of_qemu)).stdout(OwnedFd::from(port_of_qemu)).stderr(Stdio::piped());
        let started = Instant::now();
        let mut qemu = command.spawn().context("start QEMU by setpriv")?;
        // With the command go our copies of QEMU's ends; otherwise we would never see them closed.
        drop(command);
        let (sender, events) = channel();
        if let Some(stderr) = qemu.stderr.take() {
            read_stderr(stderr, sender.clone());
        }
        read_console(console, sender.clone());
        read_frames(port.try_clone().context("share a socket")?, sender);
        let deadline = started + deadline;
        let (watch, stderr) = (Watch::default(), String::new());
        Ok(Self { qemu, port, events, started, deadline, boot: None, broke: false, watch, log, stderr })
    }

    fn watch(&mut self, output: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
        loop {
            match self.next()? {
                Event::Frame(Frame::Ready) => self.boot = Some(self.started.elapsed()),
                Event::Frame(Frame::Output(bytes)) => output(&bytes),
                Event::Frame(Frame::Failed(text)) => {
                    self.acknowledge()?;
                    bail!("the guest could not be prepared: {text}");
                }
                Event::Frame(Frame::Exit(status)) => {
                    self.acknowledge()?;
                    let total = self.started.elapsed();
                    return Ok(Outcome { status, boot: self.boot.unwrap_or(total), total });
                }
                Event::Closed => {
                    self.broke = true;
                    bail!("the guest ended before its command did");
                }
                Event::Console(_) | Event::Stderr(_) => {}
            }
        }
    }

    /// The next event. A kernel that broke, and a deadline that passed, are errors.
    fn next(&mut self) -> Result<Event> {
        let boots_until = self.started + BOOT;
        let until = if self.boot.is_none() { self.deadline.min(boots_until) } else { self.deadline };
        let event = match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(event) => event,
            Err(RecvTimeoutError::Disconnected) => Event::Closed,
            Err(RecvTimeoutError::Timeout) if until < self.deadline => {
                self.broke = true;
                bail!("the guest took longer than {} s", BOOT.as_secs());
            }
            Err(RecvTimeoutError::Timeout) => bail!("killed after {} s", self.started.elapsed().as_secs()),
        };
        self.note(&event);
        if let Some(sign) = self.watch.broken() {
            self.broke = true;
            let error = anyhow!("the guest's kernel broke: {sign}");
            self.collect(LAST_WORDS);
            return Err(error);
        }
        Ok(event)
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Console(bytes) => {
                self.watch.take(bytes);
                // The log is for people; the watch has what decides.
                let _ = self.log.write_all(bytes);
            }
            Event::Stderr(text) => self.stderr.push_str(text),
            _ => {}
        }
    }

    fn collect(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while let Ok(event) = self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.note(&event);
        }
    }

    fn broke_while_booting(&self) -> bool {
        self.boot.is_none() && self.broke
    }

    fn acknowledge(&mut self) -> Result<()> {
        self.port.write_all(&[ACKNOWLEDGE]).context("answer the guest")
    }

    /// Ends the machine. All that matters has been read; it need not power off in its own time.
    fn stop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        self.collect(LAST_WORDS);
    }

    /// What to read when something went wrong.
    fn story(&self, log: &Path) -> String {
        let (end, stderr) = (self.watch.end(), self.stderr.trim());
        let stderr = if stderr.is_empty() { String::new() } else { format!("QEMU says: {stderr}\n") };
        format!("end of the kernel's log ({}):\n{end}\n{stderr}", log.display())
    }
}

fn read_stderr(mut from: ChildStderr, to: Sender<Event>) {
    thread::spawn(move || {
        let mut text = String::new();
        let _ = from.read_to_string(&mut text);
        let _ = to.send(Event::Stderr(text));
    });
}

fn read_console(mut from: UnixStream, to: Sender<Event>) {
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 14];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if to.send(Event::Console(bytes[..count].to_vec())).is_err() {
                return;
            }
        }
    });
}

fn read_frames(mut from: UnixStream, to: Sender<Event>) {
    thread::spawn(move || {
        while let Ok(Some(frame)) = Frame::read(&mut from) {
            if to.send(Event::Frame(frame)).is_err() {
                return;
            }
        }
        let _ = to.send(Event::Closed);
    });
}
