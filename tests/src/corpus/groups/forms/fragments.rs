//! Fragments. The kernel puts them together before the rules look, so that these see the whole; the law may be asked about
//! each by itself, and only the first names ports.

use super::super::super::checksum;
use super::super::super::script::Script;
use super::super::super::step::Rules;
use super::specimens;

/// Name, and where the payload is cut.
const WAYS: [(&str, &[usize]); 4] =
    [("a tiny first", &[8]), ("two", &[16]), ("a tiny last", &[40]), ("of eight bytes each", &[8, 16, 24, 32, 40])];

type Edit = fn(&mut Vec<u8>);

/// Name, the header's fragment field, and whether ports are read.
const ALONE: [(&str, Edit, bool); 5] = [
    ("the first", |bytes| field(bytes, 0x2000), true),
    ("the first, not to be fragmented", |bytes| field(bytes, 0x6000), true),
    ("the second, where the ports would be", |bytes| field(bytes, 0x2001), false),
    ("one in the middle", |bytes| field(bytes, 0x2100), false),
    ("the last", |bytes| field(bytes, 0x00b9), false),
];

pub(super) fn add(script: &mut Script) {
    let port = script.tunnel_port();
    for (name, cuts) in WAYS {
        script.talk(format!("fragments: {name}"), |t| {
            for specimen in specimens::all() {
                let datagram = specimen.make(t, port);
                let mut rows = vec![specimen.portless; cuts.len() + 1];
                rows[0] = specimen.row;
                t.packet(&specimen.name(), specimen.place, datagram, specimen.row).cut(cuts, &rows);
            }
        });
    }
    for (name, edit, ports) in ALONE {
        script.talk(format!("fragments: {name} alone"), |t| {
            for specimen in specimens::all() {
                let datagram = specimen.make(t, port).edit(edit);
                let row = if ports { specimen.row } else { specimen.portless };
                let step = t.packet(&specimen.name(), specimen.place, datagram, row).rules(Rules::Unseen);
                if !ports {
                    step.untracked();
                }
            }
        });
    }
}

fn field(bytes: &mut [u8], field: u16) {
    bytes[6..8].copy_from_slice(&field.to_be_bytes());
    checksum::write_ipv4(&mut bytes[..20]);
}
