//! Frames made of the corpus's by changing them, and frames of random bytes.

use std::net::IpAddr;

use super::random::Random;
use crate::corpus::{
    AFTER_MESHED, ALL_MESHED, ALL_NODE, Conversation, MESHED, MESHED_B, NODE, OUTSIDE, PROXY, PROXY_B, REMOTE, UNMESHED,
};

/// Ethernet's header, below which no kernel runs a test.
const SHORTEST: usize = 14;
/// Of random frames. Every header ends before.
const LONGEST: usize = 200;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Where the interesting fields are if there are neither tags nor options: types, lengths, fragment fields, protocols, ports,
/// TCP's flags, and the fields of a packet that an ICMP error is about.
const BYTES: [usize; 22] = [12, 13, 14, 15, 16, 17, 20, 21, 23, 34, 35, 36, 37, 38, 46, 47, 42, 48, 49, 51, 62, 64];
const ADDRESSES: [usize; 4] = [26, 30, 54, 58];
const PORTS: [usize; 4] = [34, 36, 62, 64];
const VALUES: [u8; 26] = [
    0, 1, 2, 3, 4, 5, 6, 8, 0x0b, 0x10, 0x11, 0x12, 0x14, 0x1f, 0x20, 0x2c, 0x32, 0x3f, 0x44, 0x45, 0x46, 0x4f, 0x81,
    0x86, 0x88, 0xff,
];
const TAGS: [[u8; 4]; 3] = [[0x81, 0, 0, 5], [0x88, 0xa8, 0x20, 0], [0x81, 0, 0xff, 0xff]];

/// A source of frames.
#[derive(Clone, Debug)]
pub struct Mutator {
    frames: Vec<Vec<u8>>,
    tunnel_port: u16,
}

impl Mutator {
    /// Of a corpus.
    #[must_use]
    pub fn new(corpus: &[Conversation], tunnel_port: u16) -> Self {
        let steps = corpus.iter().flat_map(|conversation| &conversation.steps);
        let frames = steps.flat_map(|step| step.packets(1).into_iter().map(|packet| step.frame(MAC, MAC, &packet)));
        Self { frames: frames.filter(|frame| frame.len() >= SHORTEST).collect(), tunnel_port }
    }

    /// One more.
    #[must_use]
    pub fn frame(&self, random: &mut Random) -> Vec<u8> {
        match random.below(10) {
            0 => noise(random, SHORTEST),
            1 => {
                // Behind a header that is read on.
                let mut frame = noise(random, 42);
                frame[12..15].copy_from_slice(&[8, 0, 0x45]);
                frame
            }
            _ => {
                let mut frame = self.frames.get(random.below(self.frames.len())).cloned().unwrap_or_default();
                for _ in 0..random.below(5) {
                    self.change(random, &mut frame);
                }
                if random.below(4) != 0 {
                    mend_length(&mut frame);
                }
                frame
            }
        }
    }

    fn change(&self, random: &mut Random, frame: &mut Vec<u8>) {
        match random.below(12) {
            0 => flip(random, frame),
            1 => {
                let at = random.below(frame.len());
                frame[at] = random.byte();
            }
            2 | 3 => {
                let (at, value) = (random.one(&BYTES), random.one(&VALUES));
                write(frame, at, &[value.unwrap_or_default()]);
            }
            4 | 5 => {
                let (at, ip) = (random.one(&ADDRESSES), some_address(random));
                write(frame, at, &ip);
            }
            6 => {
                let port = random.one(&[self.tunnel_port, 53, 80, 8080, 20001]).unwrap_or_default();
                let at = random.one(&PORTS);
                write(frame, at, &port.to_be_bytes());
            }
            7 => swap(frame, 26, 30, 4),
            8 => swap(frame, 34, 36, 2),
            9 => {
                let len = SHORTEST + random.below(frame.len().saturating_sub(SHORTEST).max(1));
                frame.truncate(len);
            }
            10 => {
                let more = random.below(40);
                frame.extend(std::iter::repeat_with(|| random.byte()).take(more));
            }
            _ => {
                let tag = random.one(&TAGS).unwrap_or_default();
                frame.splice(12..12, tag);
            }
        }
    }
}

/// Makes the IP header name the packet's length: most changes would else only be seen to contradict that.
fn mend_length(frame: &mut [u8]) {
    if let (Some([8, 0, 0x45..=0x4f]), Ok(len)) = (frame.get(12..15), u16::try_from(frame.len() - SHORTEST)) {
        write(frame, Some(16), &len.to_be_bytes());
    }
}

fn noise(random: &mut Random, at_least: usize) -> Vec<u8> {
    let len = at_least + random.below(LONGEST - at_least);
    std::iter::repeat_with(|| random.byte()).take(len).collect()
}

fn flip(random: &mut Random, frame: &mut [u8]) {
    let at = random.below(frame.len());
    frame[at] ^= 1 << random.below(8);
}

fn some_address(random: &mut Random) -> [u8; 4] {
    let known = [MESHED, MESHED_B, AFTER_MESHED, UNMESHED, PROXY, PROXY_B, NODE, REMOTE, OUTSIDE];
    let all = ALL_MESHED.iter().chain(&ALL_NODE).filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let all: Vec<_> = known.into_iter().chain(all).collect();
    random.one(&all).map(|ip| ip.octets()).unwrap_or_default()
}

fn write(frame: &mut [u8], at: Option<usize>, bytes: &[u8]) {
    let place = at.and_then(|at| frame.get_mut(at..at + bytes.len()));
    if let Some(place) = place {
        place.copy_from_slice(bytes);
    }
}

fn swap(frame: &mut [u8], one: usize, other: usize, len: usize) {
    if frame.len() >= other + len {
        for at in 0..len {
            frame.swap(one + at, other + at);
        }
    }
}
