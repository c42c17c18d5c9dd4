//! A blocking netlink client with two properties the reconciler lives on: a dump that ended early is an error, never a
//! short list, and no call waits longer than its deadline.
//!
//! Messages are built and parsed by `netlink-packet-route` and `netlink-packet-sock-diag`; `rtnetlink`'s own client drops the header flags that say a dump
//! was interrupted, which is why the request loop is ours (see docs/decisions.md).

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::fault::{self, Way};

/// The kernel answers from memory; ten seconds means that something is badly wrong.
const DEADLINE_SECONDS: i64 = 10;
/// `NLM_F_DUMP_INTR` (`include/uapi/linux/netlink.h`): the dump was inconsistent due to a concurrent change.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often an interrupted dump is taken again before it is reported.
const DUMP_TRIES: usize = 8;
/// Larger than any datagram of a dump (the kernel fills at most 32 KiB) and than any answer to a single request.
const BUFFER: usize = 1 << 17;

/// Why a netlink exchange failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The kernel refused the request.
    #[error("the kernel answered {0}")]
    Kernel(Errno),
    /// The socket failed, or the deadline passed.
    #[error("netlink socket: {0}")]
    Io(#[from] io::Error),
    /// The tables kept changing under the dump.
    #[error("netlink dump was interrupted by concurrent changes {DUMP_TRIES} times")]
    Interrupted,
    /// An answer that is not netlink.
    #[error("netlink answer cannot be read: {0}")]
    Malformed(String),
}

impl NetlinkError {
    /// Whether the kernel refused with `errno`.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Kernel(got) if *got == errno)
    }
}

/// What a socket of one protocol sends and receives.
pub(crate) trait Message: NetlinkSerializable + NetlinkDeserializable + Clone + fmt::Debug {
    /// What it asks for, in the name of a write.
    fn what(&self) -> String;
}

impl Message for RouteNetlinkMessage {
    fn what(&self) -> String {
        name(self.message_type())
    }
}

/// A socket bound to the network namespace in which it was opened, whatever namespace its user is in later.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket for rtnetlink in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Self::open_for(NETLINK_ROUTE)
    }

    /// The same for another of `netlink_sys::protocols`, and messages of that one.
    pub(crate) fn open_for(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_rx_buf_sz(1u32 << 20)?;
        // SAFETY: the descriptor is the socket's own and the socket outlives this statement.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(DEADLINE_SECONDS)).map_err(io::Error::from)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Every object of the kind that `message` asks for. Entries this build cannot parse are left out: whatever the agent
    /// makes parses, so they are others'.
    pub(crate) fn dump<M: Message>(&mut self, message: &M) -> Result<Vec<M>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let (answers, interrupted) = self.exchange(message.clone(), NLM_F_DUMP)?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    /// Asks for one object.
    pub(crate) fn ask<M: Message>(&mut self, message: M) -> Result<Vec<M>, NetlinkError> {
        self.exchange(message, NLM_F_ACK).map(|(answers, _)| answers)
    }

    /// Asks for a change, and waits for the kernel's acknowledgement. `flags` are added to `NLM_F_REQUEST | NLM_F_ACK`.
    pub(crate) fn request<M: Message>(&mut self, message: M, flags: u16) -> Result<Vec<M>, NetlinkError> {
        let what = message.what();
        let exchange = || self.exchange(message, flags | NLM_F_ACK).map(|(answers, _)| answers);
        fault::write(Way::Netlink, || what, exchange)
    }

    fn exchange<M: Message>(&mut self, message: M, flags: u16) -> Result<(Vec<M>, bool), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(message, flags)?;
        let mut answers = Answers::new();
        let mut buffer = Vec::with_capacity(BUFFER);
        while !answers.complete {
            buffer.clear();
            // MSG_TRUNC makes the kernel report the datagram's true length.
            let length = self.socket.recv(&mut buffer, nix::libc::MSG_TRUNC)?;
            if length > buffer.len() {
                return Err(NetlinkError::Malformed(format!("datagram of {length} bytes")));
            }
            answers.read(&buffer, self.sequence)?;
        }
        Ok((answers.objects, answers.interrupted))
    }

    fn send<M: Message>(&self, message: M, flags: u16) -> Result<(), NetlinkError> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }
}

/// `RTM_NEWLINK` is `new link`: types come in fours, one for each thing to do with an object (`enum rtnl_kinds`,
/// `include/net/rtnetlink.h`).
fn name(kind: u16) -> String {
    const VERBS: [&str; 4] = ["new", "delete", "get", "set"];
    const OBJECTS: [&str; 8] = ["link", "address", "route", "neighbour", "rule", "qdisc", "class", "filter"];
    let verb = VERBS[usize::from(kind % 4)];
    match OBJECTS.get(usize::from(kind.saturating_sub(FIRST_OBJECT) / 4)) {
        Some(object) => format!("{verb} {object}"),
        None => format!("{verb} (type {kind})"),
    }
}

/// What has been received for one request so far.
struct Answers<M> {
    objects: Vec<M>,
    interrupted: bool,
    complete: bool,
}

impl<M: Message> Answers<M> {
    const fn new() -> Self {
        Self { objects: Vec::new(), interrupted: false, complete: false }
    }

    /// Takes in one datagram, which may hold several messages.
    fn read(&mut self, mut datagram: &[u8], sequence: u32) -> Result<(), NetlinkError> {
        while let Some((header, message, rest)) = split(datagram)? {
            datagram = rest;
            // An answer to an earlier request that had run into its deadline.
            if header.sequence != sequence {
                continue;
            }
            self.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
            match NetlinkMessage::<M>::deserialize(message).map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(object)) => self.objects.push(object),
                Ok(NetlinkPayload::Done(done)) => self.finish(done.code)?,
                Ok(NetlinkPayload::Error(error)) => self.finish(error.raw_code())?,
                Ok(NetlinkPayload::Overrun(_)) => return Err(NetlinkError::Malformed("overrun".into())),
                Ok(_) => {}
                Err(error) if header.kind >= FIRST_OBJECT => {
                    tracing::debug!(kind = header.kind, %error, "left out a netlink object that cannot be parsed");
                }
                Err(error) => return Err(NetlinkError::Malformed(error.to_string())),
            }
        }
        Ok(())
    }

    /// An acknowledgement, an error, or a dump's end: `code` is 0 or a negated errno.
    fn finish(&mut self, code: i32) -> Result<(), NetlinkError> {
        self.complete = true;
        if code == 0 { Ok(()) } else { Err(NetlinkError::Kernel(Errno::from_raw(code.saturating_neg()))) }
    }
}

/// `NLMSG_MIN_TYPE`: types below are netlink's own control messages.
const FIRST_OBJECT: u16 = 0x10;

/// What is read of `struct nlmsghdr` before the message is parsed.
struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// A message with its header, and what follows it.
type Split<'a> = (Header, &'a [u8], &'a [u8]);

/// The first message of `datagram`, and what follows it; `None` at the end.
fn split(datagram: &[u8]) -> Result<Option<Split<'_>>, NetlinkError> {
    const LENGTH: usize = 16;
    let Some(header) = datagram.first_chunk::<LENGTH>() else {
        return if datagram.is_empty() { Ok(None) } else { Err(NetlinkError::Malformed("trailing bytes".into())) };
    };
    let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
    let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
    if length < LENGTH || length > datagram.len() {
        return Err(NetlinkError::Malformed(format!("message length {length} in a datagram of {}", datagram.len())));
    }
    let next = length.next_multiple_of(4).min(datagram.len());
    let header = Header {
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
    };
    Ok(Some((header, &datagram[..length], &datagram[next..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_dump_is_complete_only_with_done() {
        let mut answers = Answers::<RouteNetlinkMessage>::new();
        answers.read(&message(16, 2, 7, &[0; 16]), 7).unwrap();
        assert!(!answers.complete);
        answers.read(&message(3, 2, 7, &0i32.to_ne_bytes()), 7).unwrap();
        assert!(answers.complete && !answers.interrupted);
        assert_eq!(answers.objects.len(), 1);
    }

    #[test]
    fn an_interrupted_dump_is_seen() {
        let mut answers = Answers::<RouteNetlinkMessage>::new();
        answers.read(&message(3, 2 | NLM_F_DUMP_INTR, 7, &0i32.to_ne_bytes()), 7).unwrap();
        assert!(answers.interrupted);
    }

    #[test]
    fn late_answers_and_errors() {
        let mut answers = Answers::<RouteNetlinkMessage>::new();
        answers.read(&message(3, 2, 6, &0i32.to_ne_bytes()), 7).unwrap();
        assert!(!answers.complete);
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        assert!(answers.read(&message(2, 0, 7, &payload), 7).unwrap_err().is(Errno::EEXIST));
    }

    #[test]
    fn types_have_names() {
        assert_eq!(
            [16, 25, 19, 28, 45].map(name),
            ["new link", "delete route", "set link", "new neighbour", "delete filter"]
        );
        assert_eq!(name(80), "new (type 80)");
    }

    #[test]
    fn lengths_are_checked() {
        for bytes in [&[1u8; 15][..], &[0u8; 16][..], &[0xff; 20][..]] {
            assert!(split(bytes).is_err());
        }
    }
}
