//! The folder of Kubernetes manifests that the agent watches: one file per object, replaced atomically.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::layout::{NODE_IP, NODE_NAME};
use crate::pod::Pod;
use crate::time::rfc3339;

/// What is attached to an object by name.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marks {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}

/// A folder of manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// The manifests in `dir`.
    #[must_use]
    pub fn in_dir(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes the folder.
    pub(crate) fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))
    }

    /// Writes `text` as `file`, in one step for whoever watches.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let temporary = self.dir.join(format!(".{file}"));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, self.dir.join(file)))
            .with_context(|| format!("cannot write manifest {file}"))
    }

    /// Removes `file`.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.dir.join(file)).with_context(|| format!("cannot remove manifest {file}"))
    }

    /// Writes a namespace.
    pub fn put_namespace(&self, name: &str, marks: &Marks) -> Result<()> {
        let Marks { labels, annotations } = marks;
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "uid": format!("namespace-{name}"), "labels": labels, "annotations": annotations },
        });
        self.write(&format!("ns-{name}.yaml"), &yaml(&object)?)
    }

    /// Writes a pod.
    pub fn put_pod(&self, pod: &Pod) -> Result<()> {
        self.write(&pod_file(pod), &yaml(&pod_object(pod))?)
    }

    /// Writes pods that are told of all at once, as `file`.
    pub fn put_pods(&self, file: &str, pods: &[Pod]) -> Result<()> {
        let documents = pods.iter().map(|pod| yaml(&pod_object(pod))).collect::<Result<Vec<_>>>()?;
        self.write(file, &documents.join("\n---\n"))
    }

    /// Removes a pod.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.remove(&pod_file(pod))
    }
}

/// Name of the file that holds `pod`.
#[must_use]
pub fn pod_file(pod: &Pod) -> String {
    format!("pod-{}-{}.yaml", pod.namespace, pod.name)
}

/// A pod as all who have a say in it leave it.
pub(crate) fn pod_object(pod: &Pod) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": pod.namespace,
            "uid": pod.uid,
            "creationTimestamp": rfc3339(pod.created),
            "labels": pod.labels,
            "annotations": pod.annotations,
        },
        "spec": {
            "nodeName": NODE_NAME,
            "hostNetwork": pod.host_network,
            "containers": [{ "name": "main", "image": "redirect-lab" }],
        },
        "status": {
            "phase": pod.phase,
            "hostIP": NODE_IP,
            "conditions": [{ "type": "Ready", "status": if pod.ready { "True" } else { "False" } }],
        },
    });
    if let Some(first) = pod.ips.first() {
        object["status"]["podIP"] = json!(first);
        object["status"]["podIPs"] = pod.ips.iter().map(|ip| json!({ "ip": ip })).collect();
    }
    object
}

fn yaml(object: &Value) -> Result<String> {
    serde_saphyr::to_string(object).context("cannot write an object as YAML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_survives_yaml() -> Result<()> {
        let mut pod = Pod::app("mesh", "app-a")?;
        pod.labels.insert("istio.io/dataplane-mode".to_owned(), "none".to_owned());
        pod.annotations.insert("flag".to_owned(), "true".to_owned());
        pod.ips.push("10.244.1.5".parse()?);
        let object = pod_object(&pod);
        let text = yaml(&object)?;
        assert_eq!(serde_saphyr::from_str::<Value>(&text)?, object, "{text}");
        Ok(())
    }
}
