//! The agent's part: it hears of a pod late, is away, comes back, has no ztunnel; pods end in and out of order.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redirect_lab::cni_bench::chain;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::{MESH_NAMESPACE, PLAIN_NAMESPACE};
use redirect_lab::operator::meshed;
use redirect_lab::pod::Pod;
use redirect_lab::runtime::{Chain, Sandbox, address, refused};
use redirect_lab::starter::{first_act, waiting, watch};
use redirect_lab::status::Status;
use rustix::process::Signal;
use serde_json::Value;

const NOTICE: Duration = Duration::from_secs(30);
/// Try again later, as the specification has it.
const LATER: u32 = 11;

/// A container that has started.
struct Running {
    pod: Pod,
    sandbox: Sandbox,
    result: Value,
}

pub(crate) fn all(checks: &mut Checks, lab: &mut Lab, named: &dyn Fn(&str) -> String) -> Result<()> {
    checks.check(&named("a pod that the agent hears of late waits"), || late(lab));
    checks.check(&named("what does not belong to the mesh starts"), || outsiders(lab));
    checks.check(&named("an end takes a pod out, whatever its status says"), || ends(lab));
    checks.check(&named("a late end takes nothing from the next pod"), || late_end(lab));
    checks.check(&named("a pod that is deleted with force stays until its sandbox ends"), || deleted(lab));
    checks.check(&named("GC forgets what is not valid"), || collected(lab));
    checks.check(&named("without ztunnel pods of the mesh wait, and no others"), || no_proxy(lab));
    checks.check(&named("the agent is away and comes back"), || away(lab));
    let left = lab.wait_until(NOTICE, "without attachments", |status| status.cni.attachments.is_empty())?;
    println!("answers: {:?}", left.cni.answers);
    Ok(())
}

fn pod(namespace: &str, name: &str) -> Result<Pod> {
    Pod::app(namespace, name)
}

/// A pod that the agent has been shown, with its sandbox.
fn create(lab: &Lab, pod: &Pod) -> Result<Sandbox> {
    lab.manifests().put_pod(pod)?;
    Sandbox::create(&format!("{}-{}", lab.name(), pod.name), pod)
}

fn run(lab: &Lab, chain: &Chain, pod: Pod) -> Result<Running> {
    let sandbox = create(lab, &pod)?;
    let result = chain.add(&sandbox)?;
    Ok(Running { pod, sandbox, result })
}

impl Running {
    /// Lets its status name its address.
    fn show(&mut self, lab: &Lab) -> Result<()> {
        self.pod.ips = vec![address(&self.result)?.into()];
        lab.manifests().put_pod(&self.pod)
    }

    fn end(self, lab: &Lab, chain: &Chain) -> Result<()> {
        chain.del(&self.sandbox, Some(&self.result))?;
        lab.manifests().remove_pod(&self.pod)
    }
}

/// Its first connection is the proxy's.
fn is_proxied(lab: &Lab, sandbox: &Sandbox) -> Result<()> {
    let capture = watch(&lab.node())?;
    let peer = first_act(waiting(&sandbox.netns)?)?;
    let escaped = capture.finish()?;
    ensure!(escaped.is_empty(), "{peer} escaped: {escaped:?}");
    Ok(())
}

fn late(lab: &Lab) -> Result<()> {
    let (chain, pod) = (chain(lab), pod(MESH_NAMESPACE, "late")?);
    let sandbox = Sandbox::create(&format!("{}-late", lab.name()), &pod)?;
    let result = thread::scope(|scope| {
        let adding = scope.spawn(|| chain.add(&sandbox));
        let asked = |status: &Status| status.attachment(&sandbox.container).is_some_and(|it| !it.known);
        let asked = lab.wait_until(NOTICE, "asked about the pod", asked);
        let shown = lab.manifests().put_pod(&pod);
        let added = adding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        asked.map(drop).and(shown).and(added)
    })?;
    ensure!(lab.status()?.meshed("late"), "it started, and is not meshed");
    is_proxied(lab, &sandbox)?;
    Running { pod, sandbox, result }.end(lab, &chain)
}

fn outsiders(lab: &Lab) -> Result<()> {
    let chain = chain(lab);
    let running = run(lab, &chain, pod(PLAIN_NAMESPACE, "outsider")?)?;
    ensure!(lab.status()?.pod("outsider").is_some_and(|pod| pod.state == "not-meshed"), "its state is another");
    running.end(lab, &chain)?;
    let mut container = Sandbox::create(&format!("{}-nopod", lab.name()), &pod(MESH_NAMESPACE, "nopod")?)?;
    "IgnoreUnknown=1".clone_into(&mut container.arguments);
    let result = chain.add(&container)?;
    chain.del(&container, Some(&result))
}

fn ends(lab: &Lab) -> Result<()> {
    let chain = chain(lab);
    let mut running = run(lab, &chain, pod(MESH_NAMESPACE, "ending")?)?;
    running.show(lab)?;
    chain.del(&running.sandbox, Some(&running.result))?;
    let taken_out =
        |status: &Status| status.pod("ending").is_some_and(|pod| pod.state == "pending" && pod.ips.is_empty());
    lab.wait_until(NOTICE, "without the pod's address", taken_out)?;
    // As often as a runtime likes.
    running.end(lab, &chain)
}

/// An old pod's interface is gone and its address given away before its end is told; and its status names it all the time.
fn late_end(lab: &Lab) -> Result<()> {
    let one = chain(lab);
    let one = Chain { range: (one.range.0, one.range.0), data_dir: one.data_dir.join("one"), ..one };
    let mut old = run(lab, &one, pod(MESH_NAMESPACE, "old")?)?;
    old.show(lab)?;
    one.interface("DEL", &old.sandbox, Some(&old.result))?;
    let new = run(lab, &one, pod(MESH_NAMESPACE, "new")?)?;
    let ip = address(&new.result)?;
    ensure!(ip == address(&old.result)?, "it got another address");
    let has =
        |status: &Status, name: &str| status.pod(name).is_some_and(|pod| pod.ips.contains(&IpAddr::V4(ip).to_string()));
    let whose = |status: &Status| status.meshed("new") && has(status, "new") && !status.meshed("old");
    ensure!(whose(&lab.status()?), "the address is another's");
    one.del(&old.sandbox, Some(&old.result))?;
    lab.wait_until(NOTICE, "rid of the old pod", |status| !has(status, "old"))?;
    ensure!(whose(&lab.status()?), "the late end has taken the address away");
    is_proxied(lab, &new.sandbox)?;
    lab.manifests().remove_pod(&old.pod)?;
    lab.wait_until(NOTICE, "without the old pod", |status| status.pod("old").is_none())?;
    ensure!(whose(&lab.status()?), "with the old pod went the new one's address");
    new.end(lab, &one)
}

/// Its object is gone at once, and its containers have their grace period; also for an agent that starts then.
fn deleted(lab: &mut Lab) -> Result<()> {
    let chain = chain(lab);
    let mut running = run(lab, &chain, pod(MESH_NAMESPACE, "deleted")?)?;
    running.show(lab)?;
    let ip = address(&running.result)?;
    is_known(lab, "deleted")?;
    lab.manifests().remove_pod(&running.pod)?;
    // Changes are read one after another: who has seen this one has seen that.
    let marker = pod(PLAIN_NAMESPACE, "marker")?;
    lab.manifests().put_pod(&marker)?;
    is_known(lab, "marker")?;
    lab.manifests().remove_pod(&marker)?;
    for agent in ["the agent", "the next agent"] {
        ensure!(meshed(lab)?.contains(&ip), "{agent} has taken it out");
        is_proxied(lab, &running.sandbox).with_context(|| agent.to_owned())?;
        lab.stop_agent(Signal::KILL)?;
        start(lab, &watchful())?;
    }
    chain.del(&running.sandbox, Some(&running.result))?;
    lab.wait_until(NOTICE, "rid of the pod", |status| status.settled && status.pod("deleted").is_none())?;
    ensure!(!meshed(lab)?.contains(&ip), "{ip} is still in the datapath");
    Ok(())
}

fn is_known(lab: &Lab, name: &str) -> Result<()> {
    lab.wait_until(NOTICE, &format!("told of {name}"), |status| status.settled && status.pod(name).is_some()).map(drop)
}

fn collected(lab: &Lab) -> Result<()> {
    let chain = chain(lab);
    let (stays, goes) =
        (run(lab, &chain, pod(MESH_NAMESPACE, "stays")?)?, run(lab, &chain, pod(MESH_NAMESPACE, "goes")?)?);
    for _ in 0..2 {
        chain.about_all("GC", &[&stays.sandbox])?;
    }
    let left =
        |status: &Status| status.cni.attachments.len() == 1 && status.attachment(&stays.sandbox.container).is_some();
    lab.wait_until(NOTICE, "rid of what is not valid", left)?;
    ensure!(lab.status()?.meshed("stays"), "the other pod is not meshed");
    stays.end(lab, &chain)?;
    goes.end(lab, &chain)
}

fn no_proxy(lab: &mut Lab) -> Result<()> {
    let chain = chain(lab);
    lab.change_pod(ZTUNNEL, |pod| pod.ready = false)?;
    lab.wait_until(NOTICE, "without ztunnel", |status| status.proxy.state == "absent")?;
    let waits = pod(MESH_NAMESPACE, "waits")?;
    let sandbox = create(lab, &waits)?;
    let error = refused(chain.add(&sandbox));
    let outsider = run(lab, &chain, pod(PLAIN_NAMESPACE, "outsider")?).and_then(|running| running.end(lab, &chain));
    let status = chain.about_all("STATUS", &[]);
    lab.change_pod(ZTUNNEL, |pod| pod.ready = true)?;
    let error = error?;
    ensure!(error.code == LATER && error.details.contains("ztunnel"), "{error}");
    outsider.context("a pod that is not in the mesh")?;
    status.context("STATUS, which keeps ztunnel itself from starting")?;
    // The runtime cleans up, and kubelet tries again.
    chain.del(&sandbox, None)?;
    drop(sandbox);
    lab.wait_until(NOTICE, "with ztunnel", |status| status.proxied_by(ZTUNNEL))?;
    run(lab, &chain, waits)?.end(lab, &chain)
}

fn away(lab: &mut Lab) -> Result<()> {
    let chain = chain(lab);
    let stays = run(lab, &chain, pod(MESH_NAMESPACE, "stays")?)?;
    let ends = run(lab, &chain, pod(MESH_NAMESPACE, "ends")?)?;
    lab.stop_agent(Signal::KILL)?;
    is_proxied(lab, &stays.sandbox)?;
    let held = pod(MESH_NAMESPACE, "held")?;
    let sandbox = create(lab, &held)?;
    let begun = Instant::now();
    let error = refused(chain.add(&sandbox))?;
    ensure!(error.code == LATER, "{error}");
    chain.del(&sandbox, None).context("DEL without an agent")?;
    chain.about_all("GC", &[&stays.sandbox]).context("GC without an agent")?;
    ensure!(refused(chain.about_all("STATUS", &[]))?.code == 50, "STATUS without an agent has another error");
    let check = refused(chain.redirect("CHECK", &stays.sandbox, &stays.result))?;
    ensure!(check.code == LATER, "CHECK without an agent: {check}");
    let system = pod("kube-system", "system")?;
    let system = Sandbox::create(&format!("{}-system", lab.name()), &system)?;
    let result = chain.add(&system).context("ADD in an excluded namespace")?;
    chain.del(&system, Some(&result))?;
    println!("without an agent: {error}; all of it took {:.1?}", begun.elapsed());
    chain.del(&ends.sandbox, Some(&ends.result))?;
    lab.manifests().remove_pod(&ends.pod)?;
    lab.manifests().remove_pod(&held)?;
    start(lab, &watchful())?;
    let forgets = |status: &Status| status.attachment(&ends.sandbox.container).is_none();
    let status = lab.wait_until(NOTICE, "rid of the pod that is gone", forgets)?;
    ensure!(status.meshed("stays"), "an agent that starts does not know the pod any more: {:?}", status.pod("stays"));
    chain.redirect("CHECK", &stays.sandbox, &stays.result)?;
    stays.end(lab, &chain)
}
