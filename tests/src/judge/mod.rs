//! The judge for escapes. Clients tell it of each attempt before the first packet; taps see every packet on every link of the node, of the
//! other node and of pods; in the end it says what was where it must not be. It knows how the lab is built and what the design says of
//! the way to the proxy, and shares no code with what decides it.

mod cookie;
mod ledger;
mod spot;
mod tap;
#[cfg(test)]
mod tests;
mod verdict;
pub mod wire;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use rustix::event::{EventfdFlags, eventfd};

pub use cookie::Cookie;
pub use ledger::{Attempt, Sighting};
pub use spot::Spot;
pub use tap::{Counts, ROOMY, Tap};
pub use verdict::{Escape, Sign, Verdict};

use self::ledger::Ledger;
use self::spot::Surroundings;
use crate::lab::Lab;
use crate::layout::{NODE, REMOTE};
use crate::netns::Netns;
use crate::pod::Role;
use crate::proxy;

/// A judge who watches until [`Judge::finish`], or until the value goes.
#[derive(Debug)]
pub struct Judge {
    registry: Registry,
    stop: Arc<OwnedFd>,
    taps: Vec<JoinHandle<Result<Counts>>>,
    /// The netns that have a tap; a new netns of the same name has another number.
    tapped: BTreeSet<(String, u64)>,
}

/// Where clients tell of their attempts.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Mutex<Ledger>>);

impl Registry {
    /// Writes an attempt down. From now on each message that its client sends has to begin with the cookie.
    #[must_use]
    pub fn register(&self, attempt: Attempt) -> Cookie {
        self.lock().register(attempt)
    }

    /// The attempt came about, and its cookie has been to the server and back: so it must have been seen.
    pub fn came_about(&self, cookie: Cookie) {
        self.lock().came_about(cookie);
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Judge {
    /// Begins to watch the lab and all its pods.
    pub fn watch(lab: &Lab) -> Result<Self> {
        let registry = Registry(Arc::new(Mutex::new(Ledger::new(Surroundings::default()))));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let mut judge = Self { registry, stop, taps: Vec::new(), tapped: BTreeSet::new() };
        judge.follow(lab)?;
        Ok(judge)
    }

    /// Learns of pods that have come, and watches them too. What passes the node is seen without it.
    pub fn follow(&mut self, lab: &Lab) -> Result<()> {
        let mut places = vec![(NODE.to_owned(), lab.node()), (REMOTE.to_owned(), lab.remote())];
        {
            let surroundings = &mut self.registry.lock().surroundings;
            // One without a sandbox has no packets.
            for pod in lab.pods().iter().filter(|pod| lab.pod_netns(&pod.name).exists()) {
                surroundings.veths.extend(pod.host_link.clone().map(|link| (link, pod.name.clone())));
                if pod.role == Role::Proxy {
                    surroundings.proxies.insert(pod.name.clone());
                }
                places.push((pod.name.clone(), lab.pod_netns(&pod.name)));
            }
        }
        places.into_iter().try_for_each(|(host, netns)| self.tap(&host, &netns))
    }

    fn tap(&mut self, host: &str, netns: &Netns) -> Result<()> {
        if !self.tapped.insert((host.to_owned(), netns.number()?)) {
            return Ok(());
        }
        let tap = Tap::open(host, netns, ROOMY)?;
        let (stop, registry) = (self.stop.clone(), self.registry.clone());
        let run = move || tap.run(&stop, |spot, sent, segment| registry.lock().see(spot, sent, segment));
        self.taps.push(thread::Builder::new().name(format!("tap {host}")).spawn(run)?);
        Ok(())
    }

    /// Where clients tell of their attempts.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Ends the watch, and says what was seen. Clients must have ended before.
    pub fn finish(mut self, lab: &Lab) -> Result<Verdict> {
        let counts = self.end()?;
        let mut records = Vec::new();
        for log in lab.proxy_logs()?.values() {
            records.extend(proxy::read(log, 0)?.0);
        }
        Ok(Verdict::of(&self.registry.lock(), counts.packets, counts.drops, &records))
    }

    fn end(&mut self) -> Result<Counts> {
        // Never read, so that each tap sees it.
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).context("cannot stop the taps")?;
        let mut all = Counts::default();
        for tap in self.taps.drain(..) {
            let Ok(counts) = tap.join() else { bail!("a tap has panicked") };
            let counts = counts?;
            all.packets += counts.packets;
            all.drops += counts.drops;
        }
        Ok(all)
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // After an orderly end there are no taps left; after an error nobody asks what they have seen.
        let _ = self.end();
    }
}
