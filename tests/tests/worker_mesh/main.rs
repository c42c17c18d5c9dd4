//! A real node of a real cluster, and the agent on it as an operator puts it there and takes it away again: `kubectl apply -k`
//! of what is in `deploy/`, with a mesh of real pods that kubelet starts, probes and ends.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod leftovers;
mod objects;
mod operator;
mod traffic;

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use redirect_lab::capture::Capture;
use redirect_lab::harness::{Checks, options};
use redirect_lab::layout::{POD_PORT, UPLINK};
use redirect_lab::mode::Mode;
use redirect_lab::netns::Netns;
use redirect_lab::worker::Worker;
use serde_json::json;

use leftovers::Node;
use objects::{EARLIER, MESH, OUTSIDE, SERVICE_IP, SYSTEM};
use operator::{AGENT, ZTUNNEL, address, await_annotations, await_rollout, kustomize, restart};
use traffic::{Stream, Way, connection, netns_of, records, source_ports};

/// Namespaces and names of all applications.
const APPLICATIONS: [(&str, &str); 4] = [(SYSTEM, "ztunnel"), (MESH, "app-a"), (MESH, "app-b"), (OUTSIDE, "plain")];

#[test]
fn a_node_joins_the_mesh_and_leaves_it() -> Result<()> {
    let worker = Worker::start(options("worker")?.topology)?;
    join_and_leave(&worker, &Mode::from_environment()?.to_string()).with_context(|| worker.logs())
}

fn join_and_leave(worker: &Worker, mode: &str) -> Result<()> {
    // What the node's own plugins leave behind, and forwarding, are there from the first pod on.
    deploy(worker, &[(EARLIER, "plain")])?;
    remove(worker, &[EARLIER])?;
    let before = Node::look()?;
    deploy(worker, &APPLICATIONS)?;
    let mut checks = Checks::default();
    check_traffic(worker, &mut checks, "before the agent", false)?;

    kustomize(worker, "apply", mode)?;
    await_rollout(worker, AGENT)?;
    label(worker, Some("ambient"))?;
    await_annotations(worker, MESH, true)?;
    check_traffic(worker, &mut checks, "meshed", true)?;
    checks.check("pods that are made anew are captured from their first packet", || recreate(worker));
    check_traffic(worker, &mut checks, "made anew", true)?;
    checks.check("the agent is rolled, and nothing is lost", || roll_agent(worker));
    checks.check("ztunnel is rolled, and nothing passes it by", || roll_ztunnel(worker));
    check_traffic(worker, &mut checks, "after both were rolled", true)?;
    checks.check("probes have passed all the time", || probes_passed(worker));

    kustomize(worker, "apply", "uninstall")?;
    await_rollout(worker, AGENT)?;
    await_annotations(worker, MESH, false)?;
    check_traffic(worker, &mut checks, "after the uninstallation", false)?;
    kustomize(worker, "delete", "uninstall")?;
    remove(worker, &[MESH, OUTSIDE, SYSTEM])?;
    checks.check("the node is as before", || {
        worker.eventually("the node is as before", || before.ensure_same(&Node::look()?))
    });
    checks.finish()
}

fn deploy(worker: &Worker, applications: &[(&str, &str)]) -> Result<()> {
    let remote = worker.remote()?;
    for (namespace, name) in applications {
        worker.api().apply(&objects::namespace(namespace))?;
        for object in objects::objects(namespace, name, remote) {
            worker.api().apply(&object)?;
        }
    }
    for (namespace, name) in applications {
        worker.await_pods(namespace, &format!("app={name}"), 1)?;
    }
    Ok(())
}

fn label(worker: &Worker, mode: Option<&str>) -> Result<()> {
    let change = json!({ "metadata": { "labels": { "istio.io/dataplane-mode": mode } } });
    worker.api().patch(&format!("/api/v1/namespaces/{MESH}"), &change)?.good()?;
    Ok(())
}

/// Every kind of connection, each the way it must go when the pods of the mesh are meshed, or are not.
fn check_traffic(worker: &Worker, checks: &mut Checks, when: &str, meshed: bool) -> Result<()> {
    let at = |namespace, app| Ok::<_, anyhow::Error>(SocketAddrV4::new(address(worker, namespace, app)?, POD_PORT));
    let (app_a, app_b, plain) = (at(MESH, "app-a")?, at(MESH, "app-b")?, at(OUTSIDE, "plain")?);
    let (remote, service) = (worker.remote()?, SocketAddrV4::new(SERVICE_IP, POD_PORT));
    let outbound = |to| if meshed { Way::Proxied(15001, to) } else { Way::Direct };
    let inbound = |to| if meshed { Way::Proxied(15006, to) } else { Way::Direct };
    let (client, unmeshed) = (netns_of(*app_a.ip())?, netns_of(*plain.ip())?);
    for (name, from, to, server, way) in [
        ("meshed to meshed", &client, app_b, "app-b", outbound(app_b)),
        ("meshed to a service", &client, service, "app-b", outbound(service)),
        ("meshed to unmeshed", &client, plain, "plain", outbound(plain)),
        ("meshed to another machine", &client, remote, "remote", outbound(remote)),
        ("unmeshed to meshed", &unmeshed, app_a, "app-a", inbound(app_a)),
        ("unmeshed to a service", &unmeshed, service, "app-b", inbound(app_b)),
        ("unmeshed to another machine", &unmeshed, remote, "remote", Way::Direct),
        ("the node to meshed", &Netns::of_first_process(), app_a, "app-a", Way::Direct),
    ] {
        checks.check(&format!("{when}: {name}"), || connection(from, to, server, way));
    }
    Ok(())
}

/// What `app-a` does first is a connection out of the node. Each first packet that leaves must be the proxy's.
fn recreate(worker: &Worker) -> Result<()> {
    let remote = worker.remote()?;
    let filter = format!("tcp[tcpflags] & tcp-syn != 0 and dst host {} and dst port {}", remote.ip(), remote.port());
    let capture = Capture::start(&Netns::of_first_process(), UPLINK, &filter)?;
    let (_, before) = records(0)?;
    let path = format!("/api/v1/namespaces/{MESH}/pods");
    for pod in worker.pods(MESH, "")? {
        let name = pod["metadata"]["name"].as_str().context("a pod has no name")?;
        worker.api().request("DELETE", &format!("{path}/{name}"), None)?.good()?;
    }
    for app in ["app-a", "app-b"] {
        worker.await_pods(MESH, &format!("app={app}"), 1)?;
    }
    await_annotations(worker, MESH, true)?;
    let left = source_ports(&capture.finish()?)?;
    let app_a = address(worker, MESH, "app-a")?;
    let (records, _) = records(before)?;
    let own: Vec<_> = records.iter().filter(|record| record.original_dst == remote.into()).collect();
    ensure!(own.iter().any(|record| record.client.ip() == app_a), "the first connection is not the proxy's: {own:?}");
    let proxied: Vec<u16> = own.iter().filter_map(|record| Some(record.onward_source?.port())).collect();
    ensure!(!left.is_empty() && left.iter().all(|port| proxied.contains(port)), "left: {left:?}, proxied: {proxied:?}");
    Ok(())
}

fn roll_agent(worker: &Worker) -> Result<()> {
    let stream = meshed_stream(worker)?;
    restart(worker, AGENT, "once")?;
    await_rollout(worker, AGENT)?;
    let report = stream.stop()?;
    println!("{} connections while the agent was rolled", report.made);
    ensure!(report.made > 0 && report.failed.is_empty(), "failed: {:?}", report.failed);
    ensure!(report.astray.is_empty(), "not by the proxy: {:?}", report.astray);
    Ok(())
}

/// While there is no ztunnel, nothing goes.
fn roll_ztunnel(worker: &Worker) -> Result<()> {
    let stream = meshed_stream(worker)?;
    restart(worker, ZTUNNEL, "once")?;
    await_rollout(worker, ZTUNNEL)?;
    let app_b = SocketAddrV4::new(address(worker, MESH, "app-b")?, POD_PORT);
    let client = netns_of(address(worker, MESH, "app-a")?)?;
    let again = || connection(&client, app_b, "app-b", Way::Proxied(15001, app_b));
    worker.eventually("the new ztunnel takes connections", again)?;
    let report = stream.stop()?;
    println!("{} connections while ztunnel was rolled, {} failed", report.made, report.failed.len());
    ensure!(report.astray.is_empty(), "not by the proxy: {:?}", report.astray);
    Ok(())
}

fn meshed_stream(worker: &Worker) -> Result<Stream> {
    let app_b = SocketAddrV4::new(address(worker, MESH, "app-b")?, POD_PORT);
    Stream::start(netns_of(address(worker, MESH, "app-a")?)?, app_b)
}

/// kubelet restarts what fails its probes.
fn probes_passed(worker: &Worker) -> Result<()> {
    for pod in worker.pods(MESH, "")? {
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["restartCount"] == 0 && status["ready"] == true, "{}: {status}", pod["metadata"]["name"]);
    }
    Ok(())
}

fn remove(worker: &Worker, namespaces: &[&str]) -> Result<()> {
    for namespace in namespaces {
        worker.api().delete(&format!("/api/v1/namespaces/{namespace}"))?.good()?;
    }
    // The namespaces themselves take their time.
    worker.eventually("no pod has a network", || {
        let left = std::fs::read_dir("/run/netns").context("list namespaces")?.count();
        ensure!(left == 0, "{left} network namespaces");
        Ok(())
    })
}
