//! What our plugin adds to the start of a pod: starts by `ptp` or `bridge` alone and by the whole chain in turn, so that what
//! disturbs the machine disturbs both alike.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::lab::Lab;
use crate::pod::Pod;
use crate::runtime::{Chain, Sandbox, leases};

/// How long the agent may take to hear of a pod.
const NOTICE: Duration = Duration::from_secs(30);

/// Durations of starts, in the order in which they were measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Of the plugin that makes the interface, in a list of its own.
    pub alone: Vec<Duration>,
    /// Of the whole list.
    pub chain: Vec<Duration>,
    /// Of our plugin in it.
    pub added: Vec<Duration>,
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
    }
}

/// Starts pods of a namespace, as many in either way.
pub fn measure(lab: &Lab, namespace: &str, rounds: usize) -> Result<Figures> {
    let with = chain(lab);
    let without = Chain { redirects: false, ..with.clone() };
    let mut figures = Figures::default();
    for round in 0..rounds {
        // Which of the two is first changes, too.
        for redirects in [round % 2 == 0, round % 2 == 1] {
            if redirects {
                let (chain, added) = one(lab, &with, namespace, round)?;
                figures.chain.push(chain);
                figures.added.push(added);
            } else {
                figures.alone.push(one(lab, &without, namespace, round)?.0);
            }
        }
    }
    Ok(figures)
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
    let mut text = format!("{:<34}{:>8}{:>12}{:>12}\n", "ADD", "starts", "median", "p99");
    let Figures { alone, chain, added } = figures;
    for (name, durations) in
        [("the interface's plugin alone", alone), ("the chain with redirect-cni", chain), ("redirect-cni in it", added)]
    {
        let at = |share| milliseconds(quantile(durations, share));
        let _ = writeln!(text, "{name:<34}{:>8}{:>12}{:>12}", durations.len(), at(50), at(99));
    }
    text
}

fn quantile(durations: &[Duration], percent: usize) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let hundred: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&hundred, 50), Duration::from_millis(50));
        assert_eq!(quantile(&hundred, 99), Duration::from_millis(99));
        assert_eq!(quantile(&hundred[..1], 99), Duration::from_millis(100));
        assert_eq!(quantile(&[], 50), Duration::ZERO);
    }
}
