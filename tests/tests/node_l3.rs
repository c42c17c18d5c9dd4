//! A way to other nodes without a link layer: an IPIP tunnel, as CNIs build them. What arrives by it meets the law as what
//! arrives by Ethernet does.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redirect_lab::command::Cmd;
use redirect_lab::demo::SETTLE;
use redirect_lab::harness::{Checks, eventually, settled};
use redirect_lab::lab::Lab;
use redirect_lab::layout::{NODE_IP, REMOTE_IP};
use redirect_lab::netns::Netns;
use redirect_lab::pair::{End, Listener, Pair};
use redirect_lab::programs::{Hook, hung_on};
use rustix::process::Signal;

const TUNNEL: &str = "ipip-test";
/// The second node's address in the tunnel.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const PORT: u16 = 7007;
const PATIENCE: Duration = Duration::from_secs(3);

#[test]
fn a_tunnel_of_ip_in_ip_is_a_way_like_any_other() -> Result<()> {
    let (mut lab, status) = settled("l3")?;
    let app = lab.pod("app-a")?.ip()?;
    dig(&lab, app)?;
    let mut checks = Checks::default();
    if status.mode == "ebpf" {
        checks.check("it has a program", || eventually(SETTLE, || has_program(&lab)));
    }
    let pod = lab.place("app-a")?;
    checks.check("UDP of a meshed pod is answered", || eventually(SETTLE, || answered(&pod, &lab.remote(), FAR)));
    checks.check("UDP to a meshed pod arrives, and is answered", || answered(&lab.remote(), &pod, app));
    checks.check("TCP of a meshed pod is proxied", || proxied(&pod, &lab.remote(), FAR));
    checks.check("TCP to a meshed pod is proxied", || proxied(&lab.remote(), &pod, app));
    if status.mode == "ebpf" {
        checks.check("it is the program's doing", || {
            lab.stop_agent(Signal::KILL)?;
            // Another link by the same name, as it would be without the program.
            Cmd::line(&format!("ip link del {TUNNEL}")).netns(&lab.node()).run()?;
            near_end(&lab)?;
            ensure!(answered(&lab.remote(), &pod, app).is_err(), "UDP arrives without it");
            Ok(())
        });
    }
    checks.finish()
}

/// Between both nodes, with a route to the pod at the far end.
fn dig(lab: &Lab, pod: Ipv4Addr) -> Result<()> {
    near_end(lab)?;
    let lines = [
        format!("ip link add {TUNNEL} type ipip local {REMOTE_IP} remote {NODE_IP}"),
        format!("ip addr add {FAR}/32 dev {TUNNEL}"),
        format!("ip link set {TUNNEL} up"),
        format!("sysctl -qw net.ipv4.conf.{TUNNEL}.rp_filter=2"),
        format!("ip route add {pod}/32 dev {TUNNEL} src {FAR}"),
    ];
    lines.iter().try_for_each(|line| Cmd::line(line).netns(&lab.remote()).run().map(drop))
}

fn near_end(lab: &Lab) -> Result<()> {
    let lines = [
        format!("ip link add {TUNNEL} type ipip local {NODE_IP} remote {REMOTE_IP}"),
        format!("ip link set {TUNNEL} up"),
        format!("sysctl -qw net.ipv4.conf.{TUNNEL}.rp_filter=2"),
        format!("ip route add {FAR}/32 dev {TUNNEL}"),
    ];
    lines.iter().try_for_each(|line| Cmd::line(line).netns(&lab.node()).run().map(drop))
}

fn has_program(lab: &Lab) -> Result<()> {
    let hung = hung_on(&lab.node(), &[TUNNEL.to_owned()])?;
    ensure!(hung.iter().any(|program| program.is_ours() && program.hook == Hook::Ingress), "on {TUNNEL}: {hung:?}");
    Ok(())
}

/// One datagram forth, and one back.
fn answered(from: &Netns, to: &Netns, address: Ipv4Addr) -> Result<()> {
    let server = bound(to, SocketAddrV4::new(address, PORT))?;
    let client = bound(from, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    client.send_to(b"forth", SocketAddrV4::new(address, PORT)).context("cannot send")?;
    let mut bytes = [0; 16];
    let (_, peer) = server.recv_from(&mut bytes).with_context(|| format!("nothing arrives at {address}"))?;
    server.send_to(b"back", peer).context("cannot answer")?;
    client.recv_from(&mut bytes).with_context(|| format!("no answer of {address} arrives"))?;
    Ok(())
}

fn bound(netns: &Netns, address: SocketAddrV4) -> Result<UdpSocket> {
    let socket = netns.run(|| UdpSocket::bind(address))?.with_context(|| format!("cannot use {address}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn proxied(from: &Netns, to: &Netns, address: Ipv4Addr) -> Result<()> {
    let listener = Listener::open(to, SocketAddrV4::new(address, PORT))?;
    let mut pair = Pair::open(from, None, &listener)?;
    ensure!(pair.is_proxied()?, "past ztunnel");
    pair.pass(End::Server)?;
    pair.pass(End::Client)
}
