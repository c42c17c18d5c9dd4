//! kubelet and kube-proxy, as they are run where nobody needs their finer points: no hierarchy of cgroups for classes of
//! service, nothing evicted, nothing kept free for the system.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::containerd::{IMAGE, SOCKET};
use crate::kubernetes::accounts::node_files;
use crate::layout::{GUEST_IP, NODE_NAME, POD_SUBNET};

const CONFIGURATION: &str = "/var/lib/kubelet/config.json";

pub(super) fn kubelet(files: &Path) -> Result<Command> {
    let configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Nobody but the node itself gets at it: the API server is outside, and has no way in.
        "address": "127.0.0.1",
        "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "evictionHard": { "memory.available": "1Mi" },
        "failSwapOn": false,
        "featureGates": { "LocalStorageCapacityIsolation": false },
        "imageGCHighThresholdPercent": 100,
        "readOnlyPort": 0,
        "resolvConf": "",
        "volumeStatsAggPeriod": "-1s",
    });
    fs::write(CONFIGURATION, configuration.to_string()).with_context(|| format!("write {CONFIGURATION}"))?;
    let mut command = Command::new("kubelet");
    command.args(["--config", CONFIGURATION]).arg("--kubeconfig").arg(files.join(node_files::KUBELET));
    command.args([format!("--hostname-override={NODE_NAME}"), format!("--node-ip={GUEST_IP}")]);
    command.args(["--container-runtime=remote", &format!("--container-runtime-endpoint=unix://{SOCKET}")]);
    command.args([&format!("--pod-infra-container-image={IMAGE}"), "--v=2"]);
    Ok(command)
}

pub(super) fn kube_proxy(files: &Path) -> Command {
    let mut command = Command::new("kube-proxy");
    command.arg("--kubeconfig").arg(files.join(node_files::KUBE_PROXY));
    command.args([format!("--hostname-override={NODE_NAME}"), format!("--cluster-cidr={POD_SUBNET}")]);
    // The limits of conntrack are the machine's.
    command.args(["--proxy-mode=iptables", "--conntrack-max-per-core=0", "--v=2"]);
    command
}
