//! Where the agent learns which pods there are: today a folder of manifests. Every source delivers the same snapshot.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::resources::ledger::Problem;

pub(crate) mod manifests;

/// All that is known of the cluster at one moment.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Snapshot {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) pods: Vec<Pod>,
    /// What could not be read; it does not keep the rest from being used.
    pub(crate) problems: Vec<Problem>,
}

/// The latest snapshot; `None` until the first complete one, before which nothing may be removed.
pub(crate) type Snapshots = tokio::sync::watch::Receiver<Option<Arc<Snapshot>>>;
