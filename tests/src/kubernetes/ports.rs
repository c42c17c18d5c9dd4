//! Ports for servers that are stopped and started again. They are below those that the kernel gives to connections, so that no
//! connection takes one meanwhile.

use std::net::TcpListener;

use anyhow::{Context, Result};

const RANGE: std::ops::Range<u16> = 20_000..30_000;

/// Who listens where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) api_server: u16,
    pub(super) etcd: u16,
    /// For other members of etcd, of which there are none.
    pub(super) etcd_peers: u16,
}

impl Ports {
    /// Ports that are free on all addresses of this netns.
    pub(super) fn free() -> Result<Self> {
        // Tests that run at a time begin at different places.
        let first = RANGE.start + u16::try_from(std::process::id() % u32::from(RANGE.end - RANGE.start))?;
        let mut free = (first..RANGE.end).chain(RANGE.start..first).filter(|port| is_free(*port));
        let mut next = || free.next().with_context(|| format!("no free port in {RANGE:?}"));
        Ok(Self { api_server: next()?, etcd: next()?, etcd_peers: next()? })
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}
