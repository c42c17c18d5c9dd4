//! The agent's role: each verb of it is needed, and a missing one is named.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redirect_lab::harness::{eventually, is_settled};
use redirect_lab::kubernetes::cluster::Cluster;
use redirect_lab::kubernetes::deploy;
use redirect_lab::layout::{MESH_NAMESPACE, PLAIN_NAMESPACE};
use redirect_lab::pod::Pod;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{ENABLED, FOLLOW, MODE, annotated, only_meshed};

/// How long is waited for what must not happen; with all rights it takes a second.
const IN_VAIN: Duration = Duration::from_secs(4);

/// Takes away one after the other. Each time the agent names it, and enrolment does not work.
pub(crate) fn each_is_needed(cluster: &mut Cluster) -> Result<()> {
    let role = deploy::object("ebpf", "ClusterRole")?;
    let rights = rights(&role);
    ensure!(rights.len() == 5, "of one rule or another it is not known that it is needed: {rights:?}");
    enrol(cluster, FOLLOW, None).context("with all rights")?;
    for (resource, verb) in &rights {
        cluster.lab.stop_agent(Signal::TERM)?;
        cluster.admin.apply(&without(&role, resource, verb))?;
        eventually(FOLLOW, || ensure_allowed(cluster, resource, verb, false))?;
        let options = cluster.agent_options();
        cluster.lab.start_agent(&options)?;
        let named = format!("verb {verb} on {resource}");
        if verb != "patch" {
            // It has tried, so what follows is not in the list that it begins with.
            cluster.lab.wait_until(FOLLOW, &named, |status| status.complains("source", &named))?;
        }
        let worked = enrol(cluster, IN_VAIN, Some(&named));
        eventually(FOLLOW, || only_meshed(&cluster.lab, &["app-a", "app-b"]))
            .with_context(|| format!("without {named}"))?;
        let error = worked.err().with_context(|| format!("enrolment works without {named}"))?;
        println!("        without {named}: {}", error.root_cause());
    }
    // It comes by itself: the agent has not ended.
    cluster.admin.apply(&role)?;
    cluster.lab.wait_until(FOLLOW, "settled", |status| is_settled(status) && !status.complains("source", "verb"))?;
    enrol(cluster, FOLLOW, None).context("with all rights again")
}

/// A namespace joins and a pod comes: both are annotated, which takes every right. Whatever comes of it, both go again; before they
/// do, the agent names what it lacks.
fn enrol(cluster: &Cluster, patience: Duration, lacks: Option<&str>) -> Result<()> {
    let mut pod = Pod::app(MESH_NAMESPACE, "late")?;
    pod.ips.clone_from(&cluster.lab.pod("plain-b")?.ips);
    // The address is plain-b's otherwise.
    cluster.admin.remove_pod(cluster.lab.pod("plain-b")?)?;
    cluster.label_namespace(PLAIN_NAMESPACE, &[(MODE, "ambient")])?;
    cluster.admin.put_pod(&pod)?;
    let worked = eventually(patience, || annotated(cluster, &[("plain", ENABLED), ("late", ENABLED)]));
    if let Some(right) = lacks {
        cluster.lab.wait_until(FOLLOW, right, |status| status.complains("source", right))?;
    }
    cluster.label_namespace(PLAIN_NAMESPACE, &[])?;
    cluster.admin.remove_pod(&pod)?;
    cluster.admin.put_pod(cluster.lab.pod("plain-b")?)?;
    let left = eventually(patience, || annotated(cluster, &[("plain", None)]));
    worked.and(left)
}

/// Every resource with each of its verbs.
fn rights(role: &Value) -> Vec<(String, String)> {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let rules = role["rules"].as_array().into_iter().flatten();
    let pairs = rules.flat_map(|rule| {
        let verbs = words(&rule["verbs"]);
        let with_verbs = move |resource: String| verbs.clone().into_iter().map(move |verb| (resource.clone(), verb));
        words(&rule["resources"]).into_iter().flat_map(with_verbs).collect::<Vec<_>>()
    });
    pairs.collect()
}

fn without(role: &Value, resource: &str, verb: &str) -> Value {
    let mut role = role.clone();
    for rule in role["rules"].as_array_mut().into_iter().flatten() {
        if rule["resources"] == json!([resource])
            && let Some(verbs) = rule["verbs"].as_array_mut()
        {
            verbs.retain(|known| known != verb);
        }
    }
    role
}

/// As the API server sees it, which itself learns of a changed role by a watch.
fn ensure_allowed(cluster: &Cluster, resource: &str, verb: &str, wanted: bool) -> Result<()> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": { "resource": resource, "verb": verb } },
    });
    let answer = cluster.agent.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review)?.good()?;
    ensure!(answer["status"]["allowed"] == wanted, "the agent's right to {verb} {resource}: {}", answer["status"]);
    Ok(())
}

/// `cleanup` takes the annotation away, also where the agent has ended.
pub(crate) fn cleanup(cluster: &mut Cluster) -> Result<()> {
    let none = [("app-a", None), ("app-b", None), ("plain", None)];
    cluster.lab.cleanup_agent()?;
    annotated(cluster, &none).context("after the agent's own")?;
    cluster.start_agent()?;
    eventually(FOLLOW, || annotated(cluster, &[("app-a", ENABLED), ("app-b", ENABLED)]))?;
    cluster.lab.stop_agent(Signal::KILL)?;
    cluster.lab.cleanup_agent()?;
    annotated(cluster, &none).context("without an agent")
}
