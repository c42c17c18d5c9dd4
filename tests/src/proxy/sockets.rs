//! Sockets with other people's addresses: `IP_TRANSPARENT`, see ip(7).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const BACKLOG: i32 = 1024;

/// A listener that accepts connections to any address that the kernel hands it.
pub(super) fn listen(port: u16) -> Result<TcpListener> {
    let socket = transparent()?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// A socket that connects with `source` as its own address, and a free port.
pub(super) fn from_source(source: IpAddr) -> Result<TcpSocket> {
    let socket = transparent()?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Ends a connection so that the client sees an error and not an orderly end.
pub(super) fn reset(stream: TcpStream) -> Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

fn transparent() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_ip_transparent_v4(true)?;
    Ok(socket)
}
