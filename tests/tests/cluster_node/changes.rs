//! Pods and namespaces change their mind.

use anyhow::{Result, ensure};
use redirect_lab::harness::is_settled;
use redirect_lab::kubernetes::cluster::Cluster;
use redirect_lab::layout::{MESH_NAMESPACE, PLAIN_NAMESPACE};
use redirect_lab::pod::Pod;

use crate::{ENABLED, FOLLOW, MODE, follow, only_meshed, sends};

const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Runs of the agent in which nothing may happen.
const RUNS: u64 = 3;

/// Each change is followed in the datapath and, whichever way, in the annotation.
pub(crate) fn labels_and_annotations(cluster: &mut Cluster) -> Result<()> {
    let out = |cluster: &Cluster, note| {
        follow(cluster, "app-a not meshed", |status| !status.meshed("app-a"), &[("app-a", note), ("app-b", ENABLED)])?;
        only_meshed(&cluster.lab, &["app-b"])?;
        sends(&cluster.lab, "app-a", false)
    };
    let back = |cluster: &Cluster| {
        follow(cluster, "app-a meshed", is_settled, &[("app-a", ENABLED)])?;
        only_meshed(&cluster.lab, &["app-a", "app-b"])?;
        sends(&cluster.lab, "app-a", true)
    };
    cluster.label_pod("app-a", MODE, Some("none"))?;
    out(cluster, None)?;
    cluster.label_pod("app-a", MODE, None)?;
    back(cluster)?;
    // A user's word stands where the agent's stood, and is not taken away.
    cluster.annotate_pod("app-a", REDIRECTION, Some("disabled"))?;
    out(cluster, Some("disabled"))?;
    cluster.annotate_pod("app-a", REDIRECTION, None)?;
    back(cluster)?;
    // The pod's label is stronger than its namespace's, which comes and goes.
    cluster.label_pod("plain-b", MODE, Some("none"))?;
    cluster.label_namespace(PLAIN_NAMESPACE, &[(MODE, "ambient")])?;
    follow(cluster, "plain meshed", |status| status.meshed("plain"), &[("plain", ENABLED), ("plain-b", None)])?;
    only_meshed(&cluster.lab, &["app-a", "app-b", "plain"])?;
    sends(&cluster.lab, "plain", true)?;
    cluster.label_namespace(PLAIN_NAMESPACE, &[])?;
    follow(cluster, "plain not meshed", |status| !status.meshed("plain"), &[("plain", None)])?;
    cluster.label_pod("plain-b", MODE, Some("ambient"))?;
    follow(cluster, "plain-b meshed", |status| status.meshed("plain-b"), &[("plain-b", ENABLED), ("plain", None)])?;
    cluster.label_pod("plain-b", MODE, None)?;
    follow(cluster, "plain-b not meshed", |status| !status.meshed("plain-b"), &[("plain-b", None)])?;
    only_meshed(&cluster.lab, &["app-a", "app-b"])
}

/// A pod's address goes to a new pod before its end is heard of. Its end then is nobody else's.
pub(crate) fn late_end(cluster: &mut Cluster) -> Result<()> {
    let former = cluster.lab.pod("app-b")?.clone();
    let mut new = Pod::app(MESH_NAMESPACE, "app-b-new")?;
    new.ips.clone_from(&former.ips);
    cluster.admin.put_pod(&new)?;
    let taken = |status: &redirect_lab::status::Status| {
        status.meshed("app-b-new") && status.pod("app-b").is_some_and(|pod| pod.state == "refused")
    };
    follow(cluster, "app-b-new has the address", taken, &[("app-b-new", ENABLED), ("app-b", None)])?;
    let before = cluster.lab.status()?;
    cluster.admin.remove_pod(&former)?;
    let gone =
        cluster.lab.wait_until(FOLLOW, "app-b gone", |status| status.settled && status.pod("app-b").is_none())?;
    let later = gone.reconciles + RUNS;
    let after = cluster.lab.wait_until(FOLLOW, "running on", |status| status.reconciles >= later)?;
    ensure!(after.meshed("app-b-new"), "with app-b went app-b-new");
    ensure!(after.writes == before.writes, "written: {:?}, before: {:?}", after.writes, before.writes);
    only_meshed(&cluster.lab, &["app-a", "app-b"])?;
    sends(&cluster.lab, "app-b", true)?;
    cluster.admin.put_pod(&former)?;
    cluster.admin.remove_pod(&new)?;
    follow(cluster, "app-b meshed", is_settled, &[("app-b", ENABLED)])
}
