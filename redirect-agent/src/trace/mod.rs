//! Tracing one pod in ebpf mode: the programs say what they decide about its packets, and the agent's log shows it.
//!
//! Which pod it is, is part of the plan: its records in the map of pods say so, and no program is loaded for it. It is kept in
//! memory alone; an agent that starts traces nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::Mode;
use crate::enrol::State;
use crate::reconcile::doorbell::Doorbell;
use crate::status::Status;

mod line;
mod reader;

pub(crate) use reader::{Reader, start};

/// How long the loop may take to bring it to the programs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pod that is traced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err("expected NAMESPACE/POD".into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What status says of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Traced {
    #[serde(flatten)]
    pub(crate) pod: Target,
    /// Lines that were too many to be shown, since it is traced.
    pub(crate) lost: u64,
}

/// Has the loop trace `pod`, or none, and waits until the programs know.
pub(crate) async fn request(
    mut status: watch::Receiver<Status>,
    doorbell: &Doorbell,
    pod: Option<Target>,
) -> anyhow::Result<()> {
    check(&status.borrow(), pod.as_ref())?;
    doorbell.trace(pod.clone());
    let stands = |status: &Status| status.trace.as_ref().map(|traced| &traced.pod) == pod.as_ref() && status.ready;
    let changed = timeout(PATIENCE, status.wait_for(stands)).await;
    changed.context("it is asked for, and the programs may not know yet: see the problems in status")??;
    Ok(())
}

/// Whether `pod` can be traced as things are.
fn check(status: &Status, pod: Option<&Target>) -> anyhow::Result<()> {
    if status.mode != Mode::Ebpf.name() {
        let reason = status.fallback_reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        bail!("only programs trace pods, and the agent is in {} mode{reason}", status.mode);
    }
    let Some(wanted) = pod else { return Ok(()) };
    let mut pods = status.pods.iter();
    let known = pods.find(|pod| pod.namespace == wanted.namespace && pod.name == wanted.name);
    let known = known.with_context(|| format!("there is no pod {wanted} on this node"))?;
    let reason = known.reason.as_deref().unwrap_or("see status");
    ensure!(
        matches!(known.state, State::Meshed | State::Pending | State::Bypassed),
        "pod {wanted} is not meshed: {reason}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::OnProxyLoss;
    use crate::enrol::PodVerdict;

    use super::*;

    fn status(mode: &str, state: State) -> Status {
        let pod = PodVerdict {
            namespace: "mesh".into(),
            name: "app-a".into(),
            uid: String::new(),
            ips: Vec::new(),
            ended: false,
            state,
            reason: None,
            on_proxy_loss: OnProxyLoss::default(),
        };
        Status { mode: mode.into(), pods: vec![pod], ..Status::default() }
    }

    #[test]
    fn pods_are_named_with_their_namespace() {
        let target: Target = "mesh/app-a".parse().unwrap();
        assert_eq!(target.to_string(), "mesh/app-a");
        for bad in ["", "app-a", "/app-a", "mesh/", "mesh/app-a/x"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_meshed_pods_are_traced_and_only_by_programs() {
        let known: Target = "mesh/app-a".parse().unwrap();
        let why =
            |mode, state, pod: &Target| check(&status(mode, state), Some(pod)).err().map(|error| error.to_string());
        assert_eq!(why("ebpf", State::Meshed, &known), None);
        assert!(why("iptables", State::Meshed, &known).unwrap().contains("iptables mode"));
        assert!(why("ebpf", State::NotMeshed, &known).unwrap().contains("not meshed"));
        assert!(why("ebpf", State::Meshed, &"mesh/app-x".parse().unwrap()).unwrap().contains("no pod mesh/app-x"));
        assert!(check(&status("iptables", State::Meshed), None).is_err());
    }
}
