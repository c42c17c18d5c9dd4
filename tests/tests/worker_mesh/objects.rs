//! What the cluster's users apply: applications, services, and a ztunnel.

use std::net::{Ipv4Addr, SocketAddrV4};

use redirect_lab::layout::POD_PORT;
use redirect_lab::worker::IMAGE;
use serde_json::{Value, json};

/// The namespace that is to be in the mesh.
pub(super) const MESH: &str = "mesh";
/// One that is gone before anything is compared.
pub(super) const EARLIER: &str = "earlier";
/// One that is not.
pub(super) const OUTSIDE: &str = "outside";
/// Where ztunnel runs.
pub(super) const SYSTEM: &str = "istio-system";
/// Where the node sees what ztunnel writes down.
pub(super) const PROXY_LOG: &str = "/run/lab/ztunnel.jsonl";
/// The service in front of `app-b`.
pub(super) const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);

/// Where applications say by HTTP that they are well.
const HEALTH_PORT: u16 = 8080;
/// How long a probe may take: a process in a container, on an emulated processor.
const PROBE_SECONDS: u64 = 10;
const PROGRAM: &str = "/usr/local/bin/redirect-lab";

/// What makes up an application.
pub(super) fn objects(namespace: &str, name: &str, remote: SocketAddrV4) -> Vec<Value> {
    match name {
        "ztunnel" => vec![ztunnel()],
        // Its first act is a connection.
        "app-a" => vec![application(namespace, name, Some(dial(remote)))],
        "app-b" => vec![application(namespace, name, None), service(namespace, name, SERVICE_IP)],
        _ => vec![application(namespace, name, None)],
    }
}

/// A namespace.
pub(super) fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// One pod that serves on port 80 and is probed by kubelet in each way that there is; before that it runs `first`, if that is something.
fn application(namespace: &str, name: &str, first: Option<Value>) -> Value {
    let probe = |way: &str, how: Value| json!({ way: how, "periodSeconds": 2, "timeoutSeconds": PROBE_SECONDS, "failureThreshold": 3 });
    let server = json!({
        "name": "server", "image": IMAGE,
        "command": [
            PROGRAM, "serve", "--name", name,
            "--listen", format!("0.0.0.0:{POD_PORT}"), "--health", format!("0.0.0.0:{HEALTH_PORT}"),
        ],
        "startupProbe": probe("exec", json!({ "command": [PROGRAM, "--version"] })),
        "readinessProbe": probe("tcpSocket", json!({ "port": POD_PORT })),
        "livenessProbe": probe("httpGet", json!({ "path": "/", "port": HEALTH_PORT })),
    });
    let first: Vec<Value> = first.into_iter().collect();
    let spec = json!({ "terminationGracePeriodSeconds": 1, "initContainers": first, "containers": [server] });
    workload("Deployment", namespace, name, &spec)
}

/// A container whose first act is a connection.
fn dial(to: SocketAddrV4) -> Value {
    json!({ "name": "dial", "image": IMAGE, "command": [PROGRAM, "dial", to.to_string()] })
}

/// The lab's proxy on every node.
fn ztunnel() -> Value {
    let folder = PROXY_LOG.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let proxy = json!({
        "name": "proxy", "image": IMAGE,
        "command": [PROGRAM, "proxy", "--log", PROXY_LOG],
        // Sockets with other people's addresses.
        "securityContext": { "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] } },
        "volumeMounts": [{ "name": "log", "mountPath": folder }],
    });
    let log = json!({ "name": "log", "hostPath": { "path": folder, "type": "DirectoryOrCreate" } });
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [proxy], "volumes": [log] });
    workload("DaemonSet", SYSTEM, "ztunnel", &spec)
}

fn workload(kind: &str, namespace: &str, name: &str, pod: &Value) -> Value {
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": { "namespace": namespace, "name": name },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    })
}

/// A service with this address in front of an application.
fn service(namespace: &str, name: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "clusterIP": address, "selector": { "app": name }, "ports": [{ "port": POD_PORT, "protocol": "TCP" }] },
    })
}
