//! A lab's node as the node of a real API server: its pods and namespaces are objects there, and its agent is who `deploy/`
//! says, with the rights that `deploy/` gives it and no others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use redirect_common::names::ANNOTATION_REDIRECTION;
use serde_json::{Value, json};

use super::api::{self, Api};
use super::control_plane::{ControlPlane, Options};
use super::{deploy, objects};
use crate::agent::AgentOptions;
use crate::harness;
use crate::layout::{NODE_IP, NODE_NAME};
use crate::pod::Pod;
use crate::scoped::ScopedLab;

/// Where the API has all pods.
pub const PODS: &str = "/api/v1/pods";

/// See the module. The control plane runs in the node's netns, and goes before it does.
#[derive(Debug)]
pub struct Cluster {
    /// etcd and the API server.
    pub control_plane: ControlPlane,
    /// The API as its administrator sees it.
    pub admin: Api,
    /// The API as the agent sees it.
    pub agent: Api,
    kubeconfig: PathBuf,
    /// The node and its pods.
    pub lab: ScopedLab,
}

impl Cluster {
    /// A node with the lab's default pods, known to the API server, and no agent yet.
    pub fn up(prefix: &str) -> Result<Self> {
        let lab = ScopedLab::up(harness::options(prefix)?)?;
        let control_plane = ControlPlane::start(Options { netns: Some(lab.node()), ..Options::default() })?;
        let admin = control_plane.admin();
        deploy::apply(&admin, "ebpf")?;
        let agent = control_plane.service_account(deploy::NAMESPACE, deploy::NAME)?;
        let kubeconfig = control_plane.kubeconfig("agent.json", &agent)?;
        admin.put_node(NODE_NAME, NODE_IP)?;
        for (name, marks) in &lab.state.namespaces {
            admin.put_namespace(name, &marks.labels)?;
        }
        for pod in lab.pods() {
            admin.put_pod(pod)?;
        }
        Ok(Self { control_plane, admin, agent, kubeconfig, lab })
    }

    /// How the agent is run here.
    #[must_use]
    pub fn agent_options(&self) -> AgentOptions {
        AgentOptions { kubeconfig: Some(self.kubeconfig.clone()), ..harness::watchful() }
    }

    /// Starts the agent and waits until the default pods are redirected.
    pub fn start_agent(&mut self) -> Result<()> {
        let options = self.agent_options();
        harness::start(&mut self.lab, &options).map(drop)
    }

    /// Changes what the API server knows of one of the lab's pods.
    pub fn change_pod(&mut self, name: &str, change: impl FnOnce(&mut Pod)) -> Result<Value> {
        self.lab.change_pod(name, change)?;
        self.admin.put_pod(self.lab.pod(name)?)
    }

    /// Sets or removes a label of a pod.
    pub fn label_pod(&mut self, name: &str, key: &str, value: Option<&str>) -> Result<Value> {
        self.lab.label_pod(name, key, value)?;
        self.admin.put_pod(self.lab.pod(name)?)
    }

    /// Sets or removes an annotation of a pod, as a user does.
    pub fn annotate_pod(&self, name: &str, key: &str, value: Option<&str>) -> Result<Value> {
        let path = api::path(&objects::pod(self.lab.pod(name)?))?;
        self.admin.patch(&path, &json!({ "metadata": { "annotations": { key: value } } }))?.good()
    }

    /// Gives a namespace these labels and no others.
    pub fn label_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<Value> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.admin.put_namespace(name, &labels)
    }

    /// What each pod is annotated as, by name.
    pub fn annotations(&self) -> Result<BTreeMap<String, Option<String>>> {
        let list = self.admin.get(PODS)?.good()?;
        let pods = list["items"].as_array().context("a list without items")?;
        Ok(pods.iter().map(|pod| (text(&pod["metadata"]["name"]).unwrap_or_default(), annotation(pod))).collect())
    }
}

/// What this pod is annotated as.
#[must_use]
pub fn annotation(pod: &Value) -> Option<String> {
    text(&pod["metadata"]["annotations"][ANNOTATION_REDIRECTION])
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
