//! From the moment when the machine goes down until all is as it was.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::harness::is_settled;
use redirect_lab::judge::Judge;
use redirect_lab::lab::Lab;
use redirect_lab::runtime::{Chain, Container, refused};
use redirect_lab::snapshot::{Section, Snapshot};
use redirect_lab::status::Status;
use redirect_lab::tally::Tally;
use redirect_lab::traffic::{DIRECT, Traffic, once};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::disk::Disk;

/// A meshed pod whose sandbox is made anew.
const ANEW: &str = "app-a";
/// A meshed pod that is restored with the address that it had.
const RESTORED: &str = "app-b";
/// Pods that do not belong to the mesh.
const OTHERS: [&str; 2] = ["plain", "plain-b"];
/// The restored pod's connections: from it, and to it.
const OF_RESTORED: [&str; 2] = ["meshed to a service", "unmeshed to meshed"];
/// The others, of which the first is from the pod whose sandbox is made anew.
const OF_ANEW: [&str; 3] = ["meshed to remote", "remote to meshed", "meshed to meshed"];
/// Try again later, as the CNI specification has it.
const LATER: u32 = 11;
/// Kubelet tries again for ever.
const PATIENCE: Duration = Duration::from_mins(1);
/// Somebody to trust, without whom no connection is tried. Nobody has the key.
const AUTHORITY: &str = include_str!("nowhere.crt");
/// Connections of each stream in each phase.
const ENOUGH: usize = 3;

/// Down and up again. Kubelet has found that no sandbox is there: statuses name no address any more, but for that of the pod which
/// is about to be restored.
pub(crate) fn reboot(lab: &mut Lab) -> Result<()> {
    lab.reboot()?;
    for name in [ANEW].iter().chain(&OTHERS) {
        lab.change_pod(name, |pod| pod.ips.clear())?;
    }
    lab.change_pod(ZTUNNEL, |pod| (pod.ready, pod.ips) = (false, Vec::new()))
}

/// The node has no rules, links, sets and tables but its own.
pub(crate) fn is_bare(lab: &Lab) -> Result<()> {
    ensure!(!lab.agent_dir().exists() && !lab.bpf_dir().exists(), "files of the agent's are there");
    let sections = [Section::LINKS, Section::RULES, Section::ROUTES, Section::SETS, Section::GUARD, Section::Programs];
    let node = Snapshot::shape(&lab.node(), &sections)?;
    for (section, ours) in sections.iter().zip(["istio", "fwmark", " table 10", "ztunnel", "ztunnel", "redirect"]) {
        ensure!(!node.section(*section).contains(ours), "there is {ours}: {}", node.section(*section));
    }
    Ok(())
}

/// Nobody can say whether a pod belongs to the mesh. The namespace of ztunnel is one of those that start anyway.
pub(crate) fn without_agent(lab: &mut Lab, chain: &Chain) -> Result<()> {
    for name in [ANEW, OTHERS[0]] {
        let error = refused(lab.start_pod_by(name, chain).map(|()| Value::Null))?;
        ensure!(error.code == LATER, "{name}: {error}");
    }
    lab.start_pod_by(ZTUNNEL, chain)
}

/// Nothing of ours is there to see it, and nothing to hold it back.
pub(crate) fn escapes(lab: &mut Lab) -> Result<()> {
    lab.restore_pod(RESTORED)?;
    let judge = Judge::watch(lab)?;
    let failure = once(lab, &judge, OF_RESTORED[0])?;
    ensure!(failure.is_none(), "{failure:?}");
    let verdict = judge.finish(lab)?;
    verdict.is_sound()?;
    ensure!(verdict.escaped().contains_key(OF_RESTORED[0]), "who held it back? {verdict}");
    Ok(())
}

/// The API server cannot be reached. The agent cannot know who is meshed, nor that nobody is.
pub(crate) fn hears_nothing(lab: &mut Lab, disk: &Disk) -> Result<()> {
    lab.start_agent(&deaf(lab, disk)?)?;
    changes_nothing(lab)?;
    lab.stop_agent(Signal::TERM)
}

/// An agent whose API server is nowhere.
fn deaf(lab: &Lab, disk: &Disk) -> Result<AgentOptions> {
    let authority = lab.dir().join("nowhere.crt");
    fs::write(&authority, AUTHORITY)?;
    let cluster = json!({ "server": "https://127.0.0.1:1", "certificate-authority": authority });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "nowhere", "cluster": cluster }],
        "users": [{ "name": "nobody", "user": { "token": "none" } }],
        "contexts": [{ "name": "none", "context": { "cluster": "nowhere", "user": "nobody" } }],
        "current-context": "none",
    });
    let file = lab.dir().join("nowhere.json");
    fs::write(&file, config.to_string())?;
    Ok(AgentOptions { kubeconfig: Some(file), ..disk.agent()? })
}

fn changes_nothing(lab: &Lab) -> Result<()> {
    let waits = |status: &Status| status.reconciles > 1 && status.complains("source", "first complete list");
    let status = lab.wait_until(SETTLE, "without a list", waits)?;
    ensure!(status.total_writes() == 0, "it has written: {:?}", status.writes);
    Ok(())
}

/// An agent comes, and then ztunnel is Ready.
pub(crate) fn comes_up(lab: &mut Lab, disk: &Disk, chain: &Chain) -> Result<()> {
    lab.start_agent(&disk.agent()?)?;
    lab.wait_until(SETTLE, "without a proxy", |status| status.settled && status.proxy.state == "absent")?;
    let mut judge = Judge::watch(lab)?;
    for name in OTHERS {
        lab.start_pod_by(name, chain)?;
    }
    judge.follow(lab)?;
    for stream in OF_RESTORED {
        ensure!(once(lab, &judge, stream)?.is_some(), "{stream} comes about without a proxy");
    }
    for stream in DIRECT {
        let failure = once(lab, &judge, stream)?;
        ensure!(failure.is_none(), "this needs no proxy: {failure:?}");
    }
    let error = refused(lab.start_pod_by(ANEW, chain).map(|()| Value::Null))?;
    ensure!(error.code == LATER && error.details.contains("ztunnel"), "{error}");
    let container = lab.new_container(ANEW)?;
    let result = thread::scope(|scope| {
        let adding = scope.spawn(|| keep_adding(chain, &container));
        let ready = lab.change_pod(ZTUNNEL, |pod| pod.ready = true);
        let added = adding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ready.and(added)
    })?;
    lab.run_in(ANEW, &result)?;
    judge.follow(lab)?;
    let first = once(lab, &judge, OF_ANEW[0])?;
    ensure!(first.is_none(), "its first connection: {first:?}");
    lab.wait_until(SETTLE, "all enrolled", is_settled)?;
    for stream in OF_ANEW.iter().chain(&OF_RESTORED).chain(&DIRECT) {
        let failure = once(lab, &judge, stream)?;
        ensure!(failure.is_none(), "{failure:?}");
    }
    let verdict = judge.finish(lab)?;
    println!("        {verdict}");
    verdict.nothing_escaped()
}

/// As kubelet does it.
fn keep_adding(chain: &Chain, container: &Container) -> Result<Value> {
    let begun = Instant::now();
    loop {
        match chain.add(container) {
            Err(error) if begun.elapsed() > PATIENCE => return Err(error).context("it is never enrolled"),
            Err(_) => chain.del(container, None)?,
            added => return added,
        }
    }
}

/// Of no pod but ztunnel there is an address: one agent hears of nothing at all, and the next of statuses that name none.
pub(crate) fn starts_again(lab: &mut Lab, disk: &Disk) -> Result<()> {
    let mut restored = lab.pod(RESTORED)?.clone();
    restored.ips.clear();
    lab.manifests().put_pod(&restored)?;
    let judge = Judge::watch(lab)?;
    let traffic = Traffic::judged(lab, &judge)?;
    lab.stop_agent(Signal::KILL)?;
    lab.start_agent(&deaf(lab, disk)?)?;
    changes_nothing(lab)?;
    traffic.wait_for_more(ENOUGH)?;
    lab.stop_agent(Signal::KILL)?;
    lab.start_agent(&disk.agent()?)?;
    let status = lab.wait_until(SETTLE, "settled", is_settled)?;
    ensure!(status.total_writes() == 0, "it has written: {:?}", status.writes);
    traffic.wait_for_more(ENOUGH)?;
    let (report, verdict) = (traffic.stop()?, judge.finish(lab)?);
    let mut tally = Tally::default();
    tally.add("agents start where statuses name no address", 2, &report, &verdict);
    tally.print();
    report.all_is_well()?;
    verdict.nothing_escaped()
}

/// Kubelet says at last which addresses there are.
pub(crate) fn statuses_are_written(lab: &mut Lab) -> Result<()> {
    for name in lab.pods().iter().map(|pod| pod.name.clone()).collect::<Vec<_>>() {
        lab.change_pod(&name, |_| {})?;
    }
    lab.wait_until(SETTLE, "settled", is_settled).map(drop)
}
