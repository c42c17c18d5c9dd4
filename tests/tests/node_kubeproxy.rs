//! Whatever kube-proxy's mode, and whenever it writes its rules: what a meshed pod sends reaches ztunnel with the destination
//! that the pod chose, and everybody else still reaches services.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use redirect_lab::client::{Session, probe};
use redirect_lab::demo::{SETTLE, ZTUNNEL};
use redirect_lab::harness::{Checks, eventually, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::{MESH_NAMESPACE, NODE, NODE_IP, NODE_SECOND_IP, PROXY_NAMESPACE, REMOTE};
use redirect_lab::node::ip_batch;
use redirect_lab::pod::Pod;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::serve::serve;
use redirect_lab::services::{self, Kind};
use redirect_lab::snapshot::{Section, Snapshot};
use redirect_lab::status::Status;
use redirect_lab::table::{self, Case, Expect};
use rustix::process::Signal;

/// Port of the server on the node itself.
const NODE_PORT: u16 = 8081;
/// How long it may take to listen.
const READY: Duration = Duration::from_secs(10);
/// The ztunnel that follows.
const NEXT: &str = "ztunnel-next";
/// What is said on a connection while its ztunnel drains.
const ECHOES: usize = 3;
/// Where rules are counted: sets and maps are not rules.
const RULES: [Section; 3] = [
    Section::Command("iptables-nft-save"),
    Section::Command("iptables-legacy-save"),
    Section::Command("nft -s list ruleset ip"),
];

const fn case(name: &'static str, from: &'static str, to: &'static str, server: &'static str, proxy: Expect) -> Case {
    Case { name, from, source: None, to, server, proxy }
}

/// Beside the table, which has the services: local addresses, and the node itself.
const MORE: [Case; 5] = [
    case("meshed to the node", "app-a", "172.18.0.2:8081", NODE, Expect::Outbound),
    case("meshed to the node's second address", "app-a", "172.18.0.22:8081", NODE, Expect::Outbound),
    case("unmeshed to the node", "plain", "172.18.0.2:8081", NODE, Expect::Nothing),
    case("remote to the node", REMOTE, "172.18.0.2:8081", NODE, Expect::Nothing),
    case("node to ClusterIP of remote", NODE, "svc-remote", REMOTE, Expect::Nothing),
];

#[test]
fn destinations_stay_in_every_mode_of_kube_proxy() -> Result<()> {
    let mut lab = ScopedLab::up(options("kproxy")?)?;
    serve_on_node(&lab)?;
    let mut checks = Checks::default();
    let mut current = Kind::chosen()?;
    for kind in Kind::ALL {
        checks.check(&format!("{kind:?}: kube-proxy changes over"), || restart(&lab, &mut current, kind));
        checks.check(&format!("{kind:?}: the agent settles"), || start(&mut lab, &watchful()).map(drop));
        connections(&mut checks, &lab, &format!("{kind:?}, rules before the agent's"));
        // Before kube-proxy puts its jumps first, and the agent its own.
        checks.check(&format!("{kind:?}: another pod needs no other rules"), || another_pod(&mut lab));
        checks.check(&format!("{kind:?}: kube-proxy starts anew"), || restart(&lab, &mut current, kind));
        connections(&mut checks, &lab, &format!("{kind:?}, rules after the agent's"));
        checks.check(&format!("{kind:?}: what a ztunnel has with a service goes on while it drains"), || {
            drained(&mut lab)
        });
        checks.check(&format!("{kind:?}: without the tunnel nothing passes"), || without_tunnel(&mut lab));
        checks.check(&format!("{kind:?}: cleanup"), || lab.cleanup_agent().map(drop));
    }
    checks.finish()
}

/// The server ends with this process.
fn serve_on_node(lab: &Lab) -> Result<()> {
    let node = lab.node();
    std::thread::spawn(move || {
        node.run(|| -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serve(NODE.to_owned(), SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, NODE_PORT).into(), None))
        })
    });
    for ip in [NODE_IP, NODE_SECOND_IP] {
        eventually(READY, || Session::open(&lab.node(), SocketAddrV4::new(ip, NODE_PORT), None).map(drop))?;
    }
    Ok(())
}

/// What a new kube-proxy does: it takes the old one's rules away, and writes its own.
fn restart(lab: &Lab, current: &mut Kind, next: Kind) -> Result<()> {
    let (node, backend) = (lab.node(), lab.options().backend);
    let services = lab.services()?;
    services::remove(*current, &node, backend, &services)?;
    *current = next;
    services::install_as(next, &node, backend, &services)
}

fn connections(checks: &mut Checks, lab: &Lab, when: &str) {
    for case in table::CASES.iter().chain(&MORE) {
        checks.check(&format!("{when}: {}", case.name), || {
            let wrong = table::run_case(lab, ZTUNNEL, *case)?.wrong;
            ensure!(wrong.is_empty(), "{}", wrong.join("; "));
            Ok(())
        });
    }
}

fn another_pod(lab: &mut Lab) -> Result<()> {
    let before = Snapshot::shape(&lab.node(), &RULES)?;
    lab.add_pod(Pod::app(MESH_NAMESPACE, "app-c")?)?;
    lab.wait_until(SETTLE, "meshed", |status| status.settled && status.meshed("app-c"))?;
    let changes = before.diff(&Snapshot::shape(&lab.node(), &RULES)?);
    lab.remove_pod("app-c")?;
    ensure!(changes.is_none(), "{}", changes.unwrap_or_default());
    Ok(())
}

/// With ipvs, what ztunnel sends to a service is sent on as if by the node, and meets the law a second time.
fn drained(lab: &mut Lab) -> Result<()> {
    let mut session = Session::open(&lab.place("app-a")?, lab.target("svc-remote")?, None)?;
    session.echo()?;
    lab.add_pod(Pod::proxy(PROXY_NAMESPACE, NEXT)?)?;
    let drains = |status: &Status| status.proxied_by(NEXT) && status.draining.is_some();
    lab.wait_until(SETTLE, "followed", drains)?;
    let outcome = (0..ECHOES).try_for_each(|_| session.echo());
    let still = lab.status().map(|status| drains(&status));
    lab.remove_pod(NEXT)?;
    lab.wait_until(SETTLE, "with the former", |status| status.proxied_by(ZTUNNEL) && status.draining.is_none())?;
    outcome?;
    ensure!(still?, "the drain was over too early");
    Ok(())
}

fn without_tunnel(lab: &mut Lab) -> Result<()> {
    lab.stop_agent(Signal::KILL)?;
    ip_batch(&lab.node(), &["link del istioout"])?;
    for to in ["svc-remote", "172.18.0.2:8081", REMOTE] {
        if let Ok(seen) = probe(&lab.place("app-a")?, lab.target(to)?, None) {
            bail!("{to} was reached: {seen:?}");
        }
    }
    Ok(())
}
