//! Why a connection did not come about, or broke.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddrV4;
use std::time::Instant;

/// What the client was told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Nobody listens.
    Refused,
    /// It came about, and somebody broke it.
    Reset,
    /// Nobody answers.
    Timeout,
    /// It came about, and ended in order before its time.
    ClosedEarly,
    /// A router says that there is no way.
    Unreachable,
    /// All else: an answer that is wrong, for one.
    Other,
}

impl Class {
    /// What the error, or what has caused it, means.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        let cause = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
        match cause.map(io::Error::kind) {
            Some(ErrorKind::ConnectionRefused) => Self::Refused,
            Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe) => Self::Reset,
            // A socket whose time for an answer is over says that it would block (socket(7), SO_RCVTIMEO).
            Some(ErrorKind::TimedOut | ErrorKind::WouldBlock) => Self::Timeout,
            Some(ErrorKind::UnexpectedEof) => Self::ClosedEarly,
            Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// As a log names it.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timed out",
            Self::ClosedEarly => "closed early",
            Self::Unreachable => "unreachable",
            Self::Other => "otherwise",
        })
    }
}

/// A connection that did not come about, or broke.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Connections like it.
    pub stream: &'static str,
    /// Its client's end.
    pub client: SocketAddrV4,
    /// Its other end.
    pub to: SocketAddrV4,
    /// What the client was told.
    pub class: Class,
    /// The same in words.
    pub error: String,
    /// When the client began: to connect, or to wait for the answer that did not come.
    pub begun: Instant,
    /// When it knew.
    pub ended: Instant,
    /// The pod whose proxy it went through, if it had come so far.
    pub proxy: Option<String>,
}

/// A connection that came about and went another way than through the right listener of the proxy.
#[derive(Clone, Debug)]
pub struct Astray {
    /// Connections like it.
    pub stream: &'static str,
    /// Its client's end.
    pub client: SocketAddrV4,
    /// Its other end.
    pub to: SocketAddrV4,
    /// Which way it went.
    pub wrong: String,
    /// When the client began to connect.
    pub begun: Instant,
    /// When it had its answer.
    pub ended: Instant,
}

/// As an operator would say it.
impl fmt::Display for Astray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, client, to, wrong, .. } = self;
        write!(f, "{stream} ({client} to {to}): {wrong}")
    }
}

/// As an operator would say it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, client, to, class, error, begun, ended, proxy } = self;
        let proxy = proxy.as_ref().map(|proxy| format!(" by {proxy}")).unwrap_or_default();
        write!(f, "{stream} ({client} to {to}{proxy}): {class} after {:.1?}: {error}", ended.duration_since(*begun))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_cause_is_found_behind_what_was_said_of_it() {
        let class =
            |kind: ErrorKind| Class::of(&Err::<(), _>(io::Error::from(kind)).context("no connection").unwrap_err());
        assert_eq!(class(ErrorKind::ConnectionRefused), Class::Refused);
        assert_eq!(class(ErrorKind::ConnectionReset), Class::Reset);
        assert_eq!(class(ErrorKind::BrokenPipe), Class::Reset);
        assert_eq!(class(ErrorKind::WouldBlock), Class::Timeout);
        assert_eq!(class(ErrorKind::UnexpectedEof), Class::ClosedEarly);
        assert_eq!(class(ErrorKind::HostUnreachable), Class::Unreachable);
        assert_eq!(Class::of(&anyhow::anyhow!("reached the wrong server")), Class::Other);
    }
}
