//! The virtio port to the host.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use redirect_init::places::PORT_DEVICE;
use redirect_init::wire::{ACKNOWLEDGE, Frame};

/// For anything that the host or the kernel does in no time, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// The open port.
pub(crate) struct Host {
    port: File,
}

impl Host {
    /// Opens the port. The kernel makes its device some time after it loaded the driver.
    pub(crate) fn open() -> Result<Self> {
        wait_for(Path::new(PORT_DEVICE))?;
        let port = OpenOptions::new().read(true).write(true).open(PORT_DEVICE);
        Ok(Self { port: port.with_context(|| format!("open {PORT_DEVICE}"))? })
    }

    /// Tells the host something.
    pub(crate) fn send(&mut self, frame: &Frame) -> Result<()> {
        frame.write(&mut self.port).context("write to the host")
    }

    /// Waits until the host has read all that was sent.
    pub(crate) fn wait_for_acknowledgement(&mut self) -> Result<()> {
        let mut answer = [0];
        ensure!(readable(&self.port, PATIENCE)?, "the host does not answer");
        self.port.read_exact(&mut answer).context("read from the host")?;
        ensure!(answer == [ACKNOWLEDGE], "the host answers {answer:?}");
        Ok(())
    }
}

fn wait_for(path: &Path) -> Result<()> {
    let folder = path.parent().context("a device is in a folder")?;
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).context("watch for devices")?;
    watch.add_watch(folder, AddWatchFlags::IN_CREATE).context("watch for devices")?;
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !readable(&watch, left)? {
            bail!("the kernel makes no {}", path.display());
        }
        watch.read_events().context("read which device came")?;
    }
    Ok(())
}

fn readable(file: &impl AsFd, patience: Duration) -> Result<bool> {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).context("wait")?;
    Ok(poll(&mut polled, timeout).context("wait")? > 0)
}
