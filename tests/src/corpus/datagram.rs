//! One IP packet as a value, and its bytes. The bytes are what a sane sender would send, checksums included, unless an
//! [`Datagram::edit`] breaks them on purpose.

use std::net::IpAddr;

use super::checksum;

/// An IPv4 or IPv6 packet; both addresses are of one family.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol of `payload`.
    pub protocol: u8,
    /// All behind the IP header, with its checksum filled in.
    pub payload: Vec<u8>,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: each one's kind and bytes; their first byte (next header) is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Don't fragment (IPv4).
    pub dont_fragment: bool,
    /// Time to live.
    pub ttl: u8,
    /// Bytes of the frame behind the packet's end.
    pub trailer: Vec<u8>,
    /// Applied to the finished bytes.
    pub edit: Option<fn(&mut Vec<u8>)>,
}

/// A part of a datagram's payload, as a fragment carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where it begins, a multiple of eight.
    pub offset: usize,
    /// How long it is.
    pub len: usize,
    /// Whether others follow.
    pub more: bool,
}

const TTL: u8 = 64;
const FRAGMENT: u8 = 44;

impl Datagram {
    /// A packet without options.
    pub fn new(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            protocol,
            payload,
            options: Vec::new(),
            extensions: Vec::new(),
            dont_fragment: false,
            ttl: TTL,
            trailer: Vec::new(),
            edit: None,
        }
    }

    /// With IPv4 options.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With an IPv6 extension header behind those that it has.
    #[must_use]
    pub fn extension(mut self, kind: u8, bytes: &[u8]) -> Self {
        self.extensions.push((kind, bytes.to_vec()));
        self
    }

    /// With its finished bytes changed.
    #[must_use]
    pub fn edit(mut self, edit: fn(&mut Vec<u8>)) -> Self {
        self.edit = Some(edit);
        self
    }

    /// The payload cut at each of `cuts` (multiples of eight).
    #[must_use]
    pub fn pieces(&self, cuts: &[usize]) -> Vec<Piece> {
        let ends = cuts.iter().copied().chain([self.payload.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        starts
            .zip(ends)
            .map(|(offset, end)| Piece { offset, len: end - offset, more: end != self.payload.len() })
            .collect()
    }

    /// The bytes from the IP header on; an IPv4 packet gets `id` as its identification.
    ///
    /// # Panics
    ///
    /// If the addresses are not of one family.
    #[must_use]
    pub fn bytes(&self, id: u16) -> Vec<u8> {
        self.piece(id, Piece { offset: 0, len: self.payload.len(), more: false })
    }

    /// The bytes of the fragment that carries `piece`.
    ///
    /// # Panics
    ///
    /// If the addresses are not of one family, or the piece is not within the payload.
    #[must_use]
    pub fn piece(&self, id: u16, piece: Piece) -> Vec<u8> {
        let payload = &self.payload[piece.offset..piece.offset + piece.len];
        let mut bytes = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source.octets(), destination.octets(), id, piece, payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source.octets(), destination.octets(), id, piece, payload)
            }
            (source, destination) => panic!("the corpus sends from {source} to {destination}"),
        };
        bytes.extend(&self.trailer);
        if let Some(edit) = self.edit {
            edit(&mut bytes);
        }
        bytes
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], id: u16, piece: Piece, payload: &[u8]) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(piece.more) << 13;
        let mut bytes = vec![0x40 | u8_from(words), 0];
        bytes.extend(u16_from(words * 4 + payload.len()).to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend((flags | u16_from(piece.offset / 8)).to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(&self.options);
        checksum::write_ipv4(&mut bytes);
        bytes.extend(payload);
        bytes
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16], id: u16, piece: Piece, payload: &[u8]) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if piece.more || piece.offset > 0 {
            let offset = u16_from(piece.offset) | u16::from(piece.more);
            let [o0, o1] = offset.to_be_bytes();
            let [i0, i1] = id.to_be_bytes();
            extensions.push((FRAGMENT, vec![0, 0, o0, o1, 0, 0, i0, i1]));
        }
        let mut kinds = extensions.iter().map(|&(kind, _)| kind).chain([self.protocol]);
        let first = kinds.next().unwrap_or(self.protocol);
        let mut behind = Vec::new();
        for ((_, header), next) in extensions.iter().zip(kinds) {
            behind.push(next);
            behind.extend(&header[1..]);
        }
        behind.extend(payload);
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16_from(behind.len()).to_be_bytes());
        bytes.extend([first, self.ttl]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(behind);
        bytes
    }
}

/// A length that the corpus keeps in range.
pub(super) fn u16_from(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

fn u8_from(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
