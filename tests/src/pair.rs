//! Connections of which a test holds both ends, so that it decides who speaks next, and when.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::client::TIMEOUT;
use crate::harness::eventually;
use crate::netns::Netns;

/// Connections that may wait to be taken.
const BACKLOG: i32 = 16;
/// How long bytes may be on their way: the guest may not run for seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// One of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// That which connects.
    Client,
    /// That which listens.
    Server,
}

/// A server that only takes connections; it says nothing.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddrV4,
}

impl Listener {
    /// Listens in `netns` at `address`, which must be one of its own.
    pub fn open(netns: &Netns, address: SocketAddrV4) -> Result<Self> {
        let socket = netns.run(|| listen(address))?.with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self { socket, address })
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Pair {
    client: TcpStream,
    server: TcpStream,
    passed: u32,
}

impl Pair {
    /// Connects from `netns`, with `source` as its address if one is given.
    pub fn open(netns: &Netns, source: Option<Ipv4Addr>, to: &Listener) -> Result<Self> {
        let client = netns.run(|| connect(source, to.address))?;
        let client = client.with_context(|| format!("no connection to {}", to.address))?;
        let (server, _) = to.socket.accept().with_context(|| format!("{} gets no connection", to.address))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(TIMEOUT))?;
        }
        let mut pair = Self { client, server, passed: 0 };
        pair.be_patient(PATIENCE)?;
        pair.talk().context("at the beginning")?;
        Ok(pair)
    }

    /// Waits this long for bytes from now on.
    pub fn be_patient(&self, patience: Duration) -> Result<()> {
        [&self.client, &self.server].iter().try_for_each(|end| Ok(end.set_read_timeout(Some(patience))?))
    }

    /// Whether somebody between the ends has taken the connection for one of its own: a proxy that speaks as the client does it
    /// from another port.
    pub fn is_proxied(&self) -> Result<bool> {
        let (client, seen) = (self.client.local_addr()?, self.server.peer_addr()?);
        ensure!(client.ip() == seen.ip(), "{client} was seen as {seen}");
        Ok(client.port() != seen.port())
    }

    /// One end sends bytes that were not sent before, and they arrive at the other.
    pub fn pass(&mut self, speaker: End) -> Result<()> {
        let Self { client, server, passed } = self;
        *passed += 1;
        let text = format!("message {passed} by the {speaker:?}");
        let (from, to) = match speaker {
            End::Client => (client, server),
            End::Server => (server, client),
        };
        from.write_all(text.as_bytes()).with_context(|| format!("{text} cannot be sent"))?;
        let mut got = vec![0; text.len()];
        to.read_exact(&mut got).with_context(|| format!("{text} does not arrive"))?;
        ensure!(got == text.as_bytes(), "{text} arrives as {:?}", String::from_utf8_lossy(&got));
        Ok(())
    }

    /// Waits until both ends have been told that everything has arrived: after that, none of them has a reason to send.
    pub fn be_quiet(&self) -> Result<()> {
        eventually(PATIENCE, || {
            for (end, stream) in [("client", &self.client), ("server", &self.server)] {
                let unheard = unacknowledged(stream)?;
                ensure!(unheard == 0, "the {end} has not been told of {unheard} bytes that they have arrived");
            }
            Ok(())
        })
    }

    /// Both ends speak.
    pub fn talk(&mut self) -> Result<()> {
        self.pass(End::Client)?;
        self.pass(End::Server)
    }

    /// Lets one end speak first and then both; no end has met an error.
    pub fn goes_on(&mut self, first: End) -> Result<()> {
        self.pass(first)?;
        self.talk()?;
        self.talk()?;
        for (end, error) in [("client", self.client.take_error()?), ("server", self.server.take_error()?)] {
            ensure!(error.is_none(), "the {end} has met an error: {error:?}");
        }
        Ok(())
    }

    /// What each end has to say of the connection: the error that it has met, or that there is none.
    pub fn state(&self) -> Result<String> {
        let said =
            |error: Option<std::io::Error>| error.map_or_else(|| "no error".to_owned(), |error| error.to_string());
        Ok(format!("client: {}; server: {}", said(self.client.take_error()?), said(self.server.take_error()?)))
    }
}

/// Room for this many connections in the process and in those that it starts.
pub fn allow_connections(count: u64) -> Result<()> {
    let (limit, files) = (getrlimit(Resource::Nofile), 2 * count + 100);
    ensure!(limit.maximum.is_none_or(|maximum| maximum >= files), "the limit of open files is {:?}", limit.maximum);
    let current = limit.current.map(|current| current.max(files));
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).context("cannot raise the limit of open files")
}

/// Bytes that were sent and are not acknowledged (tcp(7), `SIOCOUTQ`).
fn unacknowledged(stream: &TcpStream) -> Result<i32> {
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: the kernel writes one `int`, and the descriptor is open for as long as the stream is borrowed.
    let outcome = unsafe { nix::libc::ioctl(stream.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(outcome).context("cannot ask what is not acknowledged")?;
    Ok(bytes)
}

fn listen(address: SocketAddrV4) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Counts for accept too.
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.bind(&SocketAddr::V4(address).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn connect(source: Option<Ipv4Addr>, to: SocketAddrV4) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
    }
    socket.connect_timeout(&SocketAddr::V4(to).into(), TIMEOUT)?;
    Ok(socket.into())
}
