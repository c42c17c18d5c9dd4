//! The objects that the lab keeps in the API server. Pods are bound to their node and given a status here: nobody else does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::api::{Api, path};
use crate::manifests::pod_object;
use crate::pod::Pod;

/// A namespace with exactly these labels.
#[must_use]
pub fn namespace(name: &str, labels: &BTreeMap<String, String>) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

/// A pod as its owner and the scheduler leave it, on the lab's node. The server gives it its UID and its date.
#[must_use]
pub fn pod(pod: &Pod) -> Value {
    let mut object = pod_object(pod);
    for (part, field) in [("metadata", "uid"), ("metadata", "creationTimestamp")] {
        object[part].as_object_mut().and_then(|part| part.remove(field));
    }
    object.as_object_mut().and_then(|object| object.remove("status"));
    object
}

impl Api {
    /// Makes a namespace, or gives it exactly these labels of ours.
    pub fn put_namespace(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<Value> {
        self.apply(&namespace(name, labels))
    }

    /// Makes a node with this address.
    pub fn put_node(&self, name: &str, ip: Ipv4Addr) -> Result<Value> {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        self.apply(&node)?;
        let status = json!({
            "addresses": [{ "type": "InternalIP", "address": ip }],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
        });
        self.patch_status(&node, &status)
    }

    /// Makes a pod, or makes it what the lab knows of it, its status too.
    pub fn put_pod(&self, pod: &Pod) -> Result<Value> {
        let object = self::pod(pod);
        self.apply(&object)?;
        self.patch_status(&object, &pod_object(pod)["status"])
    }

    /// Sets fields of an object's status, as a node does it.
    pub fn patch_status(&self, object: &Value, status: &Value) -> Result<Value> {
        let path = format!("{}/status", path(object)?);
        let answer = self.patch(&path, &json!({ "status": status }))?;
        answer.good().with_context(|| format!("set {path}"))
    }

    /// Marks a pod as to be removed, as for its owner; it is there until [`Self::remove_pod`].
    pub fn terminate_pod(&self, pod: &Pod) -> Result<Value> {
        let path = path(&self::pod(pod))?;
        self.request("DELETE", &path, None)?.good().with_context(|| format!("terminate {path}"))
    }

    /// Removes a pod at once.
    pub fn remove_pod(&self, pod: &Pod) -> Result<Value> {
        let path = path(&self::pod(pod))?;
        self.delete(&path)?.good().with_context(|| format!("remove {path}"))
    }
}
