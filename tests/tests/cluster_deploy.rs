//! What `deploy/` holds is what an API server takes, from the kubectl with the oldest kustomize that is around; the role is no
//! wider than it must be, and the overlay that uninstalls takes the agents' place.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use redirect_lab::command::Output;
use redirect_lab::kubernetes::control_plane::{ControlPlane, Options};
use redirect_lab::kubernetes::deploy::{self, NAME, NAMESPACE, OVERLAYS};
use serde_json::{Value, json};

/// What the agent does, cluster-wide; `docs/agent.md` says what breaks without each.
const RIGHTS: [(&str, &str); 5] =
    [("list", "namespaces"), ("list", "pods"), ("patch", "pods"), ("watch", "namespaces"), ("watch", "pods")];
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const RESOURCES: [&str; 9] = [
    "configmaps",
    "namespaces",
    "nodes",
    "pods",
    "pods/exec",
    "pods/status",
    "secrets",
    "serviceaccounts/token",
    "services",
];

#[test]
fn the_api_server_takes_every_overlay() -> Result<()> {
    let cluster = Cluster::start()?;
    // A dry run makes no namespace for what is in it.
    cluster.control_plane.admin().put_namespace(NAMESPACE, &BTreeMap::new())?;
    for overlay in OVERLAYS {
        let manifests = deploy::build(overlay)?;
        let said = cluster.dry_run(&manifests)?;
        ensure!(said.status.success(), "{overlay}: {}", said.stderr);
        let taken = said.stdout.lines().filter(|line| line.ends_with("(server dry run)")).count();
        ensure!(taken == deploy::objects(overlay)?.len(), "{overlay}: {}", said.stdout);
        // What a daemon set is made of is judged as a pod only when one is made.
        let pod = pod_of(&deploy::object(overlay, "DaemonSet")?);
        let said = cluster.dry_run(&pod.to_string())?;
        ensure!(said.status.success(), "{overlay}, as a pod: {}", said.stderr);
    }
    Ok(())
}

/// What would be wrong with a manifest is found: by kubectl, and by the server.
#[test]
fn what_is_wrong_is_refused() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.control_plane.admin().put_namespace(NAMESPACE, &BTreeMap::new())?;
    let good = deploy::build("ebpf")?;
    for (from, to, about) in [
        ("readOnlyRootFilesystem", "readOnlyRootFs", "unknown field"),
        ("type: RuntimeDefault", "type: Default", "Unsupported value"),
        ("kubernetes.io/agent: unconfined", "kubernetes.io/nobody: unconfined", "container not found"),
        ("name: cni-conf\n      dns", "name: cni-config\n      dns", "Not found"),
    ] {
        let bad = good.replacen(from, to, 1);
        ensure!(bad != good, "{from} is not in the overlay");
        let said = cluster.dry_run(&bad)?;
        ensure!(!said.status.success() && said.stderr.contains(about), "{to}: {said:?}");
    }
    Ok(())
}

#[test]
fn the_role_is_as_narrow_as_can_be() -> Result<()> {
    let cluster = Cluster::start()?;
    let admin = cluster.control_plane.admin();
    deploy::apply(&admin, "ebpf")?;
    let allowed = |verb: &str, resource: &str| -> Result<bool> {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{NAMESPACE}:{NAME}"),
                "resourceAttributes": { "verb": verb, "resource": resource, "subresource": part },
            },
        });
        let answer = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review)?.good()?;
        answer["status"]["allowed"].as_bool().with_context(|| format!("no answer: {answer}"))
    };
    // The server learns of new rules by a watch.
    redirect_lab::harness::eventually(std::time::Duration::from_mins(1), || {
        ensure!(allowed("list", "pods")?, "it may not list pods");
        Ok(())
    })?;
    let mut found = BTreeSet::new();
    for verb in VERBS {
        for resource in RESOURCES {
            if allowed(verb, resource)? {
                found.insert((verb, resource));
            }
        }
    }
    ensure!(found == BTreeSet::from(RIGHTS), "the agent may {found:?}");
    Ok(())
}

#[test]
fn uninstalling_takes_the_agents_place() -> Result<()> {
    let cluster = Cluster::start()?;
    let admin = cluster.control_plane.admin();
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{NAME}");
    for (overlay, first, stays) in [("ebpf", None, "agent"), ("uninstall", Some("cleanup"), "done")] {
        cluster.kubectl(&["apply", "-k"], overlay)?;
        let pod = admin.get(&path)?.good()?["spec"]["template"]["spec"].clone();
        let names = |kind: &str| -> Vec<String> {
            let containers = pod[kind].as_array().into_iter().flatten();
            containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
        };
        ensure!(names("initContainers") == first.into_iter().collect::<Vec<_>>(), "{overlay}: {pod}");
        ensure!(names("containers") == [stays], "{overlay}: {pod}");
    }
    cluster.kubectl(&["delete", "--wait=false", "-k"], "uninstall")?;
    ensure!(admin.get(&path)?.status == 404, "the daemon set is still there");
    Ok(())
}

/// One image, of this version, wherever one is named; and what an agent is told is what an agent knows.
#[test]
fn images_are_those_of_this_version() -> Result<()> {
    for overlay in OVERLAYS {
        let wanted = format!("{NAME}:{}", env!("CARGO_PKG_VERSION"));
        let template = deploy::object(overlay, "DaemonSet")?["spec"]["template"]["spec"].clone();
        let containers = ["initContainers", "containers"].map(|kind| template[kind].as_array().cloned());
        for container in containers.into_iter().flatten().flatten() {
            ensure!(container["image"] == wanted.as_str(), "{overlay}: {} is not {wanted}", container["image"]);
        }
    }
    Ok(())
}

struct Cluster {
    control_plane: ControlPlane,
    admin: PathBuf,
}

impl Cluster {
    fn start() -> Result<Self> {
        let control_plane = ControlPlane::start(Options::default())?;
        let admin = control_plane.kubeconfig("admin.json", &control_plane.admin())?;
        Ok(Self { control_plane, admin })
    }

    fn dry_run(&self, manifests: &str) -> Result<Output> {
        let kubectl = self.control_plane.kubectl(&self.admin)?.args(["apply", "--dry-run=server", "-f", "-"]);
        kubectl.stdin(manifests).output()
    }

    fn kubectl(&self, words: &[&str], overlay: &str) -> Result<String> {
        self.control_plane.kubectl(&self.admin)?.args(words).args([deploy::folder(overlay)?]).run()
    }
}

/// A pod as the daemon set's controller would make it.
fn pod_of(daemon_set: &Value) -> Value {
    let mut pod = daemon_set["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("one");
    pod["metadata"]["namespace"] = json!(NAMESPACE);
    pod
}
