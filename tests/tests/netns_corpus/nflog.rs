//! Reading what NFLOG rules say of packets: a raw netlink socket, for the few attributes that are needed
//! (`include/uapi/linux/netfilter/nfnetlink_log.h`).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};

const SUBSYSTEM: u16 = 4;
const PACKET: u16 = 0;
const CONFIG: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const REQUEST_AND_ACK: u16 = 5;
const AF_INET: u8 = 2;
const RECEIVE_BUFFER: usize = 4 << 20;

mod config {
    pub(super) const CMD: u16 = 1;
    pub(super) const MODE: u16 = 2;
    pub(super) const THRESHOLD: u16 = 5;
    pub(super) const BIND: u8 = 1;
    pub(super) const COPY_PACKET: u8 = 2;
}

mod attribute {
    pub(super) const PACKET_HEADER: u16 = 1;
    pub(super) const MARK: u16 = 2;
    pub(super) const PAYLOAD: u16 = 9;
    pub(super) const PREFIX: u16 = 10;
}

/// A packet as a rule saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// Netfilter's number of the hook.
    pub(crate) hook: u8,
    /// The packet's mark.
    pub(crate) mark: u32,
    /// What the rule that saw it calls itself.
    pub(crate) prefix: String,
    /// Its bytes from the IP header on, as far as they were asked for.
    pub(crate) packet: Vec<u8>,
}

/// A subscription to a group of NFLOG rules in the current netns.
#[derive(Debug)]
pub(crate) struct Nflog {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Nflog {
    /// Subscribes to `group`; a message carries the first `copy` bytes of a packet.
    pub(crate) fn open(group: u16, copy: u32) -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )
        .context("netlink socket for netfilter")?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("netlink receive buffer")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).context("bind netlink socket")?;
        let mut nflog = Self { socket, buffer: vec![0; 1 << 16] };
        nflog.configure(group, &[(config::CMD, &[config::BIND])]).context("bind NFLOG group (nfnetlink_log)")?;
        let [c0, c1, c2, c3] = copy.to_be_bytes();
        // Every packet at once, not when some have gathered.
        let settings: [(u16, &[u8]); 2] =
            [(config::MODE, &[c0, c1, c2, c3, config::COPY_PACKET, 0]), (config::THRESHOLD, &1_u32.to_be_bytes())];
        nflog.configure(group, &settings).context("configure NFLOG")?;
        Ok(nflog)
    }

    /// The next packets; there is at least one.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Vec<Seen>> {
        loop {
            let len = self.receive(deadline)?;
            let messages = messages(&self.buffer[..len])?;
            let packets = messages.into_iter().filter(|(kind, _)| *kind == SUBSYSTEM << 8 | PACKET);
            let seen = packets.map(|(_, body)| parse(body)).collect::<Result<Vec<_>>>()?;
            if !seen.is_empty() {
                return Ok(seen);
            }
        }
    }

    fn configure(&mut self, group: u16, attributes: &[(u16, &[u8])]) -> Result<()> {
        let mut body = vec![AF_INET, 0];
        body.extend(group.to_be_bytes());
        for (kind, value) in attributes {
            body.extend((u16::try_from(value.len())? + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = (u32::try_from(body.len())? + 16).to_ne_bytes().to_vec();
        message.extend((SUBSYSTEM << 8 | CONFIG).to_ne_bytes());
        message.extend(REQUEST_AND_ACK.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty()).context("send to netlink")?;
        loop {
            let len = self.receive(Instant::now() + crate::judge::PATIENCE)?;
            for (kind, body) in messages(&self.buffer[..len])? {
                if kind == NLMSG_ERROR {
                    // Zero is the kernel's "done".
                    let code = i32::from_ne_bytes(array(body, 0)?);
                    ensure!(code == 0, "{}", Errno::from_raw(-code));
                    return Ok(());
                }
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => return Ok(len),
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error).context("receive from netlink"),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no message by NFLOG in time");
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(left)?)?;
        }
    }
}

/// Kind and body of each message.
fn messages(mut bytes: &[u8]) -> Result<Vec<(u16, &[u8])>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let len = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?))?;
        let body = bytes.get(16..len).context("netlink message cut short")?;
        all.push((u16::from_ne_bytes(array(bytes, 4)?), body));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(all)
}

fn parse(body: &[u8]) -> Result<Seen> {
    let attributes = attributes(body.get(4..).context("NFLOG message cut short")?)?;
    let find = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let header = find(attribute::PACKET_HEADER).context("NFLOG message without header")?;
    Ok(Seen {
        hook: *header.get(2).context("NFLOG header cut short")?,
        mark: find(attribute::MARK).map_or(Ok(0), number)?,
        prefix: String::from_utf8_lossy(find(attribute::PREFIX).unwrap_or_default()).trim_end_matches('\0').to_owned(),
        packet: find(attribute::PAYLOAD).unwrap_or_default().to_vec(),
    })
}

/// Kind, without its flags, and value of each attribute.
fn attributes(mut bytes: &[u8]) -> Result<Vec<(u16, &[u8])>> {
    let mut all = Vec::new();
    while bytes.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes(array(bytes, 0)?));
        let value = bytes.get(4..len).context("netlink attribute cut short")?;
        all.push((u16::from_ne_bytes(array(bytes, 2)?) & 0x3fff, value));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(all)
}

fn number(value: &[u8]) -> Result<u32> {
    Ok(u32::from_be_bytes(array(value, 0)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().context("netlink message cut short")
}
