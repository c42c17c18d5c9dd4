//! An agent starts on a node that has very many pods.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::figure::Spread;
use super::{membership, settle};
use crate::agent::AgentOptions;
use crate::lab::Lab;
use crate::layout::{MESH_NAMESPACE, NODE_IP, NODE_NAME};
use crate::mode::Mode;

/// The first pod's address is the one after it.
const BASE: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 0);
const PODS_PER_FILE: usize = 100;

/// One cold start.
pub(super) struct Start {
    took: Duration,
    peak_kb: u64,
    processes: u64,
}

/// Cold starts in one mode.
#[derive(Debug, Serialize)]
pub struct Cold {
    mode: String,
    /// How many pods there were.
    pods: usize,
    /// From the agent's start until the kernel knew the last of them, milliseconds.
    enrolled: Spread,
    /// The agent's largest resident set (`VmHWM`), MB.
    peak_mb: f64,
    /// Tools that the agent ran until it had settled.
    processes: u64,
}

/// Starts an agent with `pods` pods, and waits until the kernel knows them all.
pub(super) fn start(lab: &mut Lab, mode: Mode, pods: usize) -> Result<Start> {
    write_manifests(lab, pods)?;
    let meshed = lab.pods().iter().filter(|pod| pod.namespace == MESH_NAMESPACE).count();
    let last = address(pods).context("too many pods")?;
    let since = Instant::now();
    // Nothing but the start may cost anything while it is measured.
    lab.start_agent(&AgentOptions::default().in_mode(mode).arg("--no-fallback"))?;
    // They are written in the order of their addresses.
    let took = membership::wait(lab, mode, last, true, since)?;
    settle(lab)?;
    let there = membership::count(lab, mode)?;
    ensure!(there == pods + meshed, "{there} pods are in, not {}", pods + meshed);
    let agent = lab.agent().context("there is no agent")?.pid;
    Ok(Start { took, peak_kb: peak_kb(agent)?, processes: lab.status()?.processes })
}

fn write_manifests(lab: &Lab, pods: usize) -> Result<()> {
    let numbers: Vec<usize> = (1..=pods).collect();
    for (file, numbers) in numbers.chunks(PODS_PER_FILE).enumerate() {
        let mut text = String::new();
        for number in numbers {
            let ip = address(*number).context("too many pods")?;
            write!(text, "---\n{}", manifest(*number, ip))?;
        }
        lab.manifests().write(&format!("many-{file}.yaml"), &text)?;
    }
    Ok(())
}

pub(super) fn address(number: usize) -> Option<Ipv4Addr> {
    BASE.to_bits().checked_add(u32::try_from(number).ok()?).map(Ipv4Addr::from_bits)
}

pub(super) fn manifest(number: usize, ip: Ipv4Addr) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: many-{number}, namespace: {MESH_NAMESPACE}, uid: many-{number} }}\n\
         spec: {{ nodeName: {NODE_NAME} }}\nstatus: {{ phase: Running, podIP: {ip}, hostIP: {NODE_IP} }}\n"
    )
}

/// The process's largest resident set so far, in units of 1024 bytes (`proc_pid_status(5)`).
fn peak_kb(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no VmHWM")?;
    Ok(number.parse()?)
}

impl Cold {
    pub(super) const HEAD: &str =
        "\ncold start       pods   min ms    p50 ms    p99 ms    max ms    peak MB  processes\n";

    pub(super) fn of(mode: Mode, pods: usize, starts: &[Start]) -> Self {
        let times: Vec<_> = starts.iter().map(|start| start.took).collect();
        let most = starts.iter().map(|start| start.peak_kb).max().unwrap_or_default();
        let processes = starts.iter().map(|start| start.processes).max().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "nobody has that much memory")]
        let peak_mb = most as f64 * 1024.0 / 1e6;
        Self { mode: mode.to_string(), pods, enrolled: Spread::of(&times), peak_mb, processes }
    }

    pub(super) fn row(&self) -> String {
        let Self { mode, pods, enrolled, peak_mb, processes } = self;
        format!("{mode:<12}{pods:>9}{}{peak_mb:>11.1}{processes:>11}\n", enrolled.columns())
    }
}
