//! Which pods are to be annotated, and when one is tried again. Pure.
//!
//! Nothing is queued: what is due follows each time from what the reconciler says stands and what the API server says is
//! written. So there is never more to remember than one entry a pod of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use redirect_common::names::{ANNOTATION_REDIRECTION, REDIRECTION_DISABLED, REDIRECTION_ENABLED};
use serde_json::{Value, json};

use super::store::WatchedPod;
use crate::backoff;
use crate::enrol::{PodVerdict, State};

/// One annotation that is to be written or removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Order {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// The version of the pod that asks for it.
    pub(super) version: String,
    pub(super) enable: bool,
}

impl Order {
    /// The merge patch. It names the pod's UID and version, so that it changes that pod and no other of its name, and never
    /// overwrites a `disabled` that a user has written meanwhile.
    pub(super) fn patch(&self) -> Value {
        let value = self.enable.then_some(REDIRECTION_ENABLED);
        json!({ "metadata": {
            "uid": self.uid,
            "resourceVersion": self.version,
            "annotations": { ANNOTATION_REDIRECTION: value },
        } })
    }
}

/// What is to be written, from the verdicts of a whole run of the reconciler, read back, and the pods as they are.
pub(super) fn orders(verdicts: &[PodVerdict], pods: &BTreeMap<String, WatchedPod>) -> Vec<Order> {
    let due = verdicts.iter().filter_map(|verdict| {
        let seen = pods.get(&verdict.uid)?;
        let enable = wanted(verdict.state, seen)?;
        let (namespace, name, uid) = (verdict.namespace.clone(), verdict.name.clone(), verdict.uid.clone());
        Some(Order { namespace, name, uid, version: seen.version.clone(), enable })
    });
    due.collect()
}

/// Whether the annotation is to be written (`true`), removed (`false`), or left as it is.
fn wanted(state: State, seen: &WatchedPod) -> Option<bool> {
    let written = seen.redirection.as_deref();
    // A user's word is final; and a pod that goes takes its annotations with it.
    if written == Some(REDIRECTION_DISABLED) || seen.is_terminating {
        return None;
    }
    match state {
        State::Meshed => (written != Some(REDIRECTION_ENABLED)).then_some(true),
        // It is not redirected, whatever it should be.
        State::NotMeshed | State::Refused | State::Bypassed => (written == Some(REDIRECTION_ENABLED)).then_some(false),
        // It is in the mesh, and blocked until its way is whole again; or it is not known yet whether it is.
        State::Pending => None,
    }
}

/// What a patch came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It is written, or the pod is another or gone: nothing to do before something newer is heard of it.
    Done,
    /// To be tried again.
    Failed,
}

/// Why a pod's order waits.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Held {
    /// It is being carried out, after so many failures in a row.
    UnderWay { failures: u32 },
    /// It failed so many times in a row.
    Failed { failures: u32, until: Instant },
    /// It was carried out for this version of the pod, and the next has not been heard of.
    Done { version: String },
}

/// Orders that wait, by UID.
#[derive(Default, Debug)]
pub(super) struct Desk(BTreeMap<String, Held>);

impl Desk {
    /// The orders to carry out now, at most `places`; they are under way from here on.
    pub(super) fn take(&mut self, orders: Vec<Order>, places: usize, now: Instant) -> Vec<Order> {
        let asked: BTreeSet<_> = orders.iter().map(|order| order.uid.as_str()).collect();
        self.0.retain(|uid, held| matches!(held, Held::UnderWay { .. }) || asked.contains(uid.as_str()));
        let due = orders.into_iter().filter(|order| match self.0.get(&order.uid) {
            None => true,
            Some(Held::UnderWay { .. }) => false,
            Some(Held::Failed { until, .. }) => *until <= now,
            Some(Held::Done { version }) => *version != order.version,
        });
        let due: Vec<_> = due.take(places).collect();
        for order in &due {
            let failures = match self.0.get(&order.uid) {
                Some(Held::Failed { failures, .. }) => *failures,
                _ => 0,
            };
            self.0.insert(order.uid.clone(), Held::UnderWay { failures });
        }
        due
    }

    /// What became of an order that was taken.
    pub(super) fn put(&mut self, order: &Order, outcome: Outcome, now: Instant) {
        let held = match (outcome, self.0.get(&order.uid)) {
            (Outcome::Done, _) => Held::Done { version: order.version.clone() },
            (Outcome::Failed, Some(Held::UnderWay { failures })) => failed(failures.saturating_add(1), now),
            (Outcome::Failed, _) => failed(1, now),
        };
        self.0.insert(order.uid.clone(), held);
    }

    /// When the next that has failed is due.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let times = self.0.values().filter_map(|held| match held {
            Held::Failed { until, .. } => Some(*until),
            Held::UnderWay { .. } | Held::Done { .. } => None,
        });
        times.min()
    }

    /// Whether something has failed and has not succeeded since.
    pub(super) fn has_failures(&self) -> bool {
        self.0.values().any(|held| matches!(held, Held::Failed { .. } | Held::UnderWay { failures: 1.. }))
    }
}

fn failed(failures: u32, now: Instant) -> Held {
    Held::Failed { failures, until: now + backoff::wait(failures, backoff::random()) }
}

#[cfg(test)]
mod tests;
