//! A client inside any netns of the lab: connects with a deadline, learns from the server who it reached and as whom,
//! and checks that bytes come back as they went.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use crate::judge::Cookie;
use crate::lab::Lab;
use crate::layout::{NODE, NODE_IP, POD_PORT, REMOTE, REMOTE_IP, REMOTE_SERVER, SERVICE_APP_B, SERVICE_REMOTE};
use crate::netns::Netns;
use crate::serve::Greeting;

/// How long a connection, and each answer on it, may take.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// An open connection to a server of the lab.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<TcpStream>,
    local: SocketAddr,
    greeting: Greeting,
    sent: u64,
    cookie: Option<Cookie>,
}

impl Session {
    /// Connects from `netns` to `to`, with `source` as its address if one is given.
    pub fn open(netns: &Netns, to: SocketAddrV4, source: Option<Ipv4Addr>) -> Result<Self> {
        Self::connect(netns, to, source.map(|source| SocketAddrV4::new(source, 0)), TIMEOUT)
    }

    /// Connects from this address and port; that, and each answer, may take so long.
    pub fn open_from(netns: &Netns, to: SocketAddrV4, from: SocketAddrV4, patience: Duration) -> Result<Self> {
        Self::connect(netns, to, Some(from), patience)
    }

    /// Connects by a socket that has been waiting for it in its netns.
    pub fn open_by(socket: Socket, to: SocketAddrV4) -> Result<Self> {
        socket.connect_timeout(&to.into(), TIMEOUT).with_context(|| format!("no connection to {to}"))?;
        Self::greeted(socket.into(), to, TIMEOUT)
    }

    /// Connects from where this process is.
    pub fn open_here(to: SocketAddrV4) -> Result<Self> {
        Self::greeted(connect(to, None, TIMEOUT).with_context(|| format!("no connection to {to}"))?, to, TIMEOUT)
    }

    fn connect(netns: &Netns, to: SocketAddrV4, source: Option<SocketAddrV4>, patience: Duration) -> Result<Self> {
        let stream = netns.run(|| connect(to, source, patience))?.with_context(|| format!("no connection to {to}"))?;
        Self::greeted(stream, to, patience)
    }

    fn greeted(stream: TcpStream, to: SocketAddrV4, patience: Duration) -> Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        let greeted = stream.read_line(&mut line).and_then(|len| match len {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        });
        greeted.with_context(|| format!("{to} does not greet"))?;
        let greeting = serde_json::from_str(&line).with_context(|| format!("{to} greets with {line:?}"))?;
        Ok(Self { stream, local, greeting, sent: 0, cookie: None })
    }

    /// Waits this long for answers from now on.
    pub fn be_patient(&mut self, patience: Duration) -> Result<()> {
        Ok(self.stream.get_ref().set_read_timeout(Some(patience))?)
    }

    /// From now on each message begins with this.
    pub fn bear(&mut self, cookie: Cookie) {
        self.cookie = Some(cookie);
    }

    /// What the server said first.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Sends bytes that were not sent before and checks that they come back.
    pub fn echo(&mut self) -> Result<()> {
        self.sent += 1;
        let cookie = self.cookie.map(|cookie| cookie.to_string()).unwrap_or_default();
        let token = format!("{cookie}{} sends number {}\n", self.local, self.sent);
        self.stream.get_mut().write_all(token.as_bytes()).context("the connection does not take bytes")?;
        let mut answer = vec![0; token.len()];
        self.stream.read_exact(&mut answer).context("the connection does not answer")?;
        ensure!(answer == token.as_bytes(), "sent {token:?}, got back {:?}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}

fn connect(to: SocketAddrV4, source: Option<SocketAddrV4>, patience: Duration) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(source) = source {
        // An earlier connection of the same port may still be waiting out its time.
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    socket.connect_timeout(&to.into(), patience)?;
    Ok(socket.into())
}

/// What one attempt showed.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// The server's name.
    pub server: String,
    /// The source address that the server saw.
    pub source: IpAddr,
    /// The client's own address.
    pub client: SocketAddr,
    /// The address at which the server was reached.
    pub server_address: SocketAddr,
    /// From the first packet to the echoed bytes.
    pub milliseconds: u128,
}

/// One connection, used once.
pub fn probe(netns: &Netns, to: SocketAddrV4, source: Option<Ipv4Addr>) -> Result<Seen> {
    let start = Instant::now();
    let mut session = Session::open(netns, to, source)?;
    session.echo()?;
    let Greeting { server, local, peer } = session.greeting().clone();
    let milliseconds = start.elapsed().as_millis();
    Ok(Seen { server, source: peer.ip(), client: session.local, server_address: local, milliseconds })
}

impl Lab {
    /// The netns called `name`: `node`, `remote` or a pod's.
    pub fn place(&self, name: &str) -> Result<Netns> {
        match name {
            NODE => Ok(self.node()),
            REMOTE => Ok(self.remote()),
            pod => Ok(self.pod_netns(&self.pod(pod)?.name)),
        }
    }

    /// The address from which `place` speaks unless told otherwise.
    pub fn address(&self, place: &str) -> Result<Ipv4Addr> {
        match place {
            NODE => Ok(NODE_IP),
            REMOTE => Ok(REMOTE_IP),
            pod => self.pod(pod)?.ip(),
        }
    }

    /// The socket address that `text` means: `IP:PORT`, or a pod, `remote`, `svc-remote` or `svc-app-b`, with or without
    /// another port.
    pub fn target(&self, text: &str) -> Result<SocketAddrV4> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port.parse().with_context(|| format!("not a port: {port}"))?)),
            None => (text, None),
        };
        let mut target = match name {
            "svc-remote" => SERVICE_REMOTE,
            "svc-app-b" => SERVICE_APP_B,
            REMOTE => REMOTE_SERVER,
            pod => SocketAddrV4::new(self.address(pod)?, POD_PORT),
        };
        target.set_port(port.unwrap_or(target.port()));
        Ok(target)
    }
}
