//! Pods that start and end all the time, several at once, as kubelet does it. Each has a socket that waits in its netns, and the
//! first thing that the pod does is a connection: its SYN is the pod's first packet. Where the SYNs went is for a capture to say.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::capture::Capture;
use crate::client::Session;
use crate::lab::Lab;
use crate::layout::{MESH_NAMESPACE, POD_SUBNET, REMOTE_SERVER, UPLINK};
use crate::manifests::Manifests;
use crate::netns::Netns;
use crate::pod::Pod;
use crate::ports::CLIENT_PORTS;
use crate::proxy::{Record, read};
use crate::runtime::{Chain, Sandbox, address};

/// Pods that start at a time.
const WORKERS: usize = 3;
/// Kubelet tries again for ever. A pod that has not started by then does not start.
const PATIENCE: Duration = Duration::from_mins(3);
/// As many ended pods are still shown to the agent: their addresses are given to others meanwhile.
const LINGERING: usize = 6;

static NEXT_PORT: AtomicU16 = AtomicU16::new(CLIENT_PORTS.start);

/// What starts.
#[derive(Clone, Debug)]
pub struct Starter {
    chain: Chain,
    manifests: Manifests,
    prefix: String,
    proxy_log: std::path::PathBuf,
}

/// What became of the pods.
#[derive(Debug, Default)]
pub struct Report {
    /// The first connections that came about, by the client.
    pub connected: Vec<SocketAddrV4>,
    /// The pods that did not start, and connections that did not come about, and why.
    pub failed: Vec<String>,
    /// Starts that the plugin held back, so that they were tried again.
    pub again: usize,
    /// SYNs of pods that left the node.
    pub escapes: Vec<String>,
    /// Connections of which the proxy has not seen what it should.
    pub astray: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicUsize,
    report: Mutex<Report>,
    lingering: Mutex<VecDeque<Pod>>,
}

/// What is seen of first packets on the node's uplink. Pods choose ports that nobody else does: see [`CLIENT_PORTS`].
pub fn watch(node: &Netns) -> Result<Capture> {
    let ports = format!("{}-{}", CLIENT_PORTS.start, CLIENT_PORTS.end - 1);
    let filter =
        format!("src net {POD_SUBNET} and tcp src portrange {ports} and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn");
    Capture::start(node, UPLINK, &filter)
}

/// A socket in `netns` that needs an address and nothing else to send its first packet. No two have the same port, so each SYN tells
/// whose it is, and none is of a connection that is remembered of an earlier pod with the address.
pub fn waiting(netns: &Netns) -> Result<Socket> {
    let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    ensure!(CLIENT_PORTS.contains(&port), "all ports were used");
    netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        Ok(socket)
    })?
}

/// The first connection of a container that has just been started: with whom it was.
pub fn first_act(socket: Socket) -> Result<SocketAddr> {
    let mut session = Session::open_by(socket, REMOTE_SERVER)?;
    session.echo()?;
    Ok(session.greeting().peer)
}

impl Starter {
    /// For pods of `lab` on this network, whose proxy is the pod `proxy`.
    #[must_use]
    pub fn new(lab: &Lab, chain: Chain, proxy: &str) -> Self {
        Self { chain, manifests: lab.manifests(), prefix: lab.name().to_owned(), proxy_log: lab.proxy_log(proxy) }
    }

    /// Starts and ends as many meshed pods and judges them.
    pub fn run(&self, count: usize) -> Result<Report> {
        let (_, seen) = read(&self.proxy_log, 0)?;
        let capture = watch(&self.chain.node)?;
        let shared = Shared::default();
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| self.work(&shared, count));
            }
        });
        for pod in lock(&shared.lingering).drain(..) {
            self.manifests.remove_pod(&pod)?;
        }
        let mut report = shared.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.escapes = capture.finish()?;
        let (records, _) = read(&self.proxy_log, seen)?;
        report.astray = report.connected.iter().filter_map(|client| astray(*client, &records)).collect();
        Ok(report)
    }

    fn work(&self, shared: &Shared, count: usize) {
        loop {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            if let Err(error) = self.live(shared, number) {
                lock(&shared.report).failed.push(format!("pod {number}: {error:#}"));
            }
        }
    }

    /// A pod's whole life. Every third is heard of by the agent only while it starts, and of every second the status has an
    /// address before it ends.
    fn live(&self, shared: &Shared, number: usize) -> Result<()> {
        let mut pod = Pod::app(MESH_NAMESPACE, &format!("first-{number}"))?;
        let late = number % 3 == 2;
        if !late {
            self.manifests.put_pod(&pod)?;
        }
        let ((sandbox, socket), result) = self.start(shared, number, &pod, late)?;
        let port = socket.local_addr()?.as_socket_ipv4().context("another family")?.port();
        let client = SocketAddrV4::new(address(&result)?, port);
        let outcome = first_act(socket).and_then(|peer| {
            ensure!(peer.ip() == IpAddr::V4(*client.ip()), "{client} was seen as {peer}");
            Ok(())
        });
        match outcome {
            Ok(()) => lock(&shared.report).connected.push(client),
            Err(error) => lock(&shared.report).failed.push(format!("pod {number}, {client}: {error:#}")),
        }
        if number % 2 == 1 {
            pod.ips = vec![(*client.ip()).into()];
            self.manifests.put_pod(&pod)?;
        }
        self.chain.del(&sandbox, Some(&result))?;
        drop(sandbox);
        self.linger(shared, pod)
    }

    fn start(&self, shared: &Shared, number: usize, pod: &Pod, late: bool) -> Result<((Sandbox, Socket), Value)> {
        let (since, mut attempt) = (Instant::now(), 0);
        loop {
            let sandbox = Sandbox::create(&format!("{}-first-{number}-{attempt}", self.prefix), pod)?;
            let socket = waiting(&sandbox.netns)?;
            let added = thread::scope(|scope| {
                let adding = scope.spawn(|| self.chain.add(&sandbox));
                let shown = if late { self.manifests.put_pod(pod) } else { Ok(()) };
                let added = adding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                shown.and(added)
            });
            match added {
                Ok(result) => return Ok(((sandbox, socket), result)),
                Err(error) => {
                    self.chain.del(&sandbox, None)?;
                    if since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                    lock(&shared.report).again += 1;
                    attempt += 1;
                }
            }
        }
    }

    /// The API server forgets a pod when kubelet is done with it, which is after its address was given away.
    fn linger(&self, shared: &Shared, pod: Pod) -> Result<()> {
        let mut lingering = lock(&shared.lingering);
        lingering.push_back(pod);
        if lingering.len() > LINGERING
            && let Some(gone) = lingering.pop_front()
        {
            self.manifests.remove_pod(&gone)?;
        }
        Ok(())
    }
}

impl Report {
    /// Every pod's first packet went to the proxy.
    pub fn nothing_escaped(&self, count: usize) -> Result<()> {
        let some = |texts: &[String]| texts.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        ensure!(self.escapes.is_empty(), "{} SYNs escaped: {}", self.escapes.len(), some(&self.escapes));
        ensure!(self.astray.is_empty(), "{} went astray: {}", self.astray.len(), some(&self.astray));
        ensure!(self.failed.is_empty(), "{} of {count} failed: {}", self.failed.len(), some(&self.failed));
        ensure!(self.connected.len() == count, "{} of {count} connected", self.connected.len());
        Ok(())
    }

    /// How many pods had an address that an earlier one had had.
    #[must_use]
    pub fn reused(&self) -> usize {
        let mut addresses: Vec<_> = self.connected.iter().map(|client| *client.ip()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        self.connected.len() - addresses.len()
    }
}

fn astray(client: SocketAddrV4, records: &[Record]) -> Option<String> {
    let right = |record: &&Record| record.listener == 15001 && record.original_dst == SocketAddr::V4(REMOTE_SERVER);
    let of_client: Vec<_> = records.iter().filter(|record| record.client == SocketAddr::V4(client)).collect();
    match of_client.as_slice() {
        [record] if right(record) => None,
        [] => Some(format!("{client} was not seen by the proxy")),
        others => Some(format!("the proxy saw {others:?}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
