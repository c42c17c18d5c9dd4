//! A connection of two ends, and the packets that go forth (from the client) and back.

use std::net::IpAddr;

use redirect_common::packet::{TCP, UDP};

use super::checksum;
use super::datagram::{Datagram, u16_from};
use super::oracle::Key;

/// TCP's flags (RFC 9293 section 3.1), those that the corpus sets.
pub mod flags {
    /// No more data from sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// Congestion was experienced, or the sender knows ECN.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

use flags::{ACK, FIN, PSH, RST, SYN};

/// Two ends that speak one protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// IP protocol.
    pub protocol: u8,
    /// Who begins. An ICMP echo has its identifier as the port of both ends.
    pub client: (IpAddr, u16),
    /// Who answers.
    pub server: (IpAddr, u16),
}

const CLIENT_SEQUENCE: u32 = 1000;
const SERVER_SEQUENCE: u32 = 5000;
const TCP_CHECKSUM_AT: usize = 16;
const UDP_CHECKSUM_AT: usize = 6;
const ICMP_CHECKSUM_AT: usize = 2;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const DATA: &[u8] = b"original address";

/// `ICMPv4`'s protocol number.
pub const ICMP: u8 = 1;

impl Flow {
    /// What the connection is remembered by.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::new(self.protocol, self.client, self.server)
    }

    /// The same connection with its ends exchanged: what went forth goes back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self { client: self.server, server: self.client, ..*self }
    }

    /// The same addresses, another port of the client.
    #[must_use]
    pub fn client_port(&self, port: u16) -> Self {
        Self { client: (self.client.0, port), ..*self }
    }

    /// The same addresses, another port of the server.
    #[must_use]
    pub fn server_port(&self, port: u16) -> Self {
        Self { server: (self.server.0, port), ..*self }
    }

    /// The same ends in another protocol.
    #[must_use]
    pub fn over(&self, protocol: u8) -> Self {
        Self { protocol, ..*self }
    }

    /// A segment from the client.
    #[must_use]
    pub fn forth(&self, flags: u8, data: &[u8]) -> Datagram {
        self.segment(CLIENT_SEQUENCE, SERVER_SEQUENCE, flags, data)
    }

    /// A segment from the server.
    #[must_use]
    pub fn back(&self, flags: u8, data: &[u8]) -> Datagram {
        self.reversed().segment(SERVER_SEQUENCE, CLIENT_SEQUENCE, flags, data)
    }

    /// The client's first segment.
    #[must_use]
    pub fn syn(&self) -> Datagram {
        self.forth(SYN, &[])
    }

    /// The server's answer to it.
    #[must_use]
    pub fn syn_ack(&self) -> Datagram {
        self.back(SYN | ACK, &[])
    }

    /// A bare acknowledgement from the client.
    #[must_use]
    pub fn ack(&self) -> Datagram {
        self.forth(ACK, &[])
    }

    /// Data from the client.
    #[must_use]
    pub fn data(&self) -> Datagram {
        self.forth(PSH | ACK, DATA)
    }

    /// Data from the server.
    #[must_use]
    pub fn reply(&self) -> Datagram {
        self.back(PSH | ACK, DATA)
    }

    /// The client closes.
    #[must_use]
    pub fn fin(&self) -> Datagram {
        self.forth(FIN | ACK, &[])
    }

    /// The server closes.
    #[must_use]
    pub fn fin_back(&self) -> Datagram {
        self.back(FIN | ACK, &[])
    }

    /// The client gives up.
    #[must_use]
    pub fn rst(&self) -> Datagram {
        self.forth(RST | ACK, &[])
    }

    /// The server refuses.
    #[must_use]
    pub fn rst_back(&self) -> Datagram {
        self.back(RST | ACK, &[])
    }

    /// A UDP datagram, or an echo request, from the client.
    #[must_use]
    pub fn request(&self) -> Datagram {
        if self.protocol == ICMP { self.echo(ECHO_REQUEST) } else { self.udp(DATA) }
    }

    /// The answer to it.
    #[must_use]
    pub fn response(&self) -> Datagram {
        let back = self.reversed();
        if self.protocol == ICMP { back.echo(ECHO_REPLY) } else { back.udp(DATA) }
    }

    /// A UDP datagram with `data`.
    #[must_use]
    pub fn udp(&self, data: &[u8]) -> Datagram {
        let mut bytes = self.ports();
        bytes.extend(u16_from(8 + data.len()).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(data);
        checksum::write_upper(self.client.0, self.server.0, UDP, &mut bytes, UDP_CHECKSUM_AT);
        Datagram::new(self.client.0, self.server.0, UDP, bytes)
    }

    fn echo(&self, kind: u8) -> Datagram {
        let [i0, i1] = self.client.1.to_be_bytes();
        let mut bytes = vec![kind, 0, 0, 0, i0, i1, 0, 1];
        bytes.extend(DATA);
        checksum::write_plain(&mut bytes, ICMP_CHECKSUM_AT);
        Datagram::new(self.client.0, self.server.0, ICMP, bytes)
    }

    fn ports(&self) -> Vec<u8> {
        [self.client.1.to_be_bytes(), self.server.1.to_be_bytes()].concat()
    }

    fn segment(&self, own: u32, theirs: u32, flags: u8, data: &[u8]) -> Datagram {
        let sequence = own + u32::from(flags & SYN == 0);
        let acknowledged = if flags & ACK == 0 { 0 } else { theirs + 1 };
        let mut bytes = self.ports();
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(acknowledged.to_be_bytes());
        bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(data);
        checksum::write_upper(self.client.0, self.server.0, TCP, &mut bytes, TCP_CHECKSUM_AT);
        Datagram::new(self.client.0, self.server.0, TCP, bytes)
    }
}

/// An ICMP error of `kind` and `code` about a packet, to who sent it.
#[must_use]
pub fn icmp_error(from: impl Into<IpAddr>, kind: u8, code: u8, about: &Datagram) -> Datagram {
    let mut bytes = vec![kind, code, 0, 0, 0, 0, 5, 0xdc];
    bytes.extend(&about.bytes(1)[..28]);
    checksum::write_plain(&mut bytes, ICMP_CHECKSUM_AT);
    Datagram::new(from, about.source, ICMP, bytes)
}
