//! All packets on all links of a network namespace, in both directions: a packet socket that is bound to no link (packet(7)), so that
//! it also sees links that come later. What the kernel had no room for is counted by it, and told.

use std::collections::HashMap;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt::RcvBufForce,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockFilter, Socket};

use super::spot::Spot;
use super::wire::{self, ENOUGH, Segment};
use crate::netns::Netns;

/// Memory for packets that wait to be read: some seconds of a busy lab.
pub const ROOMY: usize = 16 << 20;
/// How long packets gather before they are read, and so how much later than it passed one may be seen: a
/// tap is then not woken for each.
pub(super) const LATE: Duration = Duration::from_millis(30);
/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` (`include/uapi/linux/if_arp.h`): devices whose packets begin with an Ethernet header.
const WITH_ETHERNET: [u16; 2] = [1, 772];
/// `PACKET_OUTGOING` (`include/uapi/linux/if_packet.h`).
const OUTGOING: u8 = 4;

/// A tap that is open, and whose packets wait to be read.
#[derive(Debug)]
pub struct Tap {
    host: String,
    socket: Socket,
    links: HashMap<usize, Spot>,
}

/// What a tap has counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Packets that were read.
    pub packets: u64,
    /// Packets that there was no room for.
    pub drops: u64,
}

impl Tap {
    /// Opens one in the netns of `host`, with so many bytes of room.
    pub fn open(host: &str, netns: &Netns, room: usize) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let open = || socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
        let socket: OwnedFd = netns.run(open)?.with_context(|| format!("cannot tap {}", netns.name()))?;
        setsockopt(&socket, RcvBufForce, &room).context("no room for packets")?;
        let socket = Socket::from(socket);
        socket.attach_filter(&filter()).context("the kernel does not take the filter")?;
        Ok(Self { host: host.to_owned(), socket, links: HashMap::new() })
    }

    /// Hands out segments as they come, until `stop` is readable and there are none left.
    pub fn run(mut self, stop: &OwnedFd, mut see: impl FnMut(&Spot, bool, &Segment<'_>)) -> Result<Counts> {
        let mut packets = 0;
        let mut stopped = false;
        while !stopped {
            let mut ready = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(error) if error != rustix::io::Errno::INTR => return Err(error).context("cannot wait for packets"),
                _ => stopped = !ready[1].revents().is_empty(),
            }
            if !stopped {
                stopped = is_readable(stop, LATE)?;
            }
            packets += self.read_all(&mut see)?;
        }
        Ok(Counts { packets, drops: self.drops()? })
    }

    /// Reads what waits.
    fn read_all(&mut self, see: &mut impl FnMut(&Spot, bool, &Segment<'_>)) -> Result<u64> {
        let mut packets = 0;
        let mut bytes = [0; ENOUGH];
        loop {
            let (len, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
                Ok((len, from)) => (len, from.context("a packet from no link")?),
                Err(Errno::EAGAIN) => return Ok(packets),
                // What befell another socket's packet is told to every one; nothing is lost.
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot read packets of {}", self.host)),
            };
            packets += 1;
            let bytes = &bytes[..len];
            let ethernet = WITH_ETHERNET.contains(&from.hatype());
            let segment = if ethernet { wire::frame(bytes) } else { wire::ipv4(bytes) };
            if let Some(segment) = segment {
                see(self.spot(from.ifindex()), from.pkttype() == OUTGOING, &segment);
            }
        }
    }

    /// A link is asked for its name once. One that has gone before is a place where nothing may be.
    fn spot(&mut self, index: usize) -> &Spot {
        self.links.entry(index).or_insert_with(|| {
            let link = name(&self.socket, index).unwrap_or_else(|_| format!("link {index}, gone"));
            Spot { host: self.host.clone(), link }
        })
    }

    /// Packets dropped since the last question: the kernel begins anew with each (`packet_getsockopt`).
    fn drops(&self) -> Result<u64> {
        // SAFETY: a structure of two integers, for which all bits are valid.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut len = u32::try_from(size_of::<libc::tpacket_stats>())?;
        // SAFETY: the kernel writes `len` bytes at most, to a structure of that size that lives longer than the call.
        let outcome = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        Errno::result(outcome).context("no statistics of a tap")?;
        Ok(stats.tp_drops.into())
    }
}

/// Whether it is within this time.
fn is_readable(file: &OwnedFd, within: Duration) -> Result<bool> {
    let within = Timespec::try_from(within)?;
    match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&within)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        ready => Ok(ready.context("cannot wait")? > 0),
    }
}

/// IPv4 with TCP, or UDP, which may be a tunnel; and whatever has a tag, for the parser. Loads relative to the network header are the
/// same on every kind of device (`SKF_NET_OFF`, `include/uapi/linux/filter.h`).
fn filter() -> [SockFilter; 9] {
    // BPF_LD with BPF_H or BPF_B and BPF_ABS, BPF_JMP with BPF_JEQ, BPF_RET.
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ENOUGH_BYTES: u32 = 320;
    const _: () = assert!(ENOUGH_BYTES as usize == ENOUGH);
    const PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL).cast_unsigned();
    const IP_PROTOCOL: u32 = (libc::SKF_NET_OFF + 9).cast_unsigned();
    [
        SockFilter::new(LOAD_HALF, 0, 0, PROTOCOL),
        SockFilter::new(EQUAL, 5, 0, 0x8100),
        SockFilter::new(EQUAL, 4, 0, 0x88a8),
        SockFilter::new(EQUAL, 0, 4, 0x0800),
        SockFilter::new(LOAD_BYTE, 0, 0, IP_PROTOCOL),
        SockFilter::new(EQUAL, 1, 0, 6),
        SockFilter::new(EQUAL, 0, 1, 17),
        SockFilter::new(RETURN, 0, 0, ENOUGH_BYTES),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Asked of the socket, which is in the netns, wherever the thread is (netdevice(7)).
fn name(socket: &Socket, index: usize) -> io::Result<String> {
    // SAFETY: bytes and integers, for which all bits are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    request.ifr_ifru.ifru_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: SIOCGIFNAME reads and writes a whole `ifreq`, which lives longer than the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &raw mut request) };
    Errno::result(outcome)?;
    let bytes = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned());
    String::from_utf8(bytes.collect()).map_err(io::Error::other)
}
