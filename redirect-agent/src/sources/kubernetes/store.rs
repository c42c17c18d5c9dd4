//! What is known of the cluster, keyed by UID: a pod that has another's name and address is another pod, and what is said of
//! one never touches the other. Pure but for being fed.

use std::collections::BTreeMap;
use std::sync::Arc;

use redirect_common::names::{ANNOTATION_REDIRECTION, REDIRECTION_ENABLED};
use serde::Deserialize;

use super::follow::{Change, Object};
use super::shared::Shared;
use crate::sources::object::Wire;
use crate::sources::{Namespace, Pod, Snapshot};

/// A pod, and what only this source looks at.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(super) struct WatchedPod {
    pub(super) pod: Arc<Pod>,
    pub(super) version: String,
    /// The annotation by which the agent says that the pod is in.
    pub(super) redirection: Option<String>,
    /// Whether it is being deleted.
    pub(super) is_terminating: bool,
}

impl WatchedPod {
    /// Whether it says that it is in the mesh, and will stay to say so.
    pub(super) fn is_annotated(&self) -> bool {
        self.redirection.as_deref() == Some(REDIRECTION_ENABLED) && !self.is_terminating
    }
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(super) struct WatchedNamespace {
    namespace: Arc<Namespace>,
    uid: String,
    version: String,
}

impl From<Wire> for WatchedPod {
    fn from(wire: Wire) -> Self {
        Self {
            version: wire.metadata.resource_version.clone().unwrap_or_default(),
            redirection: wire.metadata.annotation(ANNOTATION_REDIRECTION).map(str::to_owned),
            is_terminating: wire.metadata.deletion_timestamp.is_some(),
            pod: Arc::new(wire.into()),
        }
    }
}

impl From<Wire> for WatchedNamespace {
    fn from(wire: Wire) -> Self {
        let version = wire.metadata.resource_version.clone().unwrap_or_default();
        Self { version, uid: wire.metadata.uid(), namespace: Arc::new(wire.into()) }
    }
}

impl Object for WatchedPod {
    const RESOURCE: &'static str = "pods";
    const PATH: &'static str = "/api/v1/pods";

    fn version(&self) -> &str {
        &self.version
    }

    fn store(shared: &Shared, change: Change<Self>) {
        shared.change(|store| take(&mut store.pods, change));
    }
}

impl Object for WatchedNamespace {
    const RESOURCE: &'static str = "namespaces";
    const PATH: &'static str = "/api/v1/namespaces";

    fn version(&self) -> &str {
        &self.version
    }

    fn store(shared: &Shared, change: Change<Self>) {
        shared.change(|store| take(&mut store.namespaces, change));
    }
}

/// Objects of one kind by UID; `None` before the first complete list.
type Table<T> = Option<BTreeMap<String, T>>;

/// All that is known.
#[derive(Default, Debug)]
pub(super) struct Store {
    pub(super) pods: Table<WatchedPod>,
    pub(super) namespaces: Table<WatchedNamespace>,
}

impl Store {
    /// What enrolment is to know: nothing, before both lists are complete.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        let (pods, namespaces) = (self.pods.as_ref()?, self.namespaces.as_ref()?);
        Some(Snapshot {
            pods: pods.values().map(|object| Arc::clone(&object.pod)).collect(),
            namespaces: namespaces.values().map(|object| Arc::clone(&object.namespace)).collect(),
            has_all_namespaces: true,
            problems: Vec::new(),
        })
    }
}

/// What a table is to know of its objects.
trait Row {
    /// What enrolment looks at.
    type Part: PartialEq;

    fn uid(&self) -> &str;
    fn part(&self) -> &Self::Part;
}

impl Row for WatchedPod {
    type Part = Pod;

    fn uid(&self) -> &str {
        &self.pod.uid
    }

    fn part(&self) -> &Pod {
        &self.pod
    }
}

impl Row for WatchedNamespace {
    type Part = Namespace;

    fn uid(&self) -> &str {
        &self.uid
    }

    fn part(&self) -> &Namespace {
        &self.namespace
    }
}

/// Takes a change in. Whether enrolment could tell.
fn take<T: Row>(table: &mut Table<T>, change: Change<T>) -> bool {
    match change {
        Change::Listed(objects) => {
            let new: BTreeMap<_, _> = objects.into_iter().map(|object| (object.uid().to_owned(), object)).collect();
            let old = table.replace(new);
            let (Some(old), Some(new)) = (&old, &*table) else { return true };
            !old.values().map(Row::part).eq(new.values().map(Row::part)) || !old.keys().eq(new.keys())
        }
        Change::Applied(object) => {
            let Some(table) = table else { return false };
            let same = table.get(object.uid()).is_some_and(|known| known.part() == object.part());
            table.insert(object.uid().to_owned(), object);
            !same
        }
        Change::Deleted(object) => table.as_mut().is_some_and(|table| table.remove(object.uid()).is_some()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, version: &str, more: &Value) -> WatchedPod {
        let mut metadata = json!({ "name": "a", "namespace": "mesh", "uid": uid, "resourceVersion": version });
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({ "metadata": metadata, "status": { "podIP": "10.0.0.1" } })).unwrap()
    }

    fn pods(store: &mut Store, change: Change<WatchedPod>) -> bool {
        take(&mut store.pods, change)
    }

    fn uids(store: &Store) -> Vec<String> {
        store.snapshot().unwrap().pods.iter().map(|pod| pod.uid.clone()).collect()
    }

    #[test]
    fn no_snapshot_before_both_lists() {
        let mut store = Store::default();
        assert!(pods(&mut store, Change::Listed(vec![pod("u1", "1", &json!({}))])));
        assert_eq!(store.snapshot(), None);
        store.namespaces = Some(BTreeMap::new());
        assert_eq!(uids(&store), ["u1"]);
        let early = Store { pods: None, namespaces: Some(BTreeMap::new()) };
        assert_eq!(early.snapshot(), None);
    }

    #[test]
    fn a_late_delete_of_an_old_pod_leaves_the_new_one_with_its_name_and_address() {
        let mut store = Store { namespaces: Some(BTreeMap::new()), ..Store::default() };
        pods(&mut store, Change::Listed(vec![pod("old", "1", &json!({}))]));
        pods(&mut store, Change::Applied(pod("new", "3", &json!({}))));
        assert!(pods(&mut store, Change::Deleted(pod("old", "4", &json!({})))));
        assert_eq!(uids(&store), ["new"]);
        assert!(!pods(&mut store, Change::Deleted(pod("old", "4", &json!({})))));
    }

    #[test]
    fn what_enrolment_cannot_tell_wakes_nobody() {
        let mut store = Store { namespaces: Some(BTreeMap::new()), ..Store::default() };
        pods(&mut store, Change::Listed(vec![pod("u1", "1", &json!({}))]));
        let echo = pod("u1", "2", &json!({ "annotations": { ANNOTATION_REDIRECTION: "enabled" } }));
        assert!(!pods(&mut store, Change::Applied(echo.clone())));
        assert_eq!(store.pods.as_ref().unwrap()["u1"].redirection.as_deref(), Some("enabled"));
        assert!(!pods(&mut store, Change::Listed(vec![echo])), "a list that tells nothing new");
        let opted_out = pod("u1", "3", &json!({ "annotations": { ANNOTATION_REDIRECTION: "disabled" } }));
        assert!(pods(&mut store, Change::Applied(opted_out)));
        assert!(pods(&mut store, Change::Listed(vec![])));
    }
}
