//! When to look: when a file in one of the two folders is written, moved or removed, every few seconds in any case, and after
//! a repair not before a pause, which grows while others write against us.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use redirect_cni::client::ask;
use redirect_cni::conflist::replace::PREFIX;
use redirect_cni::deadline::Deadline;
use redirect_cni::protocol::Request;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::pass::Passed;
use super::{Install, Places};
use crate::backoff::Backoff;

/// How often the files are looked at without an event.
const LOOK: Duration = Duration::from_secs(5);
/// The longest pause after a repair. Pods that start meanwhile start past the plugin.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the agent may take to answer its own plugin, and between two questions.
const ANSWER: Duration = Duration::from_secs(2);
const ASK: Duration = Duration::from_millis(200);

/// Puts the plugin in when the agent answers it, and keeps it there. Never ends.
pub(crate) async fn keep(install: Arc<Install>) {
    if install.wanted.is_some() {
        answered(&install).await;
        follow(&install).await;
    }
    std::future::pending::<()>().await;
}

/// Any answer will do, also that pods cannot start yet: from then on they wait, and none starts unnoticed.
async fn answered(install: &Arc<Install>) {
    loop {
        let asked = Arc::clone(install);
        let answer = spawn_blocking(move || {
            let socket = asked.wanted.as_ref().map(|wanted| wanted.entry.socket.clone()).unwrap_or_default();
            ask(&socket, &Request::Status, Deadline::after(ANSWER))
        });
        match answer.await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => install.unanswered(&error.to_string()),
            Err(error) => install.unanswered(&error.to_string()),
        }
        sleep(ASK).await;
    }
}

async fn follow(install: &Arc<Install>) {
    let sweeping = Arc::clone(install);
    drop(spawn_blocking(move || sweeping.sweep()).await);
    let mut watch = Watch::new(&install.places);
    let mut pause = Backoff::default();
    loop {
        let looking = Arc::clone(install);
        let before = install.status().1;
        let passed = spawn_blocking(move || looking.pass()).await;
        let after = install.status().1;
        if let Some(problem) = after.filter(|problem| before.as_ref() != Some(problem)) {
            tracing::warn!(object = problem.object, "{}", problem.message);
        }
        match passed {
            Ok(Passed::Over) => return,
            Ok(Passed::Repaired) => sleep(pause.after_failure(Instant::now()).min(PAUSE)).await,
            Ok(Passed::Failed) => {
                // What failed half-way was an event, too.
                sleep(ASK).await;
                watch.event().await;
            }
            _ => watch.event().await,
        }
    }
}

/// The two folders' events, if they can be had; else only the timer.
struct Watch<'a> {
    places: &'a Places,
    events: Option<EventStream<Vec<u8>>>,
}

impl<'a> Watch<'a> {
    fn new(places: &'a Places) -> Self {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; 16 << 10]));
        let events = events.context("follow the CNI folders");
        if let Err(error) = &events {
            tracing::warn!(error = format!("{error:#}"), "they are looked at every few seconds");
        }
        let mut watch = Self { places, events: events.ok() };
        watch.add();
        watch
    }

    /// Also again and again: a folder that was removed and made anew has no watch.
    fn add(&mut self) {
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ATTRIB;
        if let Some(events) = &mut self.events {
            for folder in [&self.places.bin, &self.places.conf] {
                drop(events.watches().add(folder, mask | WatchMask::ONLYDIR));
            }
        }
    }

    /// The next event that is not of our own making, or the timer's.
    async fn event(&mut self) {
        let timer = sleep(LOOK);
        tokio::pin!(timer);
        loop {
            let Some(events) = &mut self.events else { return timer.await };
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) if event.name.as_deref().is_some_and(is_temporary) => {}
                    Some(Ok(_)) => return,
                    _ => self.events = None,
                },
                () = &mut timer => return self.add(),
            }
        }
    }
}

/// Each write of ours would wake us.
fn is_temporary(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PREFIX)
}
