//! The agent in a real Kubernetes cluster: fed by an API server with the account and the role of `deploy/`, on a node whose
//! networks are the lab's. All on one node and one API server, because in a guest these take a minute to come up.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod changes;
mod enrolment;
mod outage;
mod rights;
mod rivals;

use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::Checks;
use redirect_lab::kubernetes::cluster::Cluster;
use redirect_lab::lab::Lab;
use redirect_lab::operator::meshed;
use redirect_lab::status::Status;
use redirect_lab::table::{self, Case, Expect};

/// How long the agent may take to follow: beside a client's TLS handshake and an API server, on an emulated processor.
const FOLLOW: Duration = Duration::from_secs(30);
/// Label of a namespace or a pod that says whether it is in the mesh.
const MODE: &str = "istio.io/dataplane-mode";
/// What the annotation says of a pod in the mesh.
const ENABLED: Option<&str> = Some("enabled");

#[test]
fn the_agent_in_a_cluster() -> Result<()> {
    let mut cluster = Cluster::up("cluster")?;
    let mut checks = Checks::default();
    checks.check("pods are annotated when their datapath stands, and not before", || {
        enrolment::annotation_comes_last(&mut cluster)
    });
    checks.check("every rule of enrolment", || enrolment::every_rule(&cluster));
    checks.check("labels and annotations change", || changes::labels_and_annotations(&mut cluster));
    checks.check("a late end of a former pod leaves the new one alone", || changes::late_end(&mut cluster));
    checks.check("two agents do not fight", || rivals::one_at_a_time(&mut cluster));
    checks.check("the API server does not answer, and an agent starts", || outage::silent(&mut cluster));
    checks.check("the API server is away while pods come and go, and forgets", || outage::away(&mut cluster));
    checks.check("every right is needed", || rights::each_is_needed(&mut cluster));
    checks.check("nothing says any more that a pod is in the mesh", || rights::cleanup(&mut cluster));
    checks.finish()
}

/// Waits until the agent, all being in place, says this of its pods, and the annotations are these.
fn follow(cluster: &Cluster, what: &str, done: impl Fn(&Status) -> bool, notes: &[(&str, Option<&str>)]) -> Result<()> {
    cluster.lab.wait_until(FOLLOW, what, |status| status.settled && done(status))?;
    redirect_lab::harness::eventually(FOLLOW, || annotated(cluster, notes))
}

fn annotated(cluster: &Cluster, notes: &[(&str, Option<&str>)]) -> Result<()> {
    let found = cluster.annotations()?;
    for (name, wanted) in notes {
        let is = found.get(*name).and_then(Option::as_deref);
        ensure!(is == *wanted, "{name} is annotated {is:?}, not {wanted:?}");
    }
    Ok(())
}

/// The datapath has these pods and no others.
fn only_meshed(lab: &Lab, names: &[&str]) -> Result<()> {
    let wanted = names.iter().map(|name| lab.pod(name)?.ip()).collect::<Result<_>>()?;
    let found = meshed(lab)?;
    ensure!(found == wanted, "the datapath has {found:?}, not {wanted:?} ({names:?})");
    Ok(())
}

/// What the pod sends goes through the proxy, or by it.
fn sends(lab: &Lab, pod: &'static str, proxied: bool) -> Result<()> {
    let proxy = if proxied { Expect::Outbound } else { Expect::Nothing };
    let case = Case { name: "outbound", from: pod, source: None, to: "remote", server: "remote", proxy };
    let wrong = table::run_case(lab, ZTUNNEL, case)?.wrong;
    ensure!(wrong.is_empty(), "{pod}: {}", wrong.join("; "));
    Ok(())
}
