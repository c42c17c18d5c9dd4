//! Tells the cluster which pods are in: carries out the [`orders`](super::orders), a few at a time, beside the reconciler and
//! never in its way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use serde::de::IgnoredAny;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::failure::Failure;
use super::orders::{Desk, Order, Outcome, orders};
use super::shared::{ANNOTATIONS, Shared};
use super::store::WatchedPod;
use crate::status::Status;

/// Patches that are under way at a time.
const PLACES: usize = 8;
/// A patch that is not answered within this time has failed.
const LIMIT: Duration = Duration::from_secs(10);
/// As whom the API server notes the annotation in `managedFields`.
const MANAGER: &str = "redirect-agent";

/// What is annotated, for whoever ends the agent.
#[derive(Clone)]
pub(crate) struct Annotations(Arc<Shared>);

impl Annotations {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Waits until no pod of this node is annotated as being in the mesh.
    pub(crate) async fn removed(&self) {
        let mut changes = self.0.changes();
        while self.some_left() && changes.changed().await.is_ok() {}
    }

    fn some_left(&self) -> bool {
        let store = self.0.store();
        let mut pods = store.pods.iter().flat_map(std::collections::BTreeMap::values);
        pods.any(WatchedPod::is_annotated)
    }
}

/// Keeps the annotations as `status` says. Does not end with the reconciler, whose last word may be that nothing stands.
pub(super) async fn run(client: Client, shared: Arc<Shared>, mut status: watch::Receiver<Status>) {
    let mut changes = shared.changes();
    let mut desk = Desk::default();
    let mut under_way = JoinSet::new();
    let mut last_word = false;
    loop {
        changes.mark_unchanged();
        let due = {
            let status = status.borrow_and_update();
            let store = shared.store();
            store.pods.as_ref().map(|pods| orders(&status.pods, pods)).unwrap_or_default()
        };
        for order in desk.take(due, PLACES - under_way.len(), Instant::now()) {
            under_way.spawn(carry_out(client.clone(), order));
        }
        if !desk.has_failures() {
            shared.well(ANNOTATIONS);
        }
        // Those for which there is no place are looked at when one is free.
        let next = desk.next_try().filter(|_| under_way.len() < PLACES);
        tokio::select! {
            said = status.changed(), if !last_word => last_word = said.is_err(),
            _ = changes.changed() => {}
            Some(ended) = under_way.join_next() => match ended {
                Ok((order, Ok(()))) => desk.put(&order, Outcome::Done, Instant::now()),
                Ok((order, Err(failure))) => {
                    desk.put(&order, Outcome::Failed, Instant::now());
                    shared.trouble(ANNOTATIONS, failure.message);
                }
                // Whoever looks after this task ends the agent.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            () = until(next) => {}
        }
    }
}

/// Takes the annotation off these pods, without an agent that would. Gives back whether there were any: a pod that has changed meanwhile
/// still has it, so who wants to be sure lists them again.
///
/// # Errors
/// The first that occurred; the other pods were tried all the same.
pub(super) async fn remove(client: &Client, pods: Vec<WatchedPod>) -> Result<bool, Failure> {
    let mut outcome = Ok(false);
    for WatchedPod { pod, version, .. } in pods.into_iter().filter(WatchedPod::is_annotated) {
        let (namespace, name, uid) = (pod.namespace.clone(), pod.name.clone(), pod.uid.clone());
        let order = Order { namespace, name, uid, version, enable: false };
        let (_, patched) = carry_out(client.clone(), order).await;
        outcome = outcome.and_then(|_| patched.map(|()| true));
    }
    outcome
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

async fn carry_out(client: Client, order: Order) -> (Order, Result<(), Failure>) {
    let outcome = timeout(LIMIT, patch(&client, &order)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(Failure::timeout("patch", "pods", LIMIT)));
    (order, outcome)
}

async fn patch(client: &Client, order: &Order) -> Result<(), Failure> {
    let fail = |error| Failure::of(&error, "patch", "pods");
    let path = format!("/api/v1/namespaces/{}/pods", order.namespace);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let request = Request::new(path).patch(&order.name, &params, &Patch::Merge(order.patch()));
    let request = request.map_err(|error| fail(kube::Error::BuildRequest(error)))?;
    match client.request::<IgnoredAny>(request).await {
        Ok(_) => {
            tracing::debug!(pod = format!("{}/{}", order.namespace, order.name), enabled = order.enable, "annotated");
            Ok(())
        }
        Err(error) if is_moot(&error) => {
            tracing::debug!(pod = format!("{}/{}", order.namespace, order.name), %error, "not annotated: it has changed");
            Ok(())
        }
        Err(error) => Err(fail(error)),
    }
}

/// Whether the pod is gone (404), has changed (409), or is another of the same name (422: a UID cannot be changed,
/// `ValidateObjectMetaAccessorUpdate` of apimachinery): what is to be written follows from what is heard of it next.
fn is_moot(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict() || status.is_invalid())
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_pod_that_vanished_or_changed_is_no_failure() {
        let api = |code, reason| kube::Error::Api(Status::failure("", reason).with_code(code).boxed());
        assert!(is_moot(&api(404, "NotFound")) && is_moot(&api(409, "Conflict")) && is_moot(&api(422, "Invalid")));
        assert!(!is_moot(&api(403, "Forbidden")) && !is_moot(&api(429, "TooManyRequests")) && !is_moot(&api(500, "")));
    }
}
