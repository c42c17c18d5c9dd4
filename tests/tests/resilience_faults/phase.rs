//! What is done while a write fails: how each begins, when it is over, and what must stand then.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::drift::sections;
use redirect_lab::faults::How;
use redirect_lab::folders::Folders;
use redirect_lab::harness::{eventually, is_settled, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::PROXY_NAMESPACE;
use redirect_lab::mode::Mode;
use redirect_lab::pod::Pod;
use redirect_lab::process::Process;
use redirect_lab::snapshot::Snapshot;
use redirect_lab::status::Status;
use rustix::process::Signal;

/// How long until a fault shows, and until it is made good.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
/// The ztunnel that follows the lab's own.
pub(crate) const NEXT: &str = "ztunnel-next";
const MODE: &str = "istio.io/dataplane-mode";

/// What is done while a write fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// An agent starts where nothing stands.
    Start,
    /// A pod joins.
    Enrol,
    /// It leaves.
    Unenrol,
    /// An agent of another version takes over, whose maps have another layout.
    Upgrade,
    /// The mode becomes the other one.
    Mode,
    /// All of it is taken away.
    Cleanup,
    /// A ztunnel follows one that still runs, until that drains no more.
    Rollout,
}

/// An agent that has a CNI plugin to install, and ends a drain as soon as it has begun, so that a rollout has an end.
fn hasty(lab: &Lab) -> Result<AgentOptions> {
    Folders::of(lab).options(watchful().arg("--drain-timeout=0"))
}

fn is_installed(status: &Status) -> bool {
    status.cni_plugin.as_ref().is_some_and(|plugin| plugin.state == "installed")
}

impl Phase {
    /// Each, where the one before has ended or not far from there.
    pub(crate) const ALL: [Self; 7] =
        [Self::Start, Self::Enrol, Self::Unenrol, Self::Upgrade, Self::Mode, Self::Cleanup, Self::Rollout];

    /// Whether it takes seconds, and not many of them.
    pub(crate) const fn is_brief(self) -> bool {
        !matches!(self, Self::Mode | Self::Rollout)
    }

    /// How the agent is started that does it.
    fn agent(self, lab: &Lab) -> Result<AgentOptions> {
        let usual = hasty(lab)?;
        Ok(match self {
            Self::Upgrade => usual.of_other_version(),
            Self::Mode => usual.in_mode(Mode::from_environment()?.other()),
            _ => usual,
        })
    }

    /// Brings the lab to where the phase begins.
    pub(crate) fn prepare(self, lab: &mut Lab) -> Result<()> {
        match self {
            Self::Start => lab.cleanup_agent().map(drop),
            Self::Enrol | Self::Unenrol => {
                Self::has_agent(lab)?;
                let (mode, meshed) = if self == Self::Enrol { ("none", false) } else { ("ambient", true) };
                lab.label_pod("app-b", MODE, Some(mode))?;
                lab.wait_until(DEADLINE, mode, |status| status.settled && status.meshed("app-b") == meshed).map(drop)
            }
            Self::Upgrade | Self::Mode | Self::Cleanup => {
                lab.label_pod("app-b", MODE, Some("ambient"))?;
                Self::has_agent(lab)?;
                lab.wait_until(SETTLE, "settled", is_settled).map(drop)
            }
            Self::Rollout => {
                Self::has_agent(lab)?;
                match lab.pod(NEXT) {
                    Ok(_) => lab.change_pod(NEXT, |pod| pod.ready = false)?,
                    Err(_) => bring_next(lab)?,
                }
                lab.wait_until(DEADLINE, "with the former", |status| is_alone(status, ZTUNNEL)).map(drop)
            }
        }
    }

    fn has_agent(lab: &mut Lab) -> Result<()> {
        if lab.agent().is_some_and(Process::alive) && !lab.agent_is_usual()? {
            lab.stop_agent(Signal::TERM)?;
        }
        if !lab.agent().is_some_and(Process::alive) {
            lab.start_agent(&hasty(lab)?)?;
        }
        let mode = lab.mode().to_string();
        let ready = |status: &Status| status.settled && status.mode == mode && is_installed(status);
        lab.wait_until(SETTLE, "installed", ready).map(drop)
    }

    /// What makes the agent write.
    pub(crate) fn begin(self, lab: &mut Lab) -> Result<()> {
        match self {
            Self::Start => lab.start_agent(&self.agent(lab)?),
            Self::Upgrade | Self::Mode => {
                lab.stop_agent(Signal::TERM)?;
                lab.start_agent(&self.agent(lab)?)
            }
            Self::Enrol => lab.label_pod("app-b", MODE, Some("ambient")),
            Self::Unenrol => lab.label_pod("app-b", MODE, Some("none")),
            Self::Cleanup => lab.cleanup_agent().map(drop),
            Self::Rollout => lab.change_pod(NEXT, |pod| pod.ready = true),
        }
    }

    /// Waits for its end. An agent that was killed is started anew, as kubelet would do it; any other goes on by itself.
    pub(crate) fn settles(self, lab: &mut Lab, how: Option<How>) -> Result<()> {
        let mode = lab.mode().to_string();
        let wanted = |status: &Status| match self {
            // Where BPF could not be used at first, it is tried again.
            Self::Start | Self::Upgrade | Self::Mode => is_settled(status) && status.mode == mode,
            Self::Enrol => status.settled && status.meshed("app-b"),
            Self::Unenrol => status.settled && !status.meshed("app-b"),
            Self::Cleanup => false,
            Self::Rollout => is_alone(status, NEXT),
        };
        if self == Self::Cleanup {
            // An operator is told that something is left, and does it again.
            return if how.is_some() { eventually(DEADLINE, || lab.cleanup_agent().map(drop)) } else { Ok(()) };
        }
        if how == Some(How::Abort) {
            let killed = || lab.fault_has_fired() && !lab.agent().is_some_and(Process::alive);
            // In vain, if there are not so many writes this time.
            eventually(DEADLINE, || {
                ensure!(killed() || lab.status().is_ok_and(|status| wanted(&status)), "neither killed nor settled");
                Ok(())
            })?;
            if killed() {
                lab.start_agent(&self.agent(lab)?)?;
            }
        }
        lab.wait_until(DEADLINE, &format!("{self:?} settled"), |status| wanted(status) && is_installed(status))
            .map(drop)
    }

    /// What stands: on the node, and in the namespace of each ztunnel.
    pub(crate) fn look(self, lab: &Lab) -> Result<Vec<Snapshot>> {
        let mut places = vec![lab.node(), lab.pod_netns(ZTUNNEL)];
        places.extend((self == Self::Rollout).then(|| lab.pod_netns(NEXT)));
        let look = |netns| match self {
            Self::Cleanup => Ok(Snapshot::exact(netns)?.without_processes()),
            _ => Snapshot::shape(netns, &sections(lab.options().backend)),
        };
        places.iter().map(look).collect()
    }
}

/// Where there are pins: the folders of each layout, and the maps in them. What pins of links are called hangs on devices.
pub(crate) fn pins(lab: &Lab) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders = vec![lab.bpf_dir()];
    while let Some(folder) = folders.pop().filter(|folder| folder.exists()) {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            names.insert(path.strip_prefix(lab.bpf_dir())?.display().to_string());
            folders.extend((path.is_dir() && !path.ends_with("links")).then_some(path));
        }
    }
    Ok(names)
}

/// A second ztunnel, not Ready yet.
fn bring_next(lab: &mut Lab) -> Result<()> {
    let mut pod = Pod::proxy(PROXY_NAMESPACE, NEXT)?;
    pod.ready = false;
    // The newer of two, however fast the lab was made.
    pod.created += 1;
    lab.add_pod(pod).map(drop)
}

/// Whether this ztunnel is programmed, and no other drains.
fn is_alone(status: &Status, name: &str) -> bool {
    status.proxied_by(name) && status.draining.is_none()
}
