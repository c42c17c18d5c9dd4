//! The table of what a node that redirects must show: every kind of connection, and what becomes of it. The cases are
//! data; `run` makes the connections, `render` prints them.

mod render;
mod run;

use std::net::Ipv4Addr;

pub use render::render;
pub use run::{Row, check, run, run_case};

use crate::layout::{NODE, NODE_IP, NODE_SECOND_IP, REMOTE};

/// One kind of connection.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What a reader calls it.
    pub name: &'static str,
    /// Where the client is.
    pub from: &'static str,
    /// The client's address, if it is not the first of its place.
    pub source: Option<Ipv4Addr>,
    /// What it connects to, see `Lab::target`.
    pub to: &'static str,
    /// The server that must answer. It must always see the client's own address.
    pub server: &'static str,
    /// What the proxy must see of it.
    pub proxy: Expect,
}

/// What the proxy must see of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Nothing.
    Nothing,
    /// One connection on the outbound listener, to the address that the client chose.
    Outbound,
    /// One connection on this inbound listener, to this target: a Service's address is translated before.
    Inbound(u16, &'static str),
}

const fn case(name: &'static str, from: &'static str, to: &'static str, server: &'static str, proxy: Expect) -> Case {
    Case { name, from, source: None, to, server, proxy }
}

/// All cases, with the lab's default pods: `app-a` and `app-b` are meshed, `plain` and `plain-b` are not.
pub const CASES: &[Case] = &[
    case("meshed to remote", "app-a", REMOTE, REMOTE, Expect::Outbound),
    case("meshed to ClusterIP of remote", "app-a", "svc-remote", REMOTE, Expect::Outbound),
    case("meshed to ClusterIP of meshed", "app-a", "svc-app-b", "app-b", Expect::Outbound),
    case("meshed to meshed", "app-a", "app-b", "app-b", Expect::Outbound),
    case("meshed to unmeshed", "app-a", "plain", "plain", Expect::Outbound),
    case("remote to meshed, plaintext", REMOTE, "app-a", "app-a", Expect::Inbound(15006, "app-a")),
    case("remote to meshed, HBONE", REMOTE, "app-a:15008", "app-a", Expect::Inbound(15008, "app-a:15008")),
    case("remote to unmeshed", REMOTE, "plain", "plain", Expect::Nothing),
    case("unmeshed to remote", "plain", REMOTE, REMOTE, Expect::Nothing),
    case("unmeshed to ClusterIP of remote", "plain", "svc-remote", REMOTE, Expect::Nothing),
    case("unmeshed to ClusterIP of meshed", "plain", "svc-app-b", "app-b", Expect::Inbound(15006, "app-b")),
    case("unmeshed to meshed", "plain", "app-a", "app-a", Expect::Inbound(15006, "app-a")),
    case("unmeshed to unmeshed", "plain", "plain-b", "plain-b", Expect::Nothing),
    case("kubelet probe to meshed", NODE, "app-a", "app-a", Expect::Nothing),
    Case {
        source: Some(NODE_SECOND_IP),
        ..case("kubelet probe, second node address", NODE, "app-a", "app-a", Expect::Nothing)
    },
    // Given, as the node would otherwise take its address on the pod's veth.
    Case { source: Some(NODE_IP), ..case("kubelet probe to unmeshed", NODE, "plain", "plain", Expect::Nothing) },
    case("ztunnel's own to remote", "ztunnel", REMOTE, REMOTE, Expect::Nothing),
    case("ztunnel's own to meshed", "ztunnel", "app-a", "app-a", Expect::Nothing),
];
