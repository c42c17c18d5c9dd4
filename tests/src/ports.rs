//! Source ports of clients: each for one connection, so that a port tells whose a segment is.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};

/// Of those that pods' kernels choose unless they are told otherwise, and none that any kernel of the lab chooses: neither clients' (see
/// [`CHOSEN`]), nor ztunnel's, which the agent gives other ones. So a segment from one of them is the client's own, and not its connection
/// onward from the proxy.
pub const CLIENT_PORTS: Range<u16> = 33_000..60_000;
/// What the lab's kernels choose from for whoever does not say (`ip_local_port_range`, both ends included).
pub(crate) const CHOSEN: &str = "61000 65535";

/// The next of each address. No port is used twice until [`renew`]: a connection of the same ends may not be forgotten everywhere.
static NEXT: Mutex<BTreeMap<Ipv4Addr, u16>> = Mutex::new(BTreeMap::new());

/// This address with a port that it has not had.
pub(crate) fn fresh(source: Ipv4Addr) -> Result<SocketAddrV4> {
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let port = next.entry(source).or_insert(CLIENT_PORTS.start);
    ensure!(CLIENT_PORTS.contains(port), "{source} has used all its ports");
    *port += 1;
    Ok(SocketAddrV4::new(source, *port - 1))
}

/// To be called when no connection is open: addresses that have used most of their ports begin anew. The first of them were used longest ago.
pub(crate) fn renew() {
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let half = CLIENT_PORTS.start + (CLIENT_PORTS.end - CLIENT_PORTS.start) / 2;
    next.values_mut().filter(|port| **port > half).for_each(|port| *port = CLIENT_PORTS.start);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_twice_until_there_are_none() -> Result<()> {
        let (one, other) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(fresh(one)?.port(), CLIENT_PORTS.start);
        assert_eq!(fresh(one)?.port(), CLIENT_PORTS.start + 1);
        assert_eq!(fresh(other)?.port(), CLIENT_PORTS.start);
        for _ in 2..CLIENT_PORTS.len() {
            fresh(one)?;
        }
        assert!(fresh(one).is_err() && fresh(other).is_ok());
        renew();
        assert_eq!((fresh(one)?.port(), fresh(other)?.port()), (CLIENT_PORTS.start, CLIENT_PORTS.start + 2));
        Ok(())
    }
}
