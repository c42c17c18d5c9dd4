//! What the source's tasks have in common: the store, who is told of it, and what is wrong at the moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use super::store::Store;
use crate::resources::ledger::Problem;
use crate::sources::{Health, Snapshot, Snapshots};

/// Under which name troubles with the annotation are kept; they do not make what is known stale.
pub(super) const ANNOTATIONS: &str = "annotations";

/// Something that does not work, and since when.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Trouble {
    since: Timestamp,
    message: String,
}

/// See the module.
pub(super) struct Shared {
    store: Mutex<Store>,
    troubles: Mutex<BTreeMap<&'static str, Trouble>>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    health: watch::Sender<Health>,
    /// Counts changes of the store, those too that enrolment cannot tell.
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new() -> (Arc<Self>, Snapshots, watch::Receiver<Health>) {
        let (snapshots, snapshots_receiver) = watch::channel(None);
        let (health, health_receiver) = watch::channel(Health::default());
        let (store, troubles) = (Mutex::default(), Mutex::default());
        let shared = Self { store, troubles, snapshots, health, changes: watch::channel(0).0 };
        (Arc::new(shared), snapshots_receiver, health_receiver)
    }

    /// The store, for as long as the guard lives.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of changes of the store.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Changes the store; `change` says whether enrolment could tell.
    pub(super) fn change(&self, change: impl FnOnce(&mut Store) -> bool) {
        let mut store = self.store();
        // The store stays locked meanwhile: snapshots are sent in the order of their changes.
        if change(&mut store)
            && let Some(snapshot) = store.snapshot()
        {
            self.snapshots.send_replace(Some(Arc::new(snapshot)));
        }
        drop(store);
        self.changes.send_modify(|count| *count += 1);
    }

    /// `what` does not work, for the reason given.
    pub(super) fn trouble(&self, what: &'static str, message: String) {
        self.report(|troubles| {
            let since = troubles.get(what).map_or_else(Timestamp::now, |trouble| trouble.since);
            troubles.insert(what, Trouble { since, message });
        });
    }

    /// `what` works.
    pub(super) fn well(&self, what: &'static str) {
        self.report(|troubles| {
            troubles.remove(what);
        });
    }

    fn report(&self, change: impl FnOnce(&mut BTreeMap<&'static str, Trouble>)) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut troubles);
        let health = health(&troubles);
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }
}

fn health(troubles: &BTreeMap<&'static str, Trouble>) -> Health {
    let stale = troubles.iter().filter(|(what, _)| **what != ANNOTATIONS).map(|(_, trouble)| trouble.since);
    let problems = troubles.iter().map(|(what, Trouble { since, message })| {
        let fate = if *what == ANNOTATIONS { "not written" } else { "not followed; what was known stays in force" };
        Problem::new(format!("source {what}"), format!("since {since:.0} {fate}: {message}"))
    });
    Health { stale_since: stale.min(), problems: problems.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_since_the_first_failure_until_every_kind_is_heard_again() {
        let (shared, _snapshots, health) = Shared::new();
        shared.trouble("pods", "refused".into());
        let since = health.borrow().stale_since.unwrap();
        shared.trouble("namespaces", "refused".into());
        shared.trouble("pods", "another reason".into());
        assert_eq!(health.borrow().stale_since, Some(since));
        assert_eq!(health.borrow().problems.len(), 2);
        shared.well("pods");
        assert!(health.borrow().stale_since.is_some());
        shared.well("namespaces");
        shared.trouble(ANNOTATIONS, "forbidden".into());
        assert_eq!((health.borrow().stale_since, health.borrow().problems.len()), (None, 1));
    }
}
