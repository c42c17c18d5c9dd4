//! Two network namespaces: a node with its interfaces and rules, and a peer that holds the interfaces' other ends and sends.
//! Both have no name and go when the thread that made them ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrLike as _, sendto,
    setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use redirect_common::names::{CONN_SKIP, OUTBOUND, PROXY_A, PROXY_B, PROXY_RETURN, SET_PODS, SKIP};
use redirect_lab::command::Cmd;
use redirect_lab::corpus::{MESHED, MESHED_B, NODE, NODE_B};

use crate::nflog::Nflog;
use crate::setup::{INTERFACES, SINK, Setup, mac};

const GROUP: u16 = 5;
/// Enough for the headers by which packets are told apart.
const COPY: u32 = 64;

/// The node and its peer. The current thread is in the node's netns.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) setup: Setup,
    pub(crate) nflog: Nflog,
    frames: OwnedFd,
    peers: BTreeMap<String, LinkAddr>,
    raw: OwnedFd,
}

impl Net {
    /// Makes both and runs `work` on a thread inside of the node.
    pub(crate) fn with<T: Send>(setup: Setup, work: impl FnOnce(&mut Self) -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| work(&mut Self::make(setup)?));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn make(setup: Setup) -> Result<Self> {
        stay_on_one_cpu()?;
        let peer = new_netns()?;
        let node = new_netns()?;
        sysctls()?;
        ip_batch(&links(&peer))?;
        setns(&peer, CloneFlags::CLONE_NEWNET).context("enter the peer's netns")?;
        let (frames, peers) = peer_side()?;
        setns(&node, CloneFlags::CLONE_NEWNET).context("enter the node's netns")?;
        ip_batch(&addresses_and_routes())?;
        let members = [MESHED, MESHED_B].map(|ip| format!("add {SET_PODS} {ip}\n")).concat();
        Cmd::line("ipset restore").stdin(format!("create {SET_PODS} hash:ip\n{members}")).run()?;
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
            .context("raw IP socket")?;
        Ok(Self { setup, nflog: Nflog::open(GROUP, COPY)?, frames, peers, raw })
    }

    /// Loads the rules under test, others' rules ahead of them, and the rules that watch behind them.
    pub(crate) fn load(&self, rules: &str) -> Result<()> {
        let mut around = format!("{rules}*mangle\n");
        let foreign = self.setup.foreign;
        for hook in ["PREROUTING", "OUTPUT"] {
            for (seen, condition) in watched(foreign) {
                let _ = writeln!(around, "-A {hook} {condition} -j NFLOG --nflog-group {GROUP} --nflog-prefix {seen}");
            }
            let mark = self.setup.mark();
            if mark != 0 {
                let _ = writeln!(around, "-I {hook} 1 -j MARK --set-xmark {mark:#x}/{mark:#x}");
            }
            if foreign != 0 {
                let _ = writeln!(around, "-I {hook} 1 -j CONNMARK --set-xmark {foreign:#x}/{foreign:#x}");
            }
        }
        around.push_str("COMMIT\n");
        self.restore().args(["--noflush"]).stdin(around).run().map(drop).context("load the rules")
    }

    /// Takes all rules away, and forgets all connections.
    pub(crate) fn reset(&self) -> Result<()> {
        let empty = ["mangle", "nat", "filter"].map(|table| format!("*{table}\nCOMMIT\n")).concat();
        self.restore().stdin(empty).run().context("take the rules away")?;
        Cmd::line("conntrack -F").run().map(drop).context("forget connections")
    }

    fn restore(&self) -> Cmd {
        Cmd::new(self.setup.backend.restore()).args(["-w", "60"])
    }

    /// Sends a frame to where packets of `place` arrive.
    pub(crate) fn inject(&self, interface: &str, frame: &[u8]) -> Result<()> {
        let address = self.peers.get(&peer_name(interface)).with_context(|| format!("no peer of {interface}"))?;
        sendto(self.frames.as_raw_fd(), frame, address, MsgFlags::empty())
            .with_context(|| format!("send a frame to {interface}"))?;
        Ok(())
    }

    /// Sends a packet as a local socket of the node does. The socket is told when the rules drop it.
    pub(crate) fn output(&self, packet: &[u8], mark: u32, droppable: bool) -> Result<()> {
        setsockopt(&self.raw, sockopt::Mark, &mark).context("mark of the raw socket")?;
        let [d0, d1, d2, d3] = *packet[16..].first_chunk().context("no IPv4 header to send")?;
        let address = SockaddrIn::new(d0, d1, d2, d3, 0);
        match sendto(self.raw.as_raw_fd(), packet, &address, MsgFlags::empty()) {
            Err(Errno::EPERM) if droppable => Ok(()),
            sent => {
                sent.map(drop).with_context(|| format!("send to {} by a raw socket", Ipv4Addr::new(d0, d1, d2, d3)))
            }
        }
    }
}

/// What a connection's mark is called, and the condition under which it is that. Exactly one holds for a packet. (NFLOG can
/// tell of connections by itself, but only in a kernel with `NETFILTER_NETLINK_GLUE_CT`.)
fn watched(foreign: u32) -> Vec<(String, String)> {
    let skip = CONN_SKIP.value();
    let proxies = [PROXY_A, PROXY_B].map(|mark| [mark.value(), mark.value() | skip]).concat();
    let known: Vec<_> = [0, skip].into_iter().chain(proxies).map(|mark| mark | foreign).collect();
    let other: Vec<_> = known.iter().map(|mark| format!("-m connmark ! --mark {mark:#x}")).collect();
    let other = other.join(" ");
    let is = known.into_iter().map(|mark| (connection_name(Some(mark)), format!("-m connmark --mark {mark:#x}")));
    let none = (connection_name(None), "-m conntrack --ctstate INVALID,UNTRACKED".to_owned());
    is.chain([none, ("other".to_owned(), other)]).collect()
}

/// What a connection with this mark is called, or no connection.
pub(crate) fn connection_name(mark: Option<u32>) -> String {
    mark.map_or_else(|| "none".to_owned(), |mark| format!("{mark:#x}"))
}

/// What is sent stays in order: each CPU has a queue of received packets of its own.
fn stay_on_one_cpu() -> Result<()> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).context("CPUs of this thread")?;
    let cpu = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap_or(false)).context("no CPU")?;
    let mut one = CpuSet::new();
    one.set(cpu)?;
    sched_setaffinity(this_thread, &one).context("stay on one CPU")
}

fn new_netns() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a netns (needs root)")?;
    File::open("/proc/thread-self/ns/net").context("open the new netns")
}

fn sysctls() -> Result<()> {
    let settings = [
        ("ip_forward", "1"),
        ("conf/all/rp_filter", "0"),
        ("conf/default/rp_filter", "0"),
        // Packets with the node's own address come in by interfaces, too: ztunnel speaks as its client.
        ("conf/all/accept_local", "1"),
        ("conf/all/send_redirects", "0"),
        ("conf/default/send_redirects", "0"),
    ];
    for (name, value) in settings {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
    }
    Ok(())
}

fn peer_name(interface: &str) -> String {
    format!("p-{interface}")
}

/// Veth pairs between the node, where they are made, and the peer. No ARP: nobody would answer.
fn links(peer: &File) -> String {
    let netns = format!("/proc/{}/fd/{}", std::process::id(), peer.as_raw_fd());
    let mut batch = String::new();
    for interface in INTERFACES {
        let (name, mac) = (interface.name, mac(interface.mac));
        let _ = writeln!(batch, "link add {name} address {mac} type veth peer name {} netns {netns}", peer_name(name));
        let _ = writeln!(batch, "link set {name} arp off up");
    }
    batch
}

/// In the peer's netns: a socket that sends frames, and the addresses to send by.
fn peer_side() -> Result<(OwnedFd, BTreeMap<String, LinkAddr>)> {
    ip_batch(&INTERFACES.map(|interface| format!("link set {} up\n", peer_name(interface.name))).concat())?;
    let frames = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("packet socket")?;
    let mut peers = BTreeMap::new();
    for interface in getifaddrs().context("list the peer's interfaces")? {
        let link = interface.address.as_ref().and_then(|address| address.as_link_addr().copied());
        peers.extend(link.filter(|link| link.len() > 0).map(|link| (interface.interface_name, link)));
    }
    Ok((frames, peers))
}

/// The node routes by the marks, as design.md says, except that `sink` takes all that would reach somebody, also what is
/// for the node itself: nobody answers. Connections are remembered only when their first packet leaves or is delivered.
fn addresses_and_routes() -> String {
    let (outbound, inbound) = ("istioout", "istioin");
    let sink = SINK.name;
    let mut batch = String::new();
    for ip in [NODE, NODE_B] {
        let _ = writeln!(batch, "addr add {ip}/32 dev eth0");
    }
    let _ = writeln!(batch, "route add default dev {sink} table 50");
    let _ = writeln!(batch, "route add default dev {outbound} table 51");
    for pod in [MESHED, MESHED_B] {
        let _ = writeln!(batch, "route add {pod}/32 dev {inbound} table 52");
    }
    let _ = writeln!(batch, "rule add pref 100 fwmark {SKIP} lookup 50");
    let _ = writeln!(batch, "rule add pref 101 fwmark {OUTBOUND} lookup 51");
    let _ = writeln!(batch, "rule add pref 102 fwmark {PROXY_RETURN} lookup 50");
    let _ = writeln!(batch, "rule add pref 103 lookup 52");
    let _ = writeln!(batch, "rule add pref 104 lookup 50");
    let _ = writeln!(batch, "rule del pref 0");
    let _ = writeln!(batch, "rule add pref 105 lookup local");
    batch
}

fn ip_batch(batch: &str) -> Result<()> {
    Cmd::line("ip -batch -").stdin(batch).run().map(drop)
}
