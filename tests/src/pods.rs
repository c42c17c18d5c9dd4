//! Pods of a lab as they come, change and go: sandbox, program and manifest together, in the order of a real node.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cni::Attachment;
use crate::daemons;
use crate::lab::Lab;
use crate::layout::POD_PORT;
use crate::manifests::Marks;
use crate::netns::Netns;
use crate::node::{ip_batch, prepare};
use crate::pod::{Pod, Role};

/// What a proxy's log is called, around its pod's name.
const LOG_BEGIN: &str = "proxy-";
const LOG_END: &str = ".jsonl";

/// Those of the lab that keeps everything in `dir`. A log is there once its proxy has been started, and stays.
pub(crate) fn proxy_logs(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut logs = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(pod) = name.strip_prefix(LOG_BEGIN).and_then(|name| name.strip_suffix(LOG_END)) {
            logs.insert(pod.to_owned(), path);
        }
    }
    Ok(logs)
}

impl Lab {
    /// All pods, in the order in which they came.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.state.pods
    }

    /// The pod called `name`.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let names = || self.pods().iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(", ");
        self.pods().iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}; there are {}", names()))
    }

    /// The netns of the pod called `name`.
    #[must_use]
    pub fn pod_netns(&self, name: &str) -> Netns {
        Netns::named(format!("{}-pod-{name}", self.name()))
    }

    /// The connections that the proxy in pod `name` has seen, one JSON object per line.
    #[must_use]
    pub fn proxy_log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{LOG_BEGIN}{name}{LOG_END}"))
    }

    /// The logs of all proxies that there are or were, by their pods' names.
    pub fn proxy_logs(&self) -> Result<BTreeMap<String, PathBuf>> {
        proxy_logs(self.dir())
    }

    /// Kills the proxy in pod `name`, which stays as it is: what a crash of ztunnel is until its container is started again.
    pub fn kill_proxy(&mut self, name: &str) -> Result<()> {
        self.end(&daemons::proxy_role(name))
    }

    /// Starts the proxy in pod `name` again.
    pub fn start_proxy(&mut self, name: &str) -> Result<()> {
        let (netns, log) = (self.pod_netns(name), self.proxy_log(name));
        daemons::proxy(self, name, &netns, &log)
    }

    /// Plumbs a pod, starts its program, then shows it to the agent.
    pub fn add_pod(&mut self, pod: Pod) -> Result<&Pod> {
        if self.pods().iter().any(|other| other.name == pod.name) {
            bail!("there is a pod {} already", pod.name);
        }
        let name = pod.name.clone();
        self.state.pods.push(pod);
        self.save()?;
        self.start_pod(&name).with_context(|| format!("pod {name}"))?;
        self.publish(&name)?;
        self.pod(&name)
    }

    /// Ends a pod's program, unplumbs it, then takes its manifest away.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        self.stop_pod(name).with_context(|| format!("pod {name}"))?;
        self.manifests().remove_pod(self.pod(name)?)?;
        self.state.pods.retain(|pod| pod.name != name);
        self.save()
    }

    /// Has the next pod that comes get this address, which nobody has: host-local looks for a free one from behind the last one on.
    pub fn free_address_next(&self, ip: Ipv4Addr) -> Result<()> {
        let before = ip.to_bits().checked_sub(1).map(Ipv4Addr::from_bits).context("there is none before it")?;
        let path = self.with_network(|network| Ok(network.last_address()))?;
        fs::write(&path, before.to_string()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// A new sandbox for the same pod, as after a crash of its sandbox: same UID, another netns and address.
    pub fn restart_pod(&mut self, name: &str) -> Result<()> {
        self.stop_pod(name).with_context(|| format!("pod {name}"))?;
        self.start_pod(name).with_context(|| format!("pod {name}"))?;
        self.publish(name)
    }

    /// Changes what the agent sees of a pod.
    pub fn change_pod(&mut self, name: &str, change: impl FnOnce(&mut Pod)) -> Result<()> {
        change(self.pod_mut(name)?);
        self.publish(name)
    }

    /// Sets (`Some`) or removes (`None`) a label of a pod.
    pub fn label_pod(&mut self, name: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.change_pod(name, |pod| set(&mut pod.labels, key, value))
    }

    /// Sets (`Some`) or removes (`None`) a label of a namespace.
    pub fn label_namespace(&mut self, namespace: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.mark_namespace(namespace, |marks| set(&mut marks.labels, key, value))
    }

    /// Sets (`Some`) or removes (`None`) an annotation of a namespace.
    pub fn annotate_namespace(&mut self, namespace: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.mark_namespace(namespace, |marks| set(&mut marks.annotations, key, value))
    }

    /// Changes a namespace, or makes it.
    pub(crate) fn mark_namespace(&mut self, namespace: &str, change: impl FnOnce(&mut Marks)) -> Result<()> {
        let mut marks = self.state.namespaces.get(namespace).cloned().unwrap_or_default();
        change(&mut marks);
        self.manifests().put_namespace(namespace, &marks)?;
        self.state.namespaces.insert(namespace.to_owned(), marks);
        self.save()
    }

    fn publish(&self, name: &str) -> Result<()> {
        self.save()?;
        self.manifests().put_pod(self.pod(name)?)
    }

    pub(crate) fn pod_mut(&mut self, name: &str) -> Result<&mut Pod> {
        self.state.pods.iter_mut().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
    }

    fn start_pod(&mut self, name: &str) -> Result<()> {
        let netns = self.make_sandbox(name)?;
        let attachment = self.with_network(|network| network.add(&self.container(name), &netns))?;
        self.run_pod(name, attachment)
    }

    /// A netns for a pod, with nothing in it.
    pub(crate) fn make_sandbox(&mut self, name: &str) -> Result<Netns> {
        let netns = self.pod_netns(name);
        self.create_netns(&netns)?;
        prepare(&netns, self.options())?;
        ip_batch(&netns, &["link set lo up"])?;
        Ok(netns)
    }

    /// Starts the program of a pod that has got its interface.
    pub(crate) fn run_pod(&mut self, name: &str, attachment: Attachment) -> Result<()> {
        let netns = self.pod_netns(name);
        let pod = self.pod_mut(name)?;
        pod.ips = vec![attachment.ip.into()];
        pod.host_link = Some(attachment.host_link);
        match pod.role {
            Role::App => daemons::serve(self, name, &netns, POD_PORT),
            Role::Proxy => self.start_proxy(name),
        }
    }

    fn stop_pod(&mut self, name: &str) -> Result<()> {
        let netns = self.pod_netns(name);
        self.end(&daemons::server_role(name))?;
        self.end(&daemons::proxy_role(name))?;
        self.with_network(|network| network.del(&self.container(name), &netns))?;
        self.delete_netns(&netns)
    }

    /// What the runtime calls a pod's container.
    pub(crate) fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.name())
    }
}

fn set(map: &mut BTreeMap<String, String>, key: &str, value: Option<&str>) {
    match value {
        Some(value) => map.insert(key.to_owned(), value.to_owned()),
        None => map.remove(key),
    };
}
