//! Pods that are to pass without a ztunnel, by the agent's flag or by their namespace's word: while there is none they pass in and out,
//! and others are blocked as ever; an agent that starts, or a ztunnel that cannot be connected, changes nothing of it. With the next
//! ztunnel all is redirected, and what was begun without one does not go on past it.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use redirect_common::names::{ANNOTATION_ON_PROXY_LOSS, LABEL_MODE, MODE_AMBIENT};
use redirect_lab::agent::AgentOptions;
use redirect_lab::client::probe;
use redirect_lab::command::Cmd;
use redirect_lab::demo::SETTLE;
use redirect_lab::harness::watchful;
use redirect_lab::lab::Lab;
use redirect_lab::layout::{MESH_NAMESPACE, NODE, PROXY_NAMESPACE, REMOTE, REMOTE_IP};
use redirect_lab::node::ip_batch;
use redirect_lab::pod::Pod;
use redirect_lab::status::Status;
use redirect_lab::traffic::{DIRECT, Failure, Traffic};
use rustix::process::Signal;

use super::{ENOUGH, PROXIED, Scene};

/// Meshed, and of a namespace of its own, whose pods are blocked.
const HELD: &str = "held";
const HELD_NAMESPACE: &str = "shut";
/// Ready, and nowhere to be found.
const GHOST: &str = "ghost";
/// How often the agent is to try what it cannot make.
const TRIES: u64 = 3;

/// Everybody may pass, but for one namespace.
pub(super) fn by_flag(lab: &mut Lab, proxy: &str, next: &str) -> Result<()> {
    lab.annotate_namespace(HELD_NAMESPACE, ANNOTATION_ON_PROXY_LOSS, Some("block"))?;
    let outcome = bypassed(lab, &watchful().arg("--on-proxy-loss=bypass"), proxy, next);
    lab.annotate_namespace(HELD_NAMESPACE, ANNOTATION_ON_PROXY_LOSS, None)?;
    outcome
}

/// One namespace may pass.
pub(super) fn by_namespace(lab: &mut Lab, proxy: &str, next: &str) -> Result<()> {
    lab.annotate_namespace(MESH_NAMESPACE, ANNOTATION_ON_PROXY_LOSS, Some("bypass"))?;
    let outcome = bypassed(lab, &watchful(), proxy, next);
    lab.annotate_namespace(MESH_NAMESPACE, ANNOTATION_ON_PROXY_LOSS, None)?;
    outcome
}

/// `proxy` goes, and `next` comes.
fn bypassed(lab: &mut Lab, options: &AgentOptions, proxy: &str, next: &str) -> Result<()> {
    lab.stop_agent(Signal::TERM)?;
    lab.label_namespace(HELD_NAMESPACE, LABEL_MODE, Some(MODE_AMBIENT))?;
    lab.add_pod(Pod::app(HELD_NAMESPACE, HELD)?)?;
    lab.start_agent(options)?;
    lab.wait_until(SETTLE, "redirected", |status| status.proxied_by(proxy) && status.meshed(HELD))?;
    let mut scene = Scene::begin(lab, Traffic::judged_patiently)?;
    scene.goes_on()?;
    scene.lost(|lab| {
        lab.remove_pod(proxy)?;
        lab.wait_until(SETTLE, "bypassed", is_bypassed).map(drop)
    })?;
    let mut window = Window::open();
    scene.goes_on()?;
    scene.lab.stop_agent(Signal::KILL)?;
    scene.goes_on()?;
    scene.lab.start_agent(options)?;
    scene.lab.wait_until(SETTLE, "bypassed by the next agent", is_bypassed)?;
    scene.goes_on()?;
    held_is_blocked(scene.lab)?;
    a_ghost_changes_nothing(&scene)?;
    nobody_knows_a_shorter_way(scene.lab)?;
    window.close();
    scene.comes(next)?;
    scene.goes_on()?;
    window.over = Instant::now();
    scene.goes_on()?;
    scene.traffic.wait_for_long_ones()?;
    judge(scene, &window)?;
    lab.remove_pod(HELD)
}

/// Somebody's device has the name of a tunnel's: who passes goes on to pass, until the way stands.
pub(super) fn no_way_yet(lab: &mut Lab, proxy: &str) -> Result<()> {
    let options = watchful().arg("--on-proxy-loss=bypass");
    lab.stop_agent(Signal::TERM)?;
    lab.start_agent(&options)?;
    lab.wait_until(SETTLE, "redirected", |status| status.proxied_by(proxy))?;
    lab.change_pod(proxy, |pod| pod.ready = false)?;
    let passes = |status: &Status| status.is("app-a", "bypassed");
    lab.wait_until(SETTLE, "bypassed", |status| status.settled && passes(status))?;
    lab.stop_agent(Signal::TERM)?;
    ip_batch(&lab.node(), &["link del istioout", "link add istioout type dummy"])?;
    lab.start_agent(&options)?;
    lab.change_pod(proxy, |pod| pod.ready = true)?;
    let told = |status: &Status| status.proxy.state != "absent" && status.complains("istioout", "");
    let begun = lab.wait_until(SETTLE, "told of the device", told)?.reconciles;
    let status = lab.wait_until(SETTLE, "tried again", |status| status.reconciles > begun + TRIES)?;
    let reached = probe(&lab.place("app-a")?, lab.target(REMOTE)?, None);
    ip_batch(&lab.node(), &["link del istioout"])?;
    lab.wait_until(SETTLE, "redirected", |status| status.proxied_by(proxy) && status.meshed("app-a"))?;
    ensure!(passes(&status), "{:?}", status.pod("app-a"));
    reached.map(drop).context("a pod that passes")
}

/// Those of the lab pass, and the one that must not does not.
fn is_bypassed(status: &Status) -> bool {
    let passes = ["app-a", "app-b"].iter().all(|name| status.is(name, "bypassed"));
    status.settled
        && status.proxy.state == "absent"
        && passes
        && status.bypassed == 2
        && status.is(HELD, "pending")
        && status.complains("ztunnel", "unproxied")
}

/// It reaches nobody and nobody reaches it, not even those who pass; but the node.
fn held_is_blocked(lab: &Lab) -> Result<()> {
    for (from, to) in [(HELD, REMOTE), (REMOTE, HELD), (HELD, "app-a"), ("app-a", HELD)] {
        let seen = probe(&lab.place(from)?, lab.target(to)?, None);
        ensure!(seen.is_err(), "{from} reached {to}: {seen:?}");
    }
    probe(&lab.node(), lab.target(HELD)?, None).map(drop).with_context(|| format!("{NODE} to {HELD}"))
}

/// A ztunnel that is Ready and cannot be connected is no end of it.
fn a_ghost_changes_nothing(scene: &Scene<'_>) -> Result<()> {
    let mut ghost = Pod::proxy(PROXY_NAMESPACE, GHOST)?;
    ghost.ips = vec![IpAddr::from([10, 244, 1, 250])];
    scene.lab.manifests().put_pod(&ghost)?;
    let told = |status: &Status| status.complains(GHOST, "") && status.is("app-a", "bypassed");
    scene.lab.wait_until(SETTLE, "told of a ztunnel that is nowhere", told)?;
    scene.goes_on()?;
    scene.lab.manifests().remove_pod(&ghost)?;
    scene.lab.wait_until(SETTLE, "bypassed without it", is_bypassed).map(drop)
}

/// Behind a bridge the way back to ztunnel is one that the kernel would tell pods of. They would send there all that they have for a client,
/// long after ztunnel has gone (`__ip_do_redirect`, net/ipv4/route.c).
fn nobody_knows_a_shorter_way(lab: &Lab) -> Result<()> {
    for pod in ["app-a", "app-b"] {
        let way = Cmd::line(&format!("ip route get {REMOTE_IP}")).netns(&lab.pod_netns(pod)).run()?;
        ensure!(!way.contains("redirected"), "{pod} knows another way to {REMOTE_IP}: {way}");
    }
    Ok(())
}

/// In which pods pass.
struct Window {
    opened: Instant,
    closes: Instant,
    /// When nothing that was begun in it goes on any more.
    over: Instant,
}

impl Window {
    fn open() -> Self {
        let now = Instant::now();
        Self { opened: now, closes: now, over: now }
    }

    /// From now on a ztunnel may come.
    fn close(&mut self) {
        self.closes = Instant::now();
    }

    /// Whether it was begun while pods passed for certain.
    fn has(&self, begun: Instant) -> bool {
        (self.opened..self.closes).contains(&begun)
    }
}

fn judge(scene: Scene<'_>, window: &Window) -> Result<()> {
    let (report, verdict, lost, back) = scene.finish("ztunnel is gone, and pods pass")?;
    verdict.nothing_escaped_but(lost, back, window.over)?;
    ensure!(report.gave_up.is_empty(), "{:?}", report.gave_up);
    for failure in report.failed.iter().chain(&report.broken) {
        // What passed goes to ztunnel as soon as there is one, which does not know it.
        let was_begun_without = failure.proxy.is_none() && failure.ended >= window.closes;
        let at_the_turn = failure.ended >= window.closes && failure.begun <= back;
        let may_fail = if DIRECT.contains(&failure.stream) {
            at_the_turn && is_probe(failure)
        } else {
            at_the_turn || was_begun_without || failure.ended >= lost && failure.begun <= window.opened
        };
        ensure!(may_fail, "{failure}");
    }
    for stream in PROXIED {
        let passed = report.astray.iter().filter(|astray| astray.stream == stream && window.has(astray.begun)).count();
        ensure!(passed >= ENOUGH, "of {stream} only {passed} passed");
        let stands = report.standing.iter().find(|(name, _)| *name == stream);
        ensure!(stands.is_some_and(|(_, proxy)| proxy.is_some()), "the long one of {stream} in the end: {stands:?}");
    }
    let outside = report.astray.iter().find(|astray| astray.ended < lost || astray.begun > back);
    ensure!(outside.is_none(), "{outside:?}");
    Ok(())
}

/// One that is under way when its pod is redirected again is not known as the node's yet.
fn is_probe(failure: &Failure) -> bool {
    failure.stream == "a probe of meshed"
}
