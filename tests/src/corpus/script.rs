//! How conversations are written down.

use std::net::IpAddr;

use redirect_common::packet::{TCP, UDP, Unparsed};
use redirect_common::policy::Row;

use super::Conversation;
use super::datagram::Datagram;
use super::flow::{Flow, ICMP};
use super::step::{Place, Rules, Step};

/// The client ports of the corpus begin here.
const FIRST_PORT: u16 = 20000;

/// Conversations in the making.
#[derive(Debug)]
pub struct Script {
    tunnel_port: u16,
    next_port: u16,
    conversations: Vec<Conversation>,
}

/// One conversation in the making.
#[derive(Debug)]
pub struct Talk<'a> {
    next_port: &'a mut u16,
    conversation: Conversation,
}

/// One end of a TCP connection: where its packets meet the node, the first one's row, and the others'.
#[derive(Clone, Copy, Debug)]
pub struct End(pub Place, pub Row, pub Row);

impl Script {
    /// An empty one.
    #[must_use]
    pub fn new(tunnel_port: u16) -> Self {
        Self { tunnel_port, next_port: FIRST_PORT, conversations: Vec::new() }
    }

    /// The tunnels' UDP port.
    #[must_use]
    pub fn tunnel_port(&self) -> u16 {
        self.tunnel_port
    }

    /// Adds a conversation.
    pub fn talk(&mut self, name: impl Into<String>, write: impl FnOnce(&mut Talk<'_>)) {
        let conversation = Conversation { name: name.into(), steps: Vec::new() };
        let mut talk = Talk { next_port: &mut self.next_port, conversation };
        write(&mut talk);
        self.conversations.push(talk.conversation);
    }

    /// All of them.
    #[must_use]
    pub fn conversations(self) -> Vec<Conversation> {
        self.conversations
    }
}

impl Talk<'_> {
    /// A port that no other connection of the corpus has.
    pub fn fresh_port(&mut self) -> u16 {
        *self.next_port += 1;
        *self.next_port
    }

    /// A new TCP connection.
    pub fn tcp(&mut self, client: impl Into<IpAddr>, server: impl Into<IpAddr>, port: u16) -> Flow {
        Flow { protocol: TCP, client: (client.into(), self.fresh_port()), server: (server.into(), port) }
    }

    /// A new UDP connection.
    pub fn udp(&mut self, client: impl Into<IpAddr>, server: impl Into<IpAddr>, port: u16) -> Flow {
        Flow { protocol: UDP, client: (client.into(), self.fresh_port()), server: (server.into(), port) }
    }

    /// A new series of ICMP echoes.
    pub fn echo(&mut self, client: impl Into<IpAddr>, server: impl Into<IpAddr>) -> Flow {
        let id = self.fresh_port();
        Flow { protocol: ICMP, client: (client.into(), id), server: (server.into(), id) }
    }

    /// Adds a packet that meets `row`.
    pub fn packet(&mut self, name: &str, place: Place, datagram: Datagram, row: Row) -> &mut Step {
        self.step(Step::new(name, place, datagram, Ok(row)))
    }

    /// Adds bytes that are no packet, which no rule sees either.
    pub fn unparsed(&mut self, name: &str, place: Place, datagram: Datagram, why: Unparsed) -> &mut Step {
        self.step(Step::new(name, place, datagram, Err(why)))
    }

    /// Adds a whole TCP connection, from the first packet to the last.
    pub fn exchange(&mut self, flow: &Flow, client: End, server: End) {
        let (End(here, first, later), End(there, answer, answers)) = (client, server);
        self.packet("SYN", here, flow.syn(), first);
        self.packet("SYN,ACK", there, flow.syn_ack(), answer);
        self.packet("ACK", here, flow.ack(), later);
        self.packet("data", here, flow.data(), later);
        self.packet("data of the server", there, flow.reply(), answers);
        self.packet("FIN", here, flow.fin(), later);
        self.packet("FIN of the server", there, flow.fin_back(), answers);
    }

    /// Adds a question and its answer, twice.
    pub fn ask(&mut self, flow: &Flow, client: End, server: End) {
        let (End(here, first, later), End(there, answer, answers)) = (client, server);
        self.packet("request", here, flow.request(), first);
        self.packet("response", there, flow.response(), answer);
        self.packet("second request", here, flow.request(), later);
        self.packet("second response", there, flow.response(), answers);
    }

    /// Says of all packets so far that the iptables rules do not see them.
    pub fn unseen_by_rules(&mut self) {
        for step in &mut self.conversation.steps {
            step.rules(Rules::Unseen);
        }
    }

    fn step(&mut self, step: Step) -> &mut Step {
        let steps = &mut self.conversation.steps;
        steps.push(step);
        let last = steps.len() - 1;
        &mut steps[last]
    }
}
