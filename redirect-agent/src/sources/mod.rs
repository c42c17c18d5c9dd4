//! Where the agent learns which pods there are: the Kubernetes API server, or a folder of manifests. Every source delivers
//! the same snapshot; who is meshed is decided in one place, by [`crate::enrol`].

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use crate::resources::ledger::Problem;

pub(crate) mod kubernetes;
pub(crate) mod manifests;
pub(crate) mod object;

pub(crate) use object::{Namespace, Pod};

/// All that is known of the cluster at one moment.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Snapshot {
    pub(crate) namespaces: Vec<Arc<Namespace>>,
    /// Each pod's namespace is to be among them: one that is not has not been heard of yet. Else it is one without labels.
    pub(crate) has_all_namespaces: bool,
    pub(crate) pods: Vec<Arc<Pod>>,
    /// What could not be read; it does not keep the rest from being used.
    pub(crate) problems: Vec<Problem>,
}

/// The latest snapshot; `None` until the first complete one, before which nothing may be removed.
pub(crate) type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// How a source fares. None of it is the datapath's failure: the last snapshot stays in force.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Health {
    /// Since when nothing new can have been heard.
    pub(crate) stale_since: Option<Timestamp>,
    pub(crate) problems: Vec<Problem>,
}

/// A source at work.
pub(crate) struct Source {
    pub(crate) snapshots: Snapshots,
    pub(crate) health: watch::Receiver<Health>,
    /// What a cleanup waits for, where the source is also told of what was done.
    pub(crate) annotations: Option<kubernetes::Annotations>,
}
