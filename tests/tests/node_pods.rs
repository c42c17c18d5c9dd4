//! Pods come, change and go, labels toggle, ztunnel is replaced: each is followed with few writes, and connections that
//! have nothing to do with it go on.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::bpf::random::Random;
use redirect_lab::capture::Capture;
use redirect_lab::client::Session;
use redirect_lab::cni::Topology;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, settled, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::{MESH_NAMESPACE, PLAIN_NAMESPACE, POD_LINK, PROXY_NAMESPACE, UPLINK};
use redirect_lab::mode::Mode;
use redirect_lab::node::ip_batch;
use redirect_lab::operator::meshed;
use redirect_lab::pod::Pod;
use redirect_lab::status::Status;
use redirect_lab::table::{self, CASES, Case, Expect};
use rustix::process::Signal;

const FOLLOW: Duration = Duration::from_secs(30);
/// How long it may take to read a file of fifty pods where processors are emulated.
const READ: Duration = Duration::from_mins(2);
const MODE: &str = "istio.io/dataplane-mode";
/// A pod's second address, far from those that host-local gives.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 222);

#[test]
fn pods_come_change_and_go() -> Result<()> {
    let (mut lab, _) = settled("pods")?;
    let mut others = Others::connect(&lab)?;
    let mut checks = Checks::default();
    checks.check("a pod comes", || {
        let status = follow(&mut lab, "app-c meshed", add_app_c, |status| status.meshed("app-c"), ONE_POD)?;
        ensure!(status.pods.len() > 4, "status forgets pods");
        proxied(&lab, "app-c", true)
    });
    checks.check("others go on", || others.echo());
    checks.check("its address changes", || {
        let old = lab.pod("app-c")?.ip()?;
        let change = |lab: &mut Lab| {
            // Takes the address that app-c gives up, so that app-c must get another one.
            lab.restart_pod("app-c")
        };
        follow(
            &mut lab,
            "app-c meshed with another address",
            change,
            |status| is_new(status, &old.to_string()),
            TWO_PODS,
        )?;
        ensure!(!meshed(&lab)?.contains(&old), "{old} is still in the datapath");
        proxied(&lab, "app-c", true)
    });
    checks.check("others go on", || others.echo());
    for (turn, mode) in ["none", "ambient", "none", "ambient"].into_iter().enumerate() {
        checks.check(&format!("its label turns to {mode} ({turn})"), || {
            let meshed = mode == "ambient";
            let change = |lab: &mut Lab| lab.label_pod("app-c", MODE, Some(mode));
            follow(&mut lab, mode, change, |status| status.meshed("app-c") == meshed, ONE_POD)?;
            proxied(&lab, "app-c", meshed)
        });
    }
    checks.check("fifty turns at random end with the last", || turns(&mut lab));
    checks.check("each of a pod's addresses counts", || two_addresses(&mut lab));
    checks.check("a status that names no address any more takes nobody out", || forgotten_address(&mut lab));
    for phase in ["Succeeded", "Failed"] {
        checks.check(&format!("a finished pod ({phase}) is not meshed, nor who has its address"), || {
            finished(&mut lab, phase)
        });
    }
    checks.check("a pod goes", || {
        let gone = |status: &Status| status.pod("app-c").is_none();
        follow(&mut lab, "app-c gone", |lab| lab.remove_pod("app-c"), gone, ONE_POD)?;
        let expected = ["app-a", "app-b"].iter().map(|name| lab.pod(name)?.ip()).collect::<Result<_>>()?;
        let found = meshed(&lab)?;
        ensure!(found == expected, "the datapath holds {found:?}, not {expected:?}");
        Ok(())
    });
    checks.check("others go on", || others.echo());
    checks.check("a namespace joins", || {
        let join = |lab: &mut Lab| lab.label_namespace(PLAIN_NAMESPACE, MODE, Some("ambient"));
        let both = |status: &Status| status.meshed("plain") && status.meshed("plain-b");
        follow(&mut lab, "plain and plain-b meshed", join, both, TWO_PODS)?;
        proxied(&lab, "plain", true)
    });
    checks.check("a namespace leaves", || {
        let leave = |lab: &mut Lab| lab.label_namespace(PLAIN_NAMESPACE, MODE, None);
        let neither = |status: &Status| !status.meshed("plain") && !status.meshed("plain-b");
        follow(&mut lab, "plain and plain-b not meshed", leave, neither, TWO_PODS)?;
        proxied(&lab, "plain", false)
    });
    checks.check("fifty pods take no more tools than one", || fifty_as_one(&mut lab));
    checks.finish()
}

#[test]
fn ztunnel_is_replaced() -> Result<()> {
    let (mut lab, _) = settled("rollout")?;
    let mut others = Others::connect(&lab)?;
    let mut checks = Checks::default();
    checks.check("a new ztunnel takes over from one that still runs", || {
        let come = |lab: &mut Lab| lab.add_pod(Pod::proxy(PROXY_NAMESPACE, "ztunnel-2")?).map(drop);
        let taken = |status: &Status| status.proxied_by("ztunnel-2") && status.draining.is_some();
        follow(&mut lab, "ztunnel-2 programmed", come, taken, NEW_ZTUNNEL)?;
        table::check(&lab, "ztunnel-2")
    });
    checks.check("what the old one has goes on, and so do others", || others.echo());
    checks.check("the old one goes, and nothing but what was for it with it", || {
        let drained = |status: &Status| status.proxied_by("ztunnel-2") && status.draining.is_none();
        follow(&mut lab, "ztunnel gone", |lab| lab.remove_pod(ZTUNNEL), drained, FORMER_ZTUNNEL)?;
        table::check(&lab, "ztunnel-2")
    });
    checks.check("ztunnel-2 dies and ztunnel-3 comes later", || {
        lab.remove_pod("ztunnel-2")?;
        lab.wait_until(FOLLOW, "without a proxy", |status| status.proxy.state != "programmed")?;
        // Nor does anything of it leave in a tunnel, to whoever may have ztunnel's address elsewhere.
        let tunnels = Capture::start(&lab.node(), UPLINK, "udp port 6081")?;
        for case in [escape(), from_outside()] {
            let row = table::run_case(&lab, ZTUNNEL, case)?;
            ensure!(row.seen.is_err(), "{} came about unproxied: {:?}", case.name, row.seen);
        }
        let left = tunnels.finish()?;
        ensure!(left.is_empty(), "{} left in a tunnel: {:?}", left.len(), left.first());
        lab.add_pod(Pod::proxy(PROXY_NAMESPACE, "ztunnel-3")?)?;
        lab.wait_until(FOLLOW, "ztunnel-3 programmed", |status| status.proxied_by("ztunnel-3"))?;
        table::check(&lab, "ztunnel-3")
    });
    checks.check("others still go on", || others.direct.iter_mut().try_for_each(Session::echo));
    checks.finish()
}

/// Connections between places that no step touches.
struct Others {
    proxied: Vec<Session>,
    direct: Vec<Session>,
}

impl Others {
    fn connect(lab: &Lab) -> Result<Self> {
        let open = |(from, to): (&str, &str)| Session::open(&lab.place(from)?, lab.target(to)?, None);
        let proxied = [("app-a", "remote"), ("app-a", "app-b"), ("remote", "app-b"), ("app-b", "svc-remote")];
        // Between unmeshed pods a connection would change hands when their namespace joins.
        let direct = [("remote", "plain"), ("node", "app-a"), ("node", "plain")];
        Ok(Self {
            proxied: proxied.into_iter().map(open).collect::<Result<_>>()?,
            direct: direct.into_iter().map(open).collect::<Result<_>>()?,
        })
    }

    fn echo(&mut self) -> Result<()> {
        self.proxied.iter_mut().chain(&mut self.direct).try_for_each(Session::echo)
    }
}

/// How many writes of each kind a step may make; kinds that are not named may not be written at all.
type Budget = &'static [(&'static str, u64)];

/// A ztunnel that another has followed: its rows, its way back with its route, its veth's place among the bridge's ports and own
/// address, and by TCX the pin of a link that went with its device.
const FORMER_ZTUNNEL: Budget = &[("map", 3), ("route", 4), ("rule", 1), ("chain", 1), ("guard", 2), ("program", 1)];
/// One pod: its entry in the set or in the map, its route in table 100, what its host veth needs (settings, programs on both
/// hooks and the qdisc for them), its place in the bridge guard or among the bridge's ports, and the veth's own address.
const ONE_POD: Budget =
    &[("set", 1), ("route", 1), ("sysctl", 2), ("guard", 1), ("map", 3), ("program", 2), ("qdisc", 1)];
/// A pod that changes its address has a new veth.
const TWO_PODS: Budget =
    &[("set", 2), ("route", 2), ("sysctl", 4), ("guard", 2), ("map", 6), ("program", 4), ("qdisc", 2)];
/// What names ztunnel's address or veth: remotes of both links, routes, chains, programs; all inside its netns; and the way back to the
/// former, and for a moment to it too.
const NEW_ZTUNNEL: Budget = &[
    ("link", 8),
    ("address", 4),
    ("neighbour", 4),
    ("route", 20),
    ("rule", 5),
    ("sysctl", 16),
    ("chain", 8),
    ("guard", 2),
    ("map", 4),
    ("program", 6),
    ("qdisc", 1),
];

/// Makes a change, waits until it is followed, and counts the writes.
fn follow(
    lab: &mut Lab,
    what: &str,
    change: impl FnOnce(&mut Lab) -> Result<()>,
    done: impl Fn(&Status) -> bool,
    budget: Budget,
) -> Result<Status> {
    let before = lab.status()?;
    change(lab)?;
    let after = lab.wait_until(FOLLOW, what, |status| status.settled && done(status))?;
    for (kind, count) in after.writes.iter().filter(|(kind, _)| *kind != "total") {
        let written = count - before.writes.get(kind).copied().unwrap_or_default();
        let allowed = budget.iter().find(|(name, _)| name == kind).map_or(0, |(_, allowed)| *allowed);
        ensure!(written <= allowed, "{written} writes of kind {kind}, {allowed} allowed");
    }
    Ok(after)
}

fn add_app_c(lab: &mut Lab) -> Result<()> {
    lab.add_pod(Pod::app(MESH_NAMESPACE, "app-c")?).map(drop)
}

/// The label turns at random, faster than it is followed. Every tenth time it must have come to what it was left at.
fn turns(lab: &mut Lab) -> Result<()> {
    let mut random = Random::new(50);
    for turn in 1..=50 {
        let mode = match turn {
            turn if turn % 20 == 0 => Some("none"),
            turn if turn % 10 == 0 => Some("ambient"),
            _ => random.one(&[Some("none"), Some("ambient"), None]).flatten(),
        };
        lab.label_pod("app-c", MODE, mode)?;
        if turn % 10 == 0 {
            has_come_to(lab, mode == Some("ambient")).with_context(|| format!("after {turn} turns"))?;
        }
    }
    Ok(())
}

fn has_come_to(lab: &Lab, is_meshed: bool) -> Result<()> {
    // Changes are read one after another: who has seen this one has seen that.
    let marker = Pod::app(PLAIN_NAMESPACE, "marker")?;
    lab.manifests().put_pod(&marker)?;
    let seen = |status: &Status| status.settled && status.pods.iter().any(|pod| pod.uid == marker.uid);
    let status = lab.wait_until(FOLLOW, "done with the turns", seen)?;
    lab.manifests().remove_pod(&marker)?;
    ensure!(status.meshed("app-c") == is_meshed, "app-c is {:?}", status.pod("app-c"));
    proxied(lab, "app-c", is_meshed)
}

/// A pod with two addresses is meshed with both, and with the one that is left when the other goes.
fn two_addresses(lab: &mut Lab) -> Result<()> {
    let ip = lab.pod("app-c")?.ip()?;
    ip_batch(&lab.pod_netns("app-c"), &[&format!("addr add {SECOND}/32 dev {POD_LINK}")])?;
    if let Some(device) = lab.pod("app-c")?.host_link.clone().filter(|_| lab.options().topology == Topology::Ptp) {
        ip_batch(&lab.node(), &[&format!("route add {SECOND}/32 dev {device}")])?;
    }
    lab.change_pod("app-c", |pod| pod.ips.push(SECOND.into()))?;
    let has = |status: &Status, count| status.pod("app-c").is_some_and(|pod| pod.ips.len() == count);
    let both = |status: &Status| status.settled && status.meshed("app-c") && has(status, 2);
    lab.wait_until(FOLLOW, "app-c meshed with both", both)?;
    let found = meshed(lab)?;
    ensure!(found.contains(&ip) && found.contains(&SECOND), "of {ip} and {SECOND} the datapath holds {found:?}");
    proxied(lab, "app-c", true)?;
    let out = Case {
        name: "outbound, second address",
        from: "app-c",
        source: Some(SECOND),
        to: "remote",
        server: "remote",
        proxy: Expect::Outbound,
    };
    let to = "10.244.1.222:80";
    let into = Case {
        name: "inbound, second address",
        from: "remote",
        source: None,
        to,
        server: "app-c",
        proxy: Expect::Inbound(15006, to),
    };
    right(lab, &[out, into])?;
    lab.change_pod("app-c", |pod| pod.ips.truncate(1))?;
    lab.wait_until(FOLLOW, "app-c meshed with one", |status| status.settled && has(status, 1))?;
    let found = meshed(lab)?;
    ensure!(found.contains(&ip) && !found.contains(&SECOND), "{SECOND} has gone, and the datapath holds {found:?}");
    proxied(lab, "app-c", true)
}

/// Pods that come together are written together; in ebpf mode no tool is run for them.
fn fifty_as_one(lab: &mut Lab) -> Result<()> {
    lab.stop_agent(Signal::KILL)?;
    // What the timer reads back takes tools as well.
    start(lab, &AgentOptions::default().arg("--resync=3600"))?;
    let (one, fifty) = (tools_for(lab, "one", 1)?, tools_for(lab, "fifty", 50)?);
    println!("        tools for one pod: {one}; for fifty: {fifty}");
    match lab.mode() {
        Mode::Ebpf => ensure!(one + fifty == 0, "there are no batches in ebpf mode"),
        // Events of what was written may be looked at once or twice.
        Mode::Iptables => ensure!(one > 0 && fifty < one + 10, "one process a pod, or nearly so"),
    }
    Ok(())
}

/// How many tools the agent runs until so many pods, of which it is told at once, are in the datapath.
fn tools_for(lab: &Lab, name: &str, count: u8) -> Result<u64> {
    let pod = |number: u8| {
        let mut pod = Pod::app(MESH_NAMESPACE, &format!("{name}-{number}"))?;
        // Nobody plumbs it: it is in the datapath, and pending.
        pod.ips = vec![IpAddr::from([10, 100, count, number])];
        Ok(pod)
    };
    let pods = (1..=count).map(pod).collect::<Result<Vec<_>>>()?;
    let (before, standing) = (lab.status()?.processes, meshed(lab)?.len());
    lab.manifests().put_pods(&format!("{name}.yaml"), &pods)?;
    let told = |status: &Status| pods.iter().all(|pod| status.pod(&pod.name).is_some());
    let status = lab.wait_until(READ, "told of the pods", |status| status.settled && told(status))?;
    let stand = meshed(lab)?.len();
    ensure!(stand == standing + usize::from(count), "{standing} pods and {count} are in the datapath as {stand}");
    Ok(status.processes - before)
}

/// As after a reboot of the node, before the runtime has made anew what it lost; also for an agent that starts then.
fn forgotten_address(lab: &mut Lab) -> Result<()> {
    let (ips, ip) = (lab.pod("app-c")?.ips.clone(), lab.pod("app-c")?.ip()?);
    lab.change_pod("app-c", |pod| pod.ips.clear())?;
    // Changes are read one after another: who has seen this one has seen that.
    for (mode, is_meshed) in [(Some("none"), false), (None, true)] {
        lab.label_pod("app-b", MODE, mode)?;
        lab.wait_until(FOLLOW, "app-b changed", |status| status.settled && status.meshed("app-b") == is_meshed)?;
        ensure!(meshed(lab)?.contains(&ip), "{ip} is not in the datapath any more");
    }
    lab.stop_agent(Signal::KILL)?;
    start(lab, &watchful())?;
    ensure!(meshed(lab)?.contains(&ip), "{ip} is not in the datapath of the next agent");
    lab.change_pod("app-c", |pod| pod.ips = ips)?;
    proxied(lab, "app-c", true)
}

/// An unmeshed pod has the address while the finished one is still there, as that of a Job for hours. Who speaks is the same.
fn finished(lab: &mut Lab, phase: &str) -> Result<()> {
    let turn = |to: &str| {
        let to = to.to_owned();
        move |lab: &mut Lab| lab.change_pod("app-c", |pod| pod.phase = to)
    };
    follow(lab, "app-c not meshed", turn(phase), |status| !status.meshed("app-c"), ONE_POD)?;
    let ip = lab.pod("app-c")?.ip()?;
    ensure!(!meshed(lab)?.contains(&ip), "{ip} is still in the datapath");
    let heir = Pod { ips: lab.pod("app-c")?.ips.clone(), ..Pod::app(PLAIN_NAMESPACE, "heir")? };
    lab.manifests().put_pod(&heir)?;
    lab.wait_until(FOLLOW, "told of the heir", |status| status.settled && status.pod("heir").is_some())?;
    ensure!(!meshed(lab)?.contains(&ip), "{ip} is in the datapath again");
    proxied(lab, "app-c", false)?;
    lab.manifests().remove_pod(&heir)?;
    turn("Running")(lab)?;
    lab.wait_until(FOLLOW, "app-c meshed", |status| status.settled && status.meshed("app-c")).map(drop)
}

fn is_new(status: &Status, old: &str) -> bool {
    status.meshed("app-c") && status.pod("app-c").is_some_and(|pod| !pod.ips.iter().any(|ip| ip == old))
}

/// Whether connections of and to `pod` are proxied, or not at all.
fn proxied(lab: &Lab, pod: &'static str, meshed: bool) -> Result<()> {
    let [out, into] = if meshed { [Expect::Outbound, Expect::Inbound(15006, pod)] } else { [Expect::Nothing; 2] };
    let outbound = Case { name: "outbound", from: pod, source: None, to: "remote", server: "remote", proxy: out };
    let inbound = Case { name: "inbound", from: "remote", source: None, to: pod, server: pod, proxy: into };
    right(lab, &[outbound, inbound])
}

fn right(lab: &Lab, cases: &[Case]) -> Result<()> {
    for case in cases {
        let wrong = table::run_case(lab, ZTUNNEL, *case)?.wrong;
        ensure!(wrong.is_empty(), "{}, {} to {}: {}", case.name, case.from, case.to, wrong.join("; "));
    }
    Ok(())
}

fn escape() -> Case {
    CASES[0]
}

fn from_outside() -> Case {
    Case { name: "inbound", from: "remote", source: None, to: "app-a", server: "app-a", proxy: Expect::Nothing }
}
