//! Pods and namespaces as far as enrolment looks at them. They are read straight from what the API server or a manifest says,
//! and the rest, `managedFields` and containers above all, is never held: this runs on every node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redirect_common::names::{
    ANNOTATION_ON_PROXY_LOSS, ANNOTATION_REDIRECTION, ANNOTATION_SIDECAR, LABEL_MODE, MODE_AMBIENT, PROXY_APP,
    REDIRECTION_DISABLED,
};
use serde::Deserialize;

/// On the mirror of a static pod, its UID on the node (`ConfigMirrorAnnotationKey`, `pkg/kubelet/types/pod_update.go` in Kubernetes).
const ANNOTATION_MIRROR: &str = "kubernetes.io/config.mirror";

/// So much of an annotation is held, in characters. What says something is shorter, and a tenant may write 256 KiB into each of a thousand
/// namespaces (`TotalAnnotationSizeLimitB`, `apimachinery/pkg/api/validation/objectmeta.go`), which are held on every node.
const WORD: usize = 64;

/// A namespace.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// Whether it is labelled into the mesh.
    pub(crate) is_ambient: bool,
    /// Its annotation [`ANNOTATION_ON_PROXY_LOSS`], or how that begins.
    pub(crate) on_proxy_loss: Option<String>,
}

/// A pod. Two are equal when enrolment cannot tell them apart; that the agent has annotated one makes no difference.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(from = "Wire")]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The UID that the runtime knows a static pod by: kubelet's own, before the API server has given its mirror another.
    pub(crate) runtime_uid: Option<String>,
    /// `spec.nodeName`.
    pub(crate) node: Option<String>,
    /// When it was created, in nanoseconds.
    pub(crate) created: Option<i128>,
    /// Its own label [`LABEL_MODE`].
    pub(crate) mode: Option<String>,
    /// Whether it is labelled as ztunnel, in whatever namespace.
    pub(crate) is_proxy: bool,
    /// Whether a user has annotated it out of the mesh.
    pub(crate) is_disabled: bool,
    pub(crate) has_sidecar: bool,
    pub(crate) is_host_network: bool,
    /// How it has ended.
    pub(crate) ended: Option<Ended>,
    pub(crate) is_ready: bool,
    /// Whether it has been told to end; it may be Ready until it has.
    pub(crate) is_terminating: bool,
    /// Every address, or what is wrong with the list.
    pub(crate) ips: Result<Vec<IpAddr>, String>,
    /// The node's address.
    pub(crate) host_ip: Option<Ipv4Addr>,
}

/// The phases of pods that have ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    Succeeded,
    Failed,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        })
    }
}

/// An object as it is written.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Wire {
    pub(super) metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    pub(super) resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    pub(super) deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    host_network: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Metadata {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The begin of an annotation, to be held.
    fn word(&self, key: &str) -> Option<String> {
        self.annotation(key).map(|text| text.chars().take(WORD).collect())
    }

    pub(super) fn uid(&self) -> String {
        self.uid.clone().unwrap_or_default()
    }
}

impl From<Wire> for Namespace {
    fn from(wire: Wire) -> Self {
        let is_ambient = wire.metadata.label(LABEL_MODE) == Some(MODE_AMBIENT);
        let on_proxy_loss = wire.metadata.word(ANNOTATION_ON_PROXY_LOSS);
        Self { name: wire.metadata.name.unwrap_or_default(), is_ambient, on_proxy_loss }
    }
}

impl From<Wire> for Pod {
    fn from(wire: Wire) -> Self {
        let (spec, status) = (wire.spec.unwrap_or_default(), wire.status.unwrap_or_default());
        let meta = wire.metadata;
        Self {
            node: spec.node_name,
            created: meta.creation_timestamp.as_ref().map(|time| time.0.as_nanosecond()),
            mode: meta.label(LABEL_MODE).map(str::to_owned),
            is_proxy: meta.label("app") == Some(PROXY_APP),
            is_disabled: meta.annotation(ANNOTATION_REDIRECTION) == Some(REDIRECTION_DISABLED),
            has_sidecar: meta.annotation(ANNOTATION_SIDECAR).is_some(),
            is_host_network: spec.host_network.unwrap_or_default(),
            ended: status.ended(),
            is_ready: status.is_ready(),
            is_terminating: meta.deletion_timestamp.is_some(),
            ips: status.ips(),
            host_ip: status.host_ip.and_then(|ip| ip.parse().ok()),
            runtime_uid: meta.word(ANNOTATION_MIRROR),
            uid: meta.uid.unwrap_or_default(),
            namespace: meta.namespace.unwrap_or_else(|| "default".to_owned()),
            name: meta.name.unwrap_or_default(),
        }
    }
}

impl Status {
    fn ended(&self) -> Option<Ended> {
        match self.phase.as_deref()? {
            "Succeeded" => Some(Ended::Succeeded),
            "Failed" => Some(Ended::Failed),
            _ => None,
        }
    }

    fn is_ready(&self) -> bool {
        self.conditions.iter().flatten().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }

    fn ips(&self) -> Result<Vec<IpAddr>, String> {
        let several = self.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        let mut ips = Vec::new();
        for text in self.pod_ip.as_deref().into_iter().chain(several).filter(|text| !text.is_empty()) {
            let ip = text.parse().map_err(|_| format!("has an IP that cannot be read: {text:?}"))?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        Ok(ips)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_long_annotation_the_begin_is_held() {
        let word = |text: &str| {
            let annotations = json!({ ANNOTATION_ON_PROXY_LOSS: text });
            let namespace = json!({ "metadata": { "name": "a", "annotations": annotations } });
            serde_json::from_value::<Namespace>(namespace).unwrap().on_proxy_loss.unwrap()
        };
        assert_eq!(word("bypass"), "bypass");
        assert_eq!(word(&"ü".repeat(100_000)), "ü".repeat(WORD));
    }

    #[test]
    fn what_the_agent_or_the_kubelet_writes_beside_the_point_makes_no_other_pod() {
        let plain = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "uid": "u", "resourceVersion": "1" },
            "spec": { "nodeName": "n", "containers": [{ "name": "c" }] }, "status": { "podIP": "10.0.0.1", "conditions": null } });
        let mut later = plain.clone();
        later["metadata"]["resourceVersion"] = json!("2");
        later["metadata"]["annotations"] = json!({ ANNOTATION_REDIRECTION: "enabled" });
        later["metadata"]["managedFields"] = json!([{ "manager": "kubelet", "fieldsV1": { "f:status": {} } }]);
        let (plain, later): (Pod, Pod) =
            (serde_json::from_value(plain).unwrap(), serde_json::from_value(later).unwrap());
        assert_eq!(plain, later);
        let disabled = json!({ "metadata": { "annotations": { ANNOTATION_REDIRECTION: "disabled" } } });
        assert!(serde_json::from_value::<Pod>(disabled).unwrap().is_disabled);
    }

    #[test]
    fn a_pod_is_small() {
        assert!(size_of::<Pod>() <= 256, "{}", size_of::<Pod>());
    }
}
