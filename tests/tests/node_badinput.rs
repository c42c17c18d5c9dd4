//! Bad input: what it is about is named in status, and everything else keeps working.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use redirect_common::names::{TABLE_SEAT_A, TABLE_SEAT_B, TableId};
use redirect_lab::command::Cmd;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, settled, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::layout::{
    MESH_NAMESPACE, NODE_IP, NODE_SECOND_IP, PLAIN_NAMESPACE, POD_LINK, PROXY_NAMESPACE, REMOTE_IP,
};
use redirect_lab::node::ip_batch;
use redirect_lab::operator::meshed;
use redirect_lab::pod::Pod;
use redirect_lab::status::Status;
use redirect_lab::table::{self, CASES, Expect};
use rustix::process::Signal;

const NOTICE: Duration = Duration::from_secs(30);
/// How often what cannot be made is to be tried.
const TRIES: u64 = 3;

#[test]
fn it_is_named_and_everything_else_works() -> Result<()> {
    let (mut lab, _) = settled("bad")?;
    let mut checks = Checks::default();
    checks.check("an unreadable file", || {
        lab.manifests().write("broken.yaml", "kind: Pod\nmetadata: {name: [\n")?;
        complains(&lab, "broken.yaml", "")?;
        works(&lab)?;
        lab.manifests().remove("broken.yaml")?;
        lab.wait_until(NOTICE, "without the problem", |status| !status.complains("broken.yaml", "")).map(drop)
    });
    checks.check("a pod without an address", || {
        with(&lab, &manifest("no-ip", &[])?, || {
            complains(&lab, "no-ip", "ip")?;
            let status = lab.status()?;
            let state = status.pod("no-ip").map(|pod| pod.state.clone());
            ensure!(state.as_deref() == Some("pending"), "its state is {state:?}");
            Ok(())
        })
    });
    checks.check("a pod on the host's network", || {
        let mut pod = manifest("host-pod", &[NODE_IP.into()])?;
        pod.host_network = true;
        with(&lab, &pod, || {
            lab.wait_until(NOTICE, "aware of host-pod", |status| is(status, "host-pod", "not-meshed"))?;
            nowhere(&lab, NODE_IP)
        })
    });
    for address in [NODE_IP, NODE_SECOND_IP] {
        checks.check(&format!("a pod with the node's address {address}"), || {
            with(&lab, &manifest("thief", &[address.into()])?, || {
                lab.wait_until(NOTICE, "refusing thief", |status| is(status, "thief", "refused"))?;
                complains(&lab, "thief", &address.to_string())?;
                nowhere(&lab, address)
            })
        });
    }
    checks.check("an older pod with the address of another", || {
        let address = lab.pod("app-b")?.ip()?;
        let mut pod = manifest("twin", &[address.into()])?;
        pod.created -= 1000;
        with(&lab, &pod, || {
            complains(&lab, "twin", &address.to_string())?;
            ensure!(lab.status()?.meshed("app-b"), "app-b lost its address");
            Ok(())
        })
    });
    checks.check("a newer pod with the address of another", || {
        let address = lab.pod("app-b")?.ip()?;
        let mut pod = manifest("twin", &[address.into()])?;
        pod.created += 1000;
        // Whose address it is cannot be told; that there are two must be, and that it is in the mesh does not change.
        with(&lab, &pod, || complains(&lab, "twin", &address.to_string()))
    });
    checks.check("a finished pod with the address of another", || {
        let mut pod = manifest("finished", &[lab.pod("app-b")?.ip()?.into()])?;
        pod.phase = "Succeeded".to_owned();
        with(&lab, &pod, || {
            lab.wait_until(NOTICE, "aware of finished", |status| is(status, "finished", "not-meshed"))?;
            ensure!(lab.status()?.meshed("app-b"), "app-b lost its address");
            Ok(())
        })
    });
    checks.check("a newer ztunnel that is nowhere to be found", || {
        let mut pod = Pod::proxy(PROXY_NAMESPACE, "ztunnel-ghost")?;
        pod.ips = vec![IpAddr::from([10, 244, 1, 250])];
        with(&lab, &pod, || complains(&lab, "ztunnel-ghost", ""))
    });
    checks.check("pods behind a link that is no veth", || behind_macvlan(&lab));
    checks.check("a ztunnel in a namespace that is not the configured one", || impostor(&mut lab));
    checks.check("pods that give themselves ztunnel's address", || usurpers(&mut lab));
    checks.finish()
}

#[test]
fn without_a_ztunnel_that_can_be_found_meshed_pods_are_blocked_and_no_one_else() -> Result<()> {
    let (mut lab, _) = settled("ghost")?;
    lab.remove_pod(ZTUNNEL)?;
    let mut ghost = Pod::proxy(PROXY_NAMESPACE, "ztunnel-ghost")?;
    ghost.ips = vec![IpAddr::from([10, 244, 1, 250])];
    lab.manifests().put_pod(&ghost)?;
    let mut checks = Checks::default();
    checks.check("it is named", || complains(&lab, "ztunnel-ghost", ""));
    for case in CASES.iter().filter(|case| case.from != ZTUNNEL) {
        let allowed = case.proxy == Expect::Nothing;
        checks.check(&format!("{}: {}", case.name, if allowed { "works" } else { "blocked" }), || {
            // Reached and unseen by any proxy: an escape.
            let seen = table::run_case(&lab, ZTUNNEL, *case)?.seen;
            ensure!(seen.is_ok() == allowed, "{seen:?}");
            Ok(())
        });
    }
    checks.check("a real one is taken", || {
        lab.manifests().remove_pod(&ghost)?;
        lab.add_pod(Pod::proxy(PROXY_NAMESPACE, "ztunnel-real")?)?;
        lab.wait_until(NOTICE, "settled", |status| status.proxied_by("ztunnel-real"))?;
        let rows = table::run(&lab, "ztunnel-real")?;
        ensure!(rows.iter().all(|row| row.wrong.is_empty()), "{}", table::render(&rows));
        Ok(())
    });
    let routes =
        [TABLE_SEAT_A, TABLE_SEAT_B].map(|TableId(table)| format!("route add default via {REMOTE_IP} table {table}"));
    checks.check("while another's route stands where a next ztunnel's would, the former goes on", || {
        ip_batch(&lab.node(), &routes.each_ref().map(String::as_str))?;
        lab.add_pod(Pod::proxy(PROXY_NAMESPACE, "ztunnel-next")?)?;
        cannot_turn(&lab)?;
        let wrong = table::run_case(&lab, "ztunnel-real", CASES[0])?.wrong;
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    });
    checks.check("and keeps nobody from the next one when the former has gone", || {
        lab.remove_pod("ztunnel-real")?;
        lab.wait_until(NOTICE, "settled", |status| status.proxied_by("ztunnel-next"))?;
        let wrong = table::run_case(&lab, "ztunnel-next", CASES[0])?.wrong;
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        let removed = routes.each_ref().map(|route| route.replace(" add ", " del "));
        ip_batch(&lab.node(), &removed.each_ref().map(String::as_str))
    });
    checks.finish()
}

/// What stands in the way is told, and nobody is accused of a fight; each try finds what the one before it has made.
fn cannot_turn(lab: &Lab) -> Result<()> {
    let told = |status: &Status| status.complains("route", "");
    let begun = lab.wait_until(NOTICE, "told of the route", told)?;
    // The one that told may have made some of it.
    let tried = lab.wait_until(NOTICE, "tried again", |status| status.reconciles > begun.reconciles + TRIES)?;
    let after = lab.wait_until(NOTICE, "tried again", |status| status.reconciles > tried.reconciles + TRIES)?;
    let writes = |status: &Status| status.total_writes();
    ensure!(writes(&tried) == writes(&after), "{} more writes", writes(&after) - writes(&tried));
    ensure!(!after.complains("", "another component"), "somebody is accused: {:?}", after.problems);
    Ok(())
}

/// Packets of a macvlan do not pass the node's IP layer. A pod behind one is never shown as meshed, and as ztunnel it is not taken.
fn behind_macvlan(lab: &Lab) -> Result<()> {
    let address = Ipv4Addr::new(10, 77, 0, 9);
    let netns = lab.pod_netns("plain-b");
    let link = format!("link add link mac-parent name mac0 netns {} type macvlan mode bridge", netns.name());
    ip_batch(
        &lab.node(),
        &["link add mac-parent type dummy", "addr add 10.77.0.1/24 dev mac-parent", "link set mac-parent up", &link],
    )?;
    ip_batch(&netns, &[&format!("addr add {address}/24 dev mac0"), "link set mac0 up"])?;
    let mut proxy = Pod::proxy(PROXY_NAMESPACE, "ztunnel-mac")?;
    proxy.ips = vec![address.into()];
    let as_ztunnel = with(lab, &proxy, || complains(lab, "ztunnel-mac", "interface mac0"));
    let as_app = with(lab, &manifest("app-mac", &[address.into()])?, || {
        complains(lab, "app-mac", "behind a link of another kind")
    });
    ip_batch(&lab.node(), &["link del mac-parent"])?;
    as_ztunnel.and(as_app)
}

/// A real pod with a real proxy and the right label, in the wrong namespace.
fn impostor(lab: &mut Lab) -> Result<()> {
    lab.add_pod(Pod::proxy(PLAIN_NAMESPACE, "impostor")?)?;
    lab.wait_until(NOTICE, "aware of the impostor", |status| status.settled && status.pod("impostor").is_some())?;
    let named = lab.status()?.proxy.name;
    ensure!(named.as_deref() == Some(ZTUNNEL), "ztunnel is now {named:?}");
    works(lab)?;
    let seen = redirect_lab::proxy::read(&lab.proxy_log("impostor"), 0)?.0;
    ensure!(seen.is_empty(), "the impostor saw {seen:?}");
    lab.remove_pod("impostor")
}

/// With `CAP_NET_ADMIN` a pod can do that. Nobody is taken for ztunnel for it, also by an agent that starts.
fn usurpers(lab: &mut Lab) -> Result<()> {
    let ip = lab.pod(ZTUNNEL)?.ip()?;
    let pods = ["app-a", "app-b", "plain", "plain-b"].map(|pod| lab.pod_netns(pod));
    let each = |verb: &str| {
        let line = format!("addr {verb} {ip}/32 dev {POD_LINK}");
        pods.iter().try_for_each(|pod| ip_batch(pod, &[&line]))
    };
    each("add")?;
    let veth = lab.pod(ZTUNNEL)?.host_link.clone();
    let outcome = restarted(lab).and_then(|status| {
        ensure!(status.proxied_by(ZTUNNEL) && status.proxy.veth == veth, "it is {:?}, not {veth:?}", status.proxy);
        Ok(())
    });
    each("del")?;
    // Behind a bridge they may have answered for it.
    Cmd::line("ip neigh flush all").netns(&lab.node()).run()?;
    outcome.and_then(|()| works(lab))
}

fn restarted(lab: &mut Lab) -> Result<Status> {
    lab.stop_agent(Signal::KILL)?;
    start(lab, &watchful())
}

/// A pod of the mesh that exists only on paper.
fn manifest(name: &str, ips: &[IpAddr]) -> Result<Pod> {
    let mut pod = Pod::app(MESH_NAMESPACE, name)?;
    pod.ips = ips.to_vec();
    Ok(pod)
}

/// Shows `pod` to the agent, makes `check`, sees that the rest works, and takes it away.
fn with(lab: &Lab, pod: &Pod, check: impl FnOnce() -> Result<()>) -> Result<()> {
    lab.manifests().put_pod(pod)?;
    let outcome = check().and_then(|()| works(lab));
    lab.manifests().remove_pod(pod)?;
    let recovered = |status: &Status| status.settled && !status.complains(&pod.name, "");
    outcome.and(lab.wait_until(NOTICE, "without the problem", recovered).map(drop))
}

fn complains(lab: &Lab, object: &str, about: &str) -> Result<()> {
    let what = format!("complaining about {object} ({about})");
    lab.wait_until(NOTICE, &what, |status| status.complains(object, about)).map(drop)
}

fn is(status: &Status, pod: &str, state: &str) -> bool {
    status.pod(pod).is_some_and(|pod| pod.state == state)
}

fn works(lab: &Lab) -> Result<()> {
    let rows = table::run(lab, ZTUNNEL)?;
    ensure!(rows.iter().all(|row| row.wrong.is_empty()), "{}", table::render(&rows));
    Ok(())
}

/// The address is neither among the meshed pods' nor in table 100.
fn nowhere(lab: &Lab, address: Ipv4Addr) -> Result<()> {
    ensure!(!meshed(lab)?.contains(&address), "{address} is among the meshed pods");
    let text = Cmd::line("ip route show table 100").netns(&lab.node()).run()?;
    let found = text.lines().any(|line| line.split_whitespace().next() == Some(&address.to_string()));
    ensure!(!found, "table 100 shows {address}:\n{text}");
    Ok(())
}
