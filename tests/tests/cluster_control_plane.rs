//! The control plane that the other `cluster_*` tests stand on: what is in it stays, what is not allowed is refused, and what a
//! client of a real one meets (a server that goes and comes back, and history that is gone) can be made to happen.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redirect_lab::command::Cmd;
use redirect_lab::kubernetes::api::Api;
use redirect_lab::kubernetes::control_plane::{ControlPlane, Options};
use redirect_lab::kubernetes::watch::{Event, Watch};
use redirect_lab::layout::{NODE_IP, NODE_NAME};
use redirect_lab::netns::Netns;
use redirect_lab::pod::Pod;
use serde_json::{Value, json};

const NAMESPACE: &str = "mesh";
const PODS: &str = "/api/v1/namespaces/mesh/pods";
/// Long: beside a matrix of guests a request may take seconds.
const SOON: Duration = Duration::from_mins(1);

#[test]
fn objects_are_seen_and_outlive_the_server() -> Result<()> {
    let mut control_plane = ControlPlane::start(Options::default())?;
    let api = control_plane.admin();
    api.put_node(NODE_NAME, NODE_IP)?;
    api.put_namespace(NAMESPACE, &BTreeMap::from([("istio.io/dataplane-mode".to_owned(), "ambient".to_owned())]))?;
    let mut watch = api.watch(PODS, &version(&api)?)?;
    let mut pod = some_pod("app-a", "10.244.1.5")?;
    let made = api.put_pod(&pod)?;
    let added = next(&mut watch, "ADDED")?;
    ensure!(added["metadata"]["uid"] == made["metadata"]["uid"], "another pod: {added}");
    ensure!(added["spec"]["nodeName"] == NODE_NAME, "not on the node: {added}");
    let running = next(&mut watch, "MODIFIED")?;
    ensure!(running["status"]["podIP"] == "10.244.1.5" && running["status"]["phase"] == "Running", "status: {running}");

    // As an agent would do it; the lab's next word on the pod must not take it back.
    api.patch(&format!("{PODS}/app-a"), &json!({ "metadata": { "annotations": { "a/b": "c" } } }))?.good()?;
    next(&mut watch, "MODIFIED")?;
    pod.labels.clear();
    let changed = api.put_pod(&pod)?;
    ensure!(changed["metadata"]["annotations"]["a/b"] == "c", "the annotation is gone: {changed}");
    ensure!(changed["metadata"]["labels"] == Value::Null, "the label stays: {changed}");
    next(&mut watch, "MODIFIED")?;

    control_plane.stop_api_server()?;
    ensure!(watch.next(SOON)?.is_none(), "the watch goes on without a server");
    ensure!(api.get(PODS).is_err(), "it answers");
    control_plane.start_api_server()?;
    let list = api.get(PODS)?.good()?;
    ensure!(list["items"][0]["metadata"]["uid"] == made["metadata"]["uid"], "after a restart: {list}");

    let marked = api.terminate_pod(&pod)?;
    ensure!(marked["metadata"]["deletionTimestamp"].is_string(), "not marked: {marked}");
    api.remove_pod(&pod)?;
    ensure!(api.get(&format!("{PODS}/app-a"))?.status == 404, "the pod is still there");
    Ok(())
}

#[test]
fn accounts_may_do_what_they_are_allowed_to() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default())?;
    let admin = control_plane.admin();
    admin.put_namespace(NAMESPACE, &BTreeMap::new())?;
    let agent = control_plane.service_account(NAMESPACE, "agent")?;
    ensure!(agent.get(PODS)?.status == 403, "an account without rights reads pods");
    ensure!(control_plane.user("nobody").get(PODS)?.status == 401, "an unknown token is taken");

    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    admin.apply(&json!({
        "apiVersion": version, "kind": "ClusterRole", "metadata": { "name": "agent" },
        "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }],
    }))?;
    admin.apply(&json!({
        "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": { "name": "agent" },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "agent" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": NAMESPACE, "name": "agent" }],
    }))?;
    // The server itself learns of new rules by a watch.
    redirect_lab::harness::eventually(SOON, || agent.get(PODS)?.good())?;
    let pod = some_pod("app-a", "10.244.1.5")?;
    ensure!(agent.put_pod(&pod).is_err_and(|error| format!("{error:#}").contains("HTTP 403")), "it makes pods");

    let file = control_plane.kubeconfig("agent.json", &agent)?;
    let kubectl = |words: &str| control_plane.kubectl(&file).map(|kubectl| kubectl.args(words.split(' ')));
    ensure!(kubectl("-n mesh auth can-i list pods")?.run()?.trim() == "yes", "kubectl may not list pods");
    ensure!(kubectl("-n mesh auth can-i patch pods")?.output()?.stdout.trim() == "no", "kubectl may patch pods");
    Ok(())
}

#[test]
fn history_that_is_gone_is_refused() -> Result<()> {
    // The server's own cache would still have it.
    let options = Options { flags: vec!["--watch-cache=false".to_owned()], ..Options::default() };
    let control_plane = ControlPlane::start(options)?;
    let api = control_plane.admin();
    api.put_namespace(NAMESPACE, &BTreeMap::new())?;
    let before = version(&api)?;
    let pod = some_pod("app-a", "10.244.1.5")?;
    api.put_pod(&pod)?;
    next(&mut api.watch(PODS, &before)?, "ADDED")?;
    control_plane.compact()?;
    ensure_expired(&mut api.watch(PODS, &before)?)
}

#[test]
fn a_restart_forgets_history() -> Result<()> {
    let mut control_plane = ControlPlane::start(Options::default())?;
    let api = control_plane.admin();
    api.put_namespace(NAMESPACE, &BTreeMap::new())?;
    let before = version(&api)?;
    let pod = some_pod("app-a", "10.244.1.5")?;
    api.put_pod(&pod)?;
    next(&mut api.watch(PODS, &before)?, "ADDED")?;
    control_plane.stop_api_server()?;
    control_plane.start_api_server()?;
    ensure_expired(&mut api.watch(PODS, &before)?)
}

#[test]
fn it_runs_in_a_netns() -> Result<()> {
    let netns = Netns::named("rl-control-plane");
    netns.delete()?;
    netns.create()?;
    let works = works_inside(&netns);
    netns.delete()?;
    works
}

fn works_inside(netns: &Netns) -> Result<()> {
    Cmd::line("ip link set lo up").netns(netns).run()?;
    let control_plane = ControlPlane::start(Options { netns: Some(netns.clone()), ..Options::default() })?;
    let admin = control_plane.admin();
    admin.put_namespace(NAMESPACE, &BTreeMap::new())?;
    let file = control_plane.kubeconfig("admin.json", &admin)?;
    let seen = control_plane.kubectl(&file)?.args(["get", "namespaces", "-o", "name"]).run()?;
    ensure!(seen.contains("namespace/mesh"), "kubectl sees {seen}");
    // 7 is curl's word for a connection that is refused.
    let server: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    let server = server["clusters"][0]["cluster"]["server"].as_str().context("no server")?.to_owned();
    let outside = Cmd::new("curl").args(["--silent", "--insecure", &server]).output()?;
    ensure!(outside.status.code() == Some(7), "on the host: {outside:?}");
    Ok(())
}

#[test]
fn nothing_is_left() -> Result<()> {
    let control_plane = ControlPlane::start(Options::default())?;
    let dir = control_plane.dir().to_owned();
    let running = processes_of(&dir)?;
    ensure!(running.len() == 2 && dir.exists(), "etcd and the API server expected, but {running:?}");
    drop(control_plane);
    let left = processes_of(&dir)?;
    ensure!(left.is_empty() && !dir.exists(), "left: {left:?}");
    Ok(())
}

/// The command lines that name the folder.
fn processes_of(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // Most have none, and some have ended.
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&dir.display().to_string()) {
            found.push(line);
        }
    }
    Ok(found)
}

fn some_pod(name: &str, ip: &str) -> Result<Pod> {
    let mut pod = Pod::app(NAMESPACE, name)?;
    pod.ips = vec![ip.parse()?];
    Ok(pod)
}

/// The version of all pods at the moment.
fn version(api: &Api) -> Result<String> {
    let list = api.get(PODS)?.good()?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("a list without a version")?.to_owned())
}

/// The next event, which must be of this kind.
fn next(watch: &mut Watch, kind: &str) -> Result<Value> {
    let event = watch.next(SOON)?.context("the watch ended")?;
    ensure!(event.kind == kind, "{kind} expected, but {event:?}");
    Ok(event.object)
}

fn ensure_expired(watch: &mut Watch) -> Result<()> {
    let Event { kind, object } = watch.next(SOON)?.context("the watch ended")?;
    ensure!(kind == "ERROR" && object["code"] == 410, "410 expected, but {kind} {object}");
    Ok(())
}
