//! What a pod is to the lab: the part of the Kubernetes object that the agent reads, and where it is plumbed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::layout::{MESH_NAMESPACE, PLAIN_NAMESPACE, PROXY_NAMESPACE};

/// What runs in a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    /// An echo server.
    App,
    /// The transparent proxy.
    Proxy,
}

/// A pod. The lab knows it by its name alone; namespaces are what the agent sees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// Name, unique in the lab.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// What runs in it.
    pub role: Role,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: String,
    /// `status.conditions[type=Ready]`.
    pub ready: bool,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: u64,
    /// The node's end of its veth, once it is plumbed.
    pub host_link: Option<String>,
}

impl Pod {
    /// A pod with an echo server, not plumbed yet.
    pub fn app(namespace: &str, name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            uid: std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned(),
            role: Role::App,
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            annotations: BTreeMap::new(),
            host_network: false,
            phase: "Running".to_owned(),
            ready: true,
            ips: Vec::new(),
            created: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            host_link: None,
        })
    }

    /// A pod with the transparent proxy, labelled as ztunnel is.
    pub fn proxy(namespace: &str, name: &str) -> Result<Self> {
        let mut pod = Self::app(namespace, name)?;
        pod.role = Role::Proxy;
        pod.labels.insert("app".to_owned(), "ztunnel".to_owned());
        Ok(pod)
    }

    /// Its address in the pod network.
    pub fn ip(&self) -> Result<Ipv4Addr> {
        let v4 = self.ips.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        v4.with_context(|| format!("pod {} has no IPv4 address", self.name))
    }

    /// `namespace/name`, as the agent names it.
    #[must_use]
    pub fn object(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The pods that every lab starts with: two meshed, two not, and ztunnel.
pub(crate) fn defaults() -> Result<Vec<Pod>> {
    Ok(vec![
        Pod::app(MESH_NAMESPACE, "app-a")?,
        Pod::app(MESH_NAMESPACE, "app-b")?,
        Pod::app(PLAIN_NAMESPACE, "plain")?,
        Pod::app(PLAIN_NAMESPACE, "plain-b")?,
        Pod::proxy(PROXY_NAMESPACE, "ztunnel")?,
    ])
}
