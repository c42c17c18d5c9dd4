//! What our plugin adds to the start of a pod: starts by `ptp` alone and by the whole chain in turn, so that what disturbs the machine
//! disturbs both alike.
//!
//! On a kernel without GENEVE there is no ztunnel, and so no meshed pod starts: the pods that are measured are in no mesh then. For
//! those, too, the plugin asks the agent and the agent looks at the node before it answers.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::agent::AgentOptions;
use crate::enrolment::{self, Spread};
use crate::lab::Lab;
use crate::layout::{MESH_NAMESPACE, PLAIN_NAMESPACE};
use crate::mode::{Attach, Mode};
use crate::pod::Pod;
use crate::runtime::{Chain, Sandbox, leases};

/// How long the agent may take to hear of a pod.
const NOTICE: Duration = Duration::from_secs(30);

/// How programs are attached makes a difference: for TCX the kernel waits for a grace period of RCU with each of a pod's two
/// (`tcx_entry_sync`, `include/net/tcx.h`), and keeps all changes of the node's network waiting.
const MODES: [(&str, Mode, Option<Attach>); 3] = [
    ("ebpf", Mode::Ebpf, None),
    ("ebpf, clsact", Mode::Ebpf, Some(Attach::Clsact)),
    ("iptables", Mode::Iptables, None),
];

/// Starts in all modes.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Whether the pods were in the mesh.
    pub meshed: bool,
    /// Of each kind of start, in each mode.
    pub starts: usize,
    /// A mode each.
    pub modes: Vec<Starts>,
}

/// How long starts took in one mode.
#[derive(Debug, Serialize)]
pub struct Starts {
    mode: &'static str,
    /// Of the plugin that makes the interface, in a list of its own.
    alone: Spread,
    /// Of the whole list.
    chain: Spread,
    /// Of our plugin in it.
    added: Spread,
}

#[derive(Default)]
struct Times {
    alone: Vec<Duration>,
    chain: Vec<Duration>,
    added: Vec<Duration>,
}

/// The network of a lab's own pods, with our plugin behind it.
#[must_use]
pub fn chain(lab: &Lab) -> Chain {
    Chain {
        topology: lab.options().topology,
        node: lab.node(),
        data_dir: leases(lab.dir()),
        range: (Ipv4Addr::new(10, 244, 1, 128), Ipv4Addr::new(10, 244, 1, 143)),
        socket: lab.agent_dir().join("cni.sock"),
        exclude: vec!["kube-system".to_owned()],
        redirects: true,
        program: None,
    }
}

/// Starts `rounds` pods in either way, in each mode.
pub fn measure(rounds: usize) -> Result<Figures> {
    let meshed = enrolment::has_geneve();
    let mut modes = Vec::new();
    for (name, mode, tc_attach) in MODES {
        let mut lab = enrolment::lab(meshed)?;
        let options = AgentOptions { tc_attach, ..AgentOptions::default().in_mode(mode) };
        lab.start_agent(&options.arg("--no-fallback"))?;
        enrolment::settle(&lab)?;
        let times = starts(&lab, if meshed { MESH_NAMESPACE } else { PLAIN_NAMESPACE }, rounds)?;
        modes.push(times.spread(name));
    }
    Ok(Figures { meshed, starts: rounds, modes })
}

fn starts(lab: &Lab, namespace: &str, rounds: usize) -> Result<Times> {
    let with = chain(lab);
    let without = Chain { redirects: false, ..with.clone() };
    let mut times = Times::default();
    for round in 0..rounds {
        // Which of the two is first changes, too.
        for redirects in [round % 2 == 0, round % 2 == 1] {
            if redirects {
                let (chain, added) = one(lab, &with, namespace, round)?;
                times.chain.push(chain);
                times.added.push(added);
            } else {
                times.alone.push(one(lab, &without, namespace, round)?.0);
            }
        }
    }
    Ok(times)
}

impl Times {
    fn spread(&self, mode: &'static str) -> Starts {
        let Self { alone, chain, added } = self;
        Starts { mode, alone: Spread::of(alone), chain: Spread::of(chain), added: Spread::of(added) }
    }
}

/// The agent has heard of the pod before: how late the API server's watch is, is no figure of the plugin's.
fn one(lab: &Lab, chain: &Chain, namespace: &str, round: usize) -> Result<(Duration, Duration)> {
    let pod = Pod::app(namespace, &format!("start-{round}"))?;
    if chain.redirects {
        lab.manifests().put_pod(&pod)?;
        lab.wait_until(NOTICE, "aware of the pod", |status| status.pod(&pod.name).is_some())?;
    }
    let sandbox = Sandbox::create(&format!("{}-start", lab.name()), &pod)?;
    let begun = Instant::now();
    let mut result = chain.interface("ADD", &sandbox, None)?;
    let ours = Instant::now();
    if chain.redirects {
        result = chain.redirect("ADD", &sandbox, &result)?;
    }
    let (whole, added) = (begun.elapsed(), ours.elapsed());
    chain.del(&sandbox, Some(&result))?;
    if chain.redirects {
        lab.manifests().remove_pod(&pod)?;
        lab.wait_until(NOTICE, "without the pod", |status| status.pod(&pod.name).is_none())?;
    }
    Ok((whole, added))
}

/// As a table.
#[must_use]
pub fn render(figures: &Figures) -> String {
    let Figures { meshed, starts, modes } = figures;
    let of = if *meshed { "in the mesh" } else { "that are not in the mesh" };
    let mut text = format!("{starts} starts each of pods {of}\n\n");
    let _ = writeln!(text, "{:<36}{:>10}{:>10}{:>10}{:>10}", "ADD", "min ms", "p50 ms", "p99 ms", "max ms");
    for Starts { mode, alone, chain, added } in modes {
        for (what, spread) in [("ptp alone", alone), ("ptp and redirect-cni", chain), ("redirect-cni in it", added)] {
            let _ = writeln!(text, "{:<36}{}", format!("{mode:<14}{what}"), spread.columns());
        }
    }
    text
}
