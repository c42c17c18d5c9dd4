//! One packet of a conversation: where it meets the node, and what is expected of those who judge it.

use redirect_common::packet::{Packet, Unparsed};
use redirect_common::policy::{Hook, Ingress, Row, Seat};

use super::datagram::Datagram;
use super::flow::ICMP;
use super::oracle::Key;

/// Where a packet meets the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// It arrives on `istioin`.
    TunnelIn,
    /// It arrives on `istioout`.
    TunnelOut,
    /// It arrives on ztunnel's veth.
    Proxy,
    /// It arrives on the veth of the ztunnel beside that one.
    ProxyB,
    /// It arrives on another pod's veth.
    Pod,
    /// It arrives on the node's uplink.
    Uplink,
    /// A local socket sends it.
    Output,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::TunnelIn, Self::TunnelOut, Self::Proxy, Self::ProxyB, Self::Pod, Self::Uplink, Self::Output];

    /// What the law calls it.
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            Self::TunnelIn | Self::TunnelOut => Hook::Ingress(Ingress::Tunnel),
            Self::Proxy => Hook::Ingress(Ingress::Proxy(Seat::A)),
            Self::ProxyB => Hook::Ingress(Ingress::Proxy(Seat::B)),
            Self::Pod | Self::Uplink => Hook::Ingress(Ingress::Other),
            Self::Output => Hook::Output,
        }
    }
}

/// Which connection a packet is part of, for who keeps track of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connection {
    /// The one that its addresses, protocol and ports name.
    Own,
    /// Another: an ICMP error is part of what it is about.
    Of(Key),
    /// None: conntrack calls it invalid, so nothing is known of it and nothing can be remembered.
    Untracked,
    /// That depends on the kernel's configuration, and the expected row does not depend on it.
    Unspecified,
}

/// What netfilter's rules make of a packet, in comparison with the law.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rules {
    /// The same.
    AsLaw,
    /// This, because the kernel hands it over in another form than it had on the wire.
    Row(Row),
    /// Nothing: the kernel drops it or keeps it before the rules.
    Unseen,
    /// The same, or they drop it: iptables' port matches drop a packet whose header is cut off ("hotdrop").
    AsLawOrDropped,
}

/// One packet of a conversation.
#[derive(Clone, Debug)]
pub struct Step {
    /// Unique in its conversation.
    pub name: String,
    /// Where it meets the node.
    pub place: Place,
    /// The packet, before it is cut in fragments.
    pub datagram: Datagram,
    /// Where its payload is cut in fragments; whole if empty.
    pub cuts: Vec<usize>,
    /// What the law makes of each fragment that is judged by itself, if there are any.
    pub fragments: Vec<Row>,
    /// VLAN tags, outermost first: `EtherType` and tag.
    pub tags: Vec<(u16, u16)>,
    /// Instead of IPv4's or IPv6's.
    pub ethertype: Option<u16>,
    /// Where its frame ends, if before the packet does.
    pub frame_len: Option<usize>,
    /// The mark it bears before the law (only where a local socket sends it).
    pub mark: u32,
    /// What the law makes of it.
    pub law: Result<Row, Unparsed>,
    /// Which connection it is part of.
    pub connection: Connection,
    /// Whether it begins a connection anew although one with the same ends was there: nothing is remembered of it.
    pub anew: bool,
    /// What the iptables rules make of it.
    pub rules: Rules,
}

const ICMP_ECHO: [u8; 2] = [0, 8];

impl Step {
    /// A packet that needs no further word.
    #[must_use]
    pub fn new(name: &str, place: Place, datagram: Datagram, law: Result<Row, Unparsed>) -> Self {
        Self {
            name: name.to_owned(),
            place,
            datagram,
            cuts: Vec::new(),
            fragments: Vec::new(),
            tags: Vec::new(),
            ethertype: None,
            frame_len: None,
            mark: 0,
            law,
            connection: Connection::Own,
            anew: false,
            rules: if law.is_err() { Rules::Unseen } else { Rules::AsLaw },
        }
    }

    /// Part of the connection of `key`.
    pub fn part_of(&mut self, key: Key) -> &mut Self {
        self.connection = Connection::Of(key);
        self
    }

    /// The first of a new connection.
    pub fn anew(&mut self) -> &mut Self {
        self.anew = true;
        self
    }

    /// Part of no connection.
    pub fn untracked(&mut self) -> &mut Self {
        self.connection = Connection::Untracked;
        self
    }

    /// Of a connection that not every kernel keeps track of.
    pub fn unspecified(&mut self) -> &mut Self {
        self.connection = Connection::Unspecified;
        self
    }

    /// With another word about the rules.
    pub fn rules(&mut self, rules: Rules) -> &mut Self {
        self.rules = rules;
        self
    }

    /// With VLAN tags of these identifiers, 802.1ad but for the last.
    pub fn tagged(&mut self, ids: &[u16]) -> &mut Self {
        let last = ids.len().saturating_sub(1);
        self.tags = ids.iter().enumerate().map(|(at, &id)| (if at == last { 0x8100 } else { 0x88a8 }, id)).collect();
        self
    }

    /// With these VLAN tags: `EtherType` and tag, outermost first.
    pub fn tags(&mut self, tags: &[(u16, u16)]) -> &mut Self {
        self.tags = tags.to_vec();
        self
    }

    /// In a frame that ends after so many bytes.
    pub fn frame_len(&mut self, len: usize) -> &mut Self {
        self.frame_len = Some(len);
        self
    }

    /// With another `EtherType`.
    pub fn ethertype(&mut self, ethertype: u16) -> &mut Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// Bearing a mark already.
    pub fn marked(&mut self, mark: u32) -> &mut Self {
        self.mark = mark;
        self
    }

    /// Cut in fragments at `cuts`; judged one by one they meet these rows.
    pub fn cut(&mut self, cuts: &[usize], rows: &[Row]) -> &mut Self {
        self.cuts = cuts.to_vec();
        self.fragments = rows.to_vec();
        self
    }

    /// The packets on the wire, from the IP header on.
    #[must_use]
    pub fn packets(&self, id: u16) -> Vec<Vec<u8>> {
        self.datagram.pieces(&self.cuts).into_iter().map(|piece| self.datagram.piece(id, piece)).collect()
    }

    /// A packet of [`Self::packets`] as a frame between two MAC addresses.
    #[must_use]
    pub fn frame(&self, destination: [u8; 6], source: [u8; 6], packet: &[u8]) -> Vec<u8> {
        let native = if self.datagram.source.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut bytes = [destination, source].concat();
        for (ethertype, tag) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(self.ethertype.unwrap_or(native).to_be_bytes());
        bytes.extend(packet);
        bytes.truncate(self.frame_len.unwrap_or(bytes.len()));
        bytes
    }

    /// What its connection is remembered by; `None` where there is none to tell.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self.connection {
            Connection::Own => self.own_key(),
            Connection::Of(key) => Some(key),
            Connection::Untracked | Connection::Unspecified => None,
        }
    }

    /// The row that the iptables rules meet; `None` where they do not see it.
    #[must_use]
    pub fn rules_row(&self) -> Option<Row> {
        match self.rules {
            Rules::AsLaw | Rules::AsLawOrDropped => self.law.ok(),
            Rules::Row(row) => Some(row),
            Rules::Unseen => None,
        }
    }

    fn own_key(&self) -> Option<Key> {
        let packet = Packet::from_ip(self.datagram.bytes(1).as_slice()).ok()?;
        let (source, destination) = match packet.ports {
            Some(ports) => (ports.source, ports.destination),
            None => (self.echo_id(), self.echo_id()),
        };
        Some(Key::new(packet.protocol, (packet.source, source), (packet.destination, destination)))
    }

    fn echo_id(&self) -> u16 {
        match self.datagram.payload.as_slice() {
            [kind, _, _, _, i0, i1, ..] if self.datagram.protocol == ICMP && ICMP_ECHO.contains(kind) => {
                u16::from_be_bytes([*i0, *i1])
            }
            _ => 0,
        }
    }
}
