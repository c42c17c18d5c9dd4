//! Packets that end at each boundary of their headers, and inside of each header: because the frame ends there, which the
//! kernel drops; because the packet does; and because the packet does although the frame goes on.

use redirect_common::packet::Unparsed;

use super::super::super::script::Script;
use super::super::super::step::Rules;
use super::specimens::{self, Specimen};

const ETHERNET: usize = 14;
const TAG: usize = 4;
/// Bytes of the IP header, and behind it.
const IN_FRAME: [usize; 11] = [0, 1, 2, 4, 10, 12, 16, 19, 20, 24, 39];
/// Bytes behind the IP header: around the ports and the end of UDP's header, and of TCP's.
const IN_PACKET: [usize; 9] = [0, 1, 2, 3, 4, 7, 12, 13, 19];
const UDP_HEADER: usize = 8;

pub(super) fn add(script: &mut Script) {
    frames(script);
    packets(script);
}

/// One specimen of each place is enough: nothing of such a packet can be known.
fn frames(script: &mut Script) {
    let port = script.tunnel_port();
    let mut specimens: Vec<Specimen> = specimens::arriving();
    specimens.dedup_by_key(|specimen| (specimen.place, specimen.is_udp()));
    for tags in 0..=2 {
        let inside_of_tags = (0..tags).map(|tag| ETHERNET + TAG * tag + 2);
        let lengths: Vec<_> = inside_of_tags.chain(IN_FRAME.map(|len| ETHERNET + TAG * tags + len)).collect();
        for len in lengths {
            script.talk(format!("frames behind {tags} tags that end after {len} bytes"), |t| {
                for (at, specimen) in specimens.iter().enumerate() {
                    let datagram = specimen.make(t, port);
                    let name = format!("{at}: {}", specimen.name());
                    t.unparsed(&name, specimen.place, datagram, Unparsed::Truncated)
                        .tagged(&[0, 0][..tags])
                        .frame_len(len);
                }
            });
        }
    }
}

/// Conntrack takes them for no part of a connection.
fn packets(script: &mut Script) {
    let port = script.tunnel_port();
    for len in IN_PACKET {
        script.talk(format!("packets that end {len} bytes behind the IP header"), |t| {
            for specimen in specimens::all() {
                add_cut(t, &specimen, port, len, false);
            }
        });
        script.talk(format!("packets that end {len} bytes behind the IP header, in longer frames"), |t| {
            for specimen in specimens::arriving() {
                add_cut(t, &specimen, port, len, true);
            }
        });
    }
}

fn add_cut(t: &mut super::super::super::script::Talk<'_>, specimen: &Specimen, port: u16, len: usize, goes_on: bool) {
    if specimen.is_udp() && len >= UDP_HEADER {
        return;
    }
    let mut datagram = specimen.make(t, port);
    let behind = datagram.payload.split_off(len);
    if goes_on {
        datagram.trailer = behind;
    }
    let row = if len < 4 { specimen.portless } else { specimen.untracked_row() };
    let rules = if specimen.is_udp() { Rules::AsLawOrDropped } else { Rules::AsLaw };
    t.packet(&specimen.name(), specimen.place, datagram, row).untracked().rules(rules);
}
