//! The packet corpus: named packets, grouped in conversations, each with the row of the law that it must meet.
//!
//! The same corpus goes through [`redirect_common::policy`] (here, in this module's tests), through the iptables rules in
//! a real netns (`tests/netns_corpus`) and through whatever else claims to implement the law. It is data: nothing here
//! sends a packet or decides about one. A conversation's packets are in order, and share nothing with other conversations
//! but addresses, so that a node that has seen one may go on with the next.

mod cast;
mod checksum;
mod datagram;
mod differences;
mod flow;
mod groups;
mod oracle;
mod script;
mod step;

pub use cast::*;
pub use datagram::{Datagram, Piece};
pub use differences::Difference;
pub use flow::{Flow, ICMP, flags, icmp_error};
pub use oracle::{Key, Oracle};
pub use script::{End, Script, Talk};
pub use step::{Connection, Place, Rules, Step};

/// Packets that belong together, in order.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// What it is about.
    pub name: String,
    /// Its packets.
    pub steps: Vec<Step>,
}

/// The whole corpus, for tunnels on this UDP port.
#[must_use]
pub fn conversations(tunnel_port: u16) -> Vec<Conversation> {
    let mut script = Script::new(tunnel_port);
    groups::add_all(&mut script);
    script.conversations()
}

#[cfg(test)]
mod tests;
