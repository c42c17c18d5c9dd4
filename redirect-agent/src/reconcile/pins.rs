//! Listens to what happens where programs and maps are pinned: the bpf file system tells of it as any other does
//! (`vfs_unlink`, fs/namei.c; `bpf_obj_do_pin`, kernel/bpf/inode.c).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use inotify::{Inotify, WatchMask, Watches};
use tokio::task::AbortHandle;

use super::cause::{Cause, Classes};
use super::doorbell::Doorbell;
use crate::bpf;

/// Only the fact that something came is of interest.
const BUFFER: usize = 4096;

/// Follows the folders of the pins until it is dropped.
pub(super) struct Watch {
    watches: Watches,
    folders: Vec<PathBuf>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Rings `doorbell` whenever something changes in the folders of pins below `dir`. Without it the timer notices.
pub(super) fn watch(dir: &Path, doorbell: &Arc<Doorbell>) -> Option<Watch> {
    let events = Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; BUFFER]));
    let mut events = match events {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(%error, "pins cannot be followed; the timer looks at them");
            return None;
        }
    };
    let (watches, doorbell) = (events.watches(), Arc::clone(doorbell));
    let task = tokio::spawn(async move {
        while let Some(Ok(_)) = events.next().await {
            doorbell.ring(Cause::node(Classes::PROGRAMS));
        }
    });
    let mut watch = Watch { watches, folders: bpf::folders(dir).to_vec(), task: task.abort_handle() };
    watch.renew();
    Some(watch)
}

impl Watch {
    /// Follows those that were made anew. One that is followed already stays so (`inotify_add_watch(2)`).
    pub(super) fn renew(&mut self) {
        let changes = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ATTRIB;
        for folder in &self.folders {
            // One that is not there has no pins, and the run after it is made follows it.
            drop(self.watches.add(folder, changes | WatchMask::ONLYDIR));
        }
    }
}
