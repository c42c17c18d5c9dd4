//! What an operator does with kubectl, and how it is known that it is done.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use redirect_lab::worker::Worker;
use serde_json::{Value, json};

/// Where `cargo xtask test cluster` puts `deploy/`.
const DEPLOY: &str = "/copy/deploy/overlays";
/// Where the agent's `DaemonSet` is.
pub(super) const AGENT: &str = "/apis/apps/v1/namespaces/redirect-system/daemonsets/redirect-agent";
/// That of ztunnel.
pub(super) const ZTUNNEL: &str = "/apis/apps/v1/namespaces/istio-system/daemonsets/ztunnel";

/// `kubectl apply -k` or `delete -k`, which does not wait here: the namespace controller looks again after a minute or more.
pub(super) fn kustomize(worker: &Worker, verb: &str, overlay: &str) -> Result<()> {
    let since = Instant::now();
    let kubectl = worker.kubectl().args([verb, "-k", &format!("{DEPLOY}/{overlay}")]);
    let said = if verb == "delete" { kubectl.args(["--wait=false"]).run()? } else { kubectl.run()? };
    println!("{said}kubectl {verb} -k {overlay}: {:.1?}", since.elapsed());
    Ok(())
}

/// `kubectl rollout restart`, by what it does.
pub(super) fn restart(worker: &Worker, path: &str, now: &str) -> Result<()> {
    let annotation = json!({ "kubectl.kubernetes.io/restartedAt": now });
    let change = json!({ "spec": { "template": { "metadata": { "annotations": annotation } } } });
    worker.api().patch(path, &change)?.good()?;
    Ok(())
}

/// `kubectl rollout status`: all pods of a `DaemonSet` are of its newest kind, and Ready.
pub(super) fn await_rollout(worker: &Worker, path: &str) -> Result<()> {
    let name = path.rsplit('/').next().unwrap_or(path);
    worker.eventually(&format!("{name} is rolled out"), || {
        let set = worker.api().get(path)?.good()?;
        let (status, wanted) = (&set["status"], &set["metadata"]["generation"]);
        let is_done = status["observedGeneration"] == *wanted
            && status["desiredNumberScheduled"] == 1
            && status["updatedNumberScheduled"] == 1
            && status["numberReady"] == 1;
        ensure!(is_done, "generation {wanted}: {status}");
        Ok(())
    })
}

/// The address of the one pod with this label.
pub(super) fn address(worker: &Worker, namespace: &str, app: &str) -> Result<Ipv4Addr> {
    let pods = worker.pods(namespace, &format!("app={app}"))?;
    let ip =
        pods.first().and_then(|pod| pod["status"]["podIP"].as_str()).with_context(|| format!("{app} has no IP"))?;
    ip.parse().with_context(|| format!("not an address: {ip}"))
}

/// Waits until each pod of a namespace is annotated as redirected, or none is.
pub(super) fn await_annotations(worker: &Worker, namespace: &str, redirected: bool) -> Result<()> {
    let wanted = if redirected { json!("enabled") } else { Value::Null };
    worker.eventually(&format!("pods of {namespace} are annotated {wanted}"), || {
        for pod in worker.pods(namespace, "")? {
            let annotation = &pod["metadata"]["annotations"]["ambient.istio.io/redirection"];
            ensure!(*annotation == wanted, "{}: {annotation}", pod["metadata"]["name"]);
        }
        Ok(())
    })
}
