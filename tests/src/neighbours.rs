//! Others on the node of a suite: they are there before the agent is, and when it has been cleaned up they are as they were, and so is all
//! else. A suite has them move in at its beginning, and asks them at its end.

use anyhow::{Context, Result, ensure};

use crate::client::probe;
use crate::demo::ZTUNNEL;
use crate::drift::sections;
use crate::foreign::{self, Foreign, Place, Statistics, Verdict};
use crate::lab::Lab;
use crate::mode::Attach;
use crate::pod::Role;
use crate::programs::{Hook, has_tcx};
use crate::restored::Before;
use crate::snapshot::{Section, Snapshot};

/// What takes the place of an address that two namespaces cannot share.
const OWN: &str = "OWN";

/// They, and how everything was when they had moved in.
#[derive(Debug)]
pub struct Neighbours {
    /// On whose veth programs of others are: a pod that is there all the time.
    host: String,
    before: Before,
    /// A ztunnel's namespace with nobody in it but ztunnel.
    fresh: Snapshot,
    programs: Vec<Foreign>,
}

impl Neighbours {
    /// Puts them on the node and into ztunnel's namespace, on which nothing of the agent's stands, and writes down how it is with them.
    pub fn move_in(lab: &Lab) -> Result<Self> {
        let plumbed = lab.pods().iter().find(|pod| pod.role == Role::App && pod.host_link.is_some());
        let host = plumbed.context("no pod is plumbed")?.name.clone();
        let fresh = fresh(lab, ZTUNNEL)?;
        foreign::put(lab)?;
        foreign::connection(lab)?;
        let mut programs = attach(lab, &host, Place::Early)?;
        programs.extend(attach(lab, &host, Place::Last)?);
        let before = Before::of(lab)?;
        Ok(Self { host, before, fresh, programs })
    }

    /// Runs `redirect-agent cleanup`, while programs of others stand before the agent's and behind. Nothing of the agent is left, in
    /// no namespace, and of them nothing is missing: programs run, and a connection has its mark.
    pub fn outlive_cleanup(&self, lab: &mut Lab) -> Result<()> {
        let ahead = attach(lab, &self.host, Place::First)?;
        lab.cleanup_agent()?;
        ensure!(!lab.bpf_dir().exists(), "{} is still there", lab.bpf_dir().display());
        run(lab, &self.host, ahead.iter().chain(&self.programs))?;
        ahead.into_iter().try_for_each(Foreign::detach)?;
        foreign::connection_is_marked(lab)?;
        self.before.is_back(lab)?;
        for pod in lab.pods().iter().filter(|pod| pod.role == Role::Proxy && pod.name != ZTUNNEL) {
            let changes = self.fresh.diff(&fresh(lab, &pod.name)?).unwrap_or_default();
            ensure!(changes.is_empty(), "in the namespace of {}: {changes}", pod.name);
        }
        Ok(())
    }
}

/// The namespace of a ztunnel, comparable to that of another one.
fn fresh(lab: &Lab, name: &str) -> Result<Snapshot> {
    let mut sections = sections(lab.options().backend);
    // Its interface has an address of its own; settings tell which there are.
    sections.retain(|section| *section != Section::LINKS);
    Ok(Snapshot::shape(&lab.pod_netns(name), &sections)?.with_word(&lab.pod(name)?.ip()?.to_string(), OWN))
}

/// A program for each way to attach one that the kernel has.
fn attach(lab: &Lab, host: &str, place: Place) -> Result<Vec<Foreign>> {
    let node = lab.node();
    let device = lab.pod(host)?.host_link.clone().with_context(|| format!("{host} is not plumbed"))?;
    let mut ways = vec![Attach::Clsact];
    ways.extend(has_tcx(&node)?.then_some(Attach::Tcx));
    ways.into_iter().map(|way| Foreign::attach(&node, &device, Hook::Ingress, way, place, Verdict::Next)).collect()
}

/// A connection from the pod passes each of them.
fn run<'a>(lab: &Lab, host: &str, programs: impl Iterator<Item = &'a Foreign>) -> Result<()> {
    let _statistics = Statistics::on()?;
    let before = programs.map(|program| Ok((program, program.runs()?))).collect::<Result<Vec<_>>>()?;
    probe(&lab.place(host)?, lab.target("remote")?, None)?;
    for (program, before) in before {
        ensure!(program.runs()? > before, "{program} does not run any more");
    }
    Ok(())
}
