//! `redirect-lab control-plane` beside a guest that is a node, and what the pods of that node run.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::{fs, thread};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use tokio::net::TcpListener;

use crate::client::Session;
use crate::kubernetes::accounts::node_files;
use crate::kubernetes::control_plane::{ControlPlane, Options};
use crate::layout::{AROUND_GUEST, REMOTE};
use crate::serve::{ready, serve_on};

/// Runs the servers, and an echo server that pods find outside of their node, until standard input ends: its other end is with
/// whoever started this, and is closed however that one ends.
pub(super) fn control_plane(files: &Path) -> Result<()> {
    let options = Options { seen_at: Some(AROUND_GUEST), controllers: true, ..Options::default() };
    let control_plane = ControlPlane::start(options)?;
    control_plane.write_node_files(files, AROUND_GUEST)?;
    let remote = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    let port = remote.local_addr()?.port();
    fs::write(files.join(node_files::REMOTE), SocketAddrV4::new(AROUND_GUEST, port).to_string())?;
    thread::spawn(move || super::block_on(serve_remote(remote)));
    ready()?;
    // Whatever comes is of no interest.
    io::copy(&mut io::stdin().lock(), &mut io::sink()).context("read standard input")?;
    Ok(())
}

async fn serve_remote(listener: std::net::TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    serve_on(REMOTE.to_owned(), TcpListener::from_std(listener)?).await
}

/// The process that holds a pod's namespaces. It hears no signal but those that end it.
pub(super) fn pause() -> Result<()> {
    let mut ending = SigSet::empty();
    ending.add(Signal::SIGTERM);
    ending.add(Signal::SIGINT);
    ending.thread_block().context("hold signals back")?;
    ending.wait().context("wait for a signal")?;
    Ok(())
}

/// The first thing that this process does is a connection.
pub(super) fn dial(to: SocketAddrV4) -> Result<()> {
    let mut session = Session::open_here(to)?;
    session.echo()?;
    println!("{}", serde_json::to_string(session.greeting())?);
    Ok(())
}
