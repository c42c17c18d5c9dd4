//! Who is enrolled, and when the cluster is told.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::kubernetes::cluster::{Cluster, PODS, annotation};
use redirect_lab::layout::{MESH_NAMESPACE, NODE_IP, PLAIN_NAMESPACE};
use redirect_lab::operator::meshed;
use redirect_lab::pod::Pod;
use serde_json::json;

use crate::{ENABLED, FOLLOW, MODE, annotated, follow, only_meshed, sends};

/// Runs of the agent in which nothing may happen.
const RUNS: u64 = 3;

/// Without a Ready ztunnel there is no datapath and no annotation. With it, both are there when the annotation is.
pub(crate) fn annotation_comes_last(cluster: &mut Cluster) -> Result<()> {
    cluster.change_pod(ZTUNNEL, |pod| pod.ready = false)?;
    let options = cluster.agent_options();
    cluster.lab.start_agent(&options)?;
    let waits =
        |name: &str, status: &redirect_lab::status::Status| status.pod(name).is_some_and(|pod| pod.state == "pending");
    let status = cluster.lab.wait_until(FOLLOW, "waiting for ztunnel", |status| {
        status.ready && waits("app-a", status) && waits("app-b", status)
    })?;
    let later = status.reconciles + RUNS;
    cluster.lab.wait_until(FOLLOW, "running on", |status| status.reconciles >= later)?;
    annotated(cluster, &[("app-a", None), ("app-b", None)])?;

    let list = cluster.admin.get(PODS)?.good()?;
    let version = list["metadata"]["resourceVersion"].as_str().context("a list without a version")?;
    let mut watch = cluster.admin.watch(PODS, version)?;
    cluster.change_pod(ZTUNNEL, |pod| pod.ready = true)?;
    let pod = loop {
        let event = watch.next(FOLLOW)?.context("the watch ended")?;
        if annotation(&event.object).as_deref() == ENABLED {
            break event.object;
        }
    };
    let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
    let ip = cluster.lab.pod(name)?.ip()?;
    ensure!(meshed(&cluster.lab)?.contains(&ip), "{name} ({ip}) is annotated, and not in the datapath");
    match name {
        "app-a" => sends(&cluster.lab, "app-a", true)?,
        "app-b" => sends(&cluster.lab, "app-b", true)?,
        other => bail!("{other} is annotated"),
    }
    let all = [("app-a", ENABLED), ("app-b", ENABLED), ("plain", None), ("plain-b", None), (ZTUNNEL, None)];
    follow(cluster, "with its default pods", redirect_lab::harness::is_settled, &all)?;
    only_meshed(&cluster.lab, &["app-a", "app-b"])
}

/// A pod that is not meshed, and what the agent says why. (The lab's own are those that are.)
struct Rule {
    name: &'static str,
    namespace: &'static str,
    change: fn(&mut Pod),
    reason: &'static str,
}

const RULES: [Rule; 7] = [
    Rule { name: "outside", namespace: PLAIN_NAMESPACE, change: |_| (), reason: "neither it nor namespace default" },
    Rule {
        name: "opted-out",
        namespace: MESH_NAMESPACE,
        change: |pod| drop(pod.labels.insert(MODE.to_owned(), "none".to_owned())),
        reason: "istio.io/dataplane-mode=none",
    },
    Rule {
        name: "disabled",
        namespace: MESH_NAMESPACE,
        change: |pod| note(pod, "ambient.istio.io/redirection", "disabled"),
        reason: "ambient.istio.io/redirection: disabled",
    },
    Rule {
        name: "sidecar",
        namespace: MESH_NAMESPACE,
        change: |pod| note(pod, "sidecar.istio.io/status", "{}"),
        reason: "has a sidecar",
    },
    Rule {
        name: "host-network",
        namespace: MESH_NAMESPACE,
        change: |pod| {
            pod.host_network = true;
            pod.ips = vec![NODE_IP.into()];
        },
        reason: "uses the node's network",
    },
    Rule {
        name: "succeeded",
        namespace: MESH_NAMESPACE,
        change: |pod| "Succeeded".clone_into(&mut pod.phase),
        reason: "has ended (phase Succeeded)",
    },
    Rule {
        name: "failed",
        namespace: MESH_NAMESPACE,
        change: |pod| "Failed".clone_into(&mut pod.phase),
        reason: "has ended (phase Failed)",
    },
];

fn note(pod: &mut Pod, key: &str, value: &str) {
    pod.annotations.insert(key.to_owned(), value.to_owned());
}

/// Pods for every rule at once, and one of another node. Afterwards they are gone.
pub(crate) fn every_rule(cluster: &Cluster) -> Result<()> {
    let mut pods = Vec::new();
    for (rule, host) in RULES.iter().zip(200..) {
        let mut pod = Pod::app(rule.namespace, rule.name)?;
        pod.ips = vec![format!("10.244.1.{host}").parse()?];
        (rule.change)(&mut pod);
        cluster.admin.put_pod(&pod)?;
        pods.push(pod);
    }
    let elsewhere = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": MESH_NAMESPACE, "name": "elsewhere" },
        "spec": { "nodeName": "another-node", "containers": [{ "name": "main", "image": "redirect-lab" }] },
    });
    cluster.admin.apply(&elsewhere)?;
    let app_a = cluster.lab.pod("app-a")?.ip()?;
    cluster
        .admin
        .patch_status(&elsewhere, &json!({ "phase": "Running", "podIP": app_a, "podIPs": [{ "ip": app_a }] }))?;

    let judged = |status: &redirect_lab::status::Status| {
        RULES.iter().all(|rule| {
            status.pod(rule.name).is_some_and(|pod| {
                pod.state == "not-meshed" && pod.reason.as_ref().is_some_and(|reason| reason.contains(rule.reason))
            })
        }) && status.pod(ZTUNNEL).is_some_and(|pod| pod.reason.as_deref() == Some("is ztunnel"))
            && status.pod("elsewhere").is_none()
            && redirect_lab::harness::is_settled(status)
    };
    let mut notes: BTreeMap<&str, Option<&str>> = RULES.iter().map(|rule| (rule.name, None)).collect();
    notes.extend([("disabled", Some("disabled")), ("elsewhere", None), ("app-a", ENABLED), (ZTUNNEL, None)]);
    let notes: Vec<_> = notes.into_iter().collect();
    follow(cluster, "judging by every rule", judged, &notes)?;
    only_meshed(&cluster.lab, &["app-a", "app-b"])?;

    for pod in &pods {
        cluster.admin.remove_pod(pod)?;
    }
    cluster.admin.delete(&format!("/api/v1/namespaces/{MESH_NAMESPACE}/pods/elsewhere"))?.good()?;
    follow(cluster, "without them", |status| RULES.iter().all(|rule| status.pod(rule.name).is_none()), &[])
}
