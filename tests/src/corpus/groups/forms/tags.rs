//! VLAN tags: 802.1Q, 802.1ad, two of them in every order, priorities. The law looks behind two. On an interface without
//! VLANs the kernel takes tag 0 (a mere priority) for no tag, any number of them, and drops the others.

use redirect_common::packet::Unparsed;

use super::super::super::script::Script;
use super::super::super::step::Rules;
use super::specimens;

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;

/// Name, tags, and whether the kernel takes them off by itself.
type Way = (&'static str, &'static [(u16, u16)], bool);

const WAYS: [Way; 9] = [
    ("802.1Q", &[(Q, 5)], false),
    ("802.1ad", &[(AD, 5)], false),
    ("802.1Q, the highest identifier and priority", &[(Q, 0xfffe)], false),
    ("802.1Q in 802.1ad", &[(AD, 6), (Q, 5)], false),
    ("802.1Q in 802.1Q", &[(Q, 6), (Q, 5)], false),
    ("802.1ad in 802.1Q", &[(Q, 6), (AD, 5)], false),
    ("a priority by 802.1Q", &[(Q, 0xe000)], true),
    ("a priority by 802.1ad", &[(AD, 0x2000)], true),
    ("two priorities", &[(AD, 0xe000), (Q, 0x2000)], true),
];

pub(super) fn add(script: &mut Script) {
    let port = script.tunnel_port();
    for (name, tags, taken_off) in WAYS {
        script.talk(format!("tags: {name}"), |t| {
            for specimen in specimens::arriving() {
                let datagram = specimen.make(t, port);
                let rules = if taken_off { Rules::AsLaw } else { Rules::Unseen };
                t.packet(&specimen.name(), specimen.place, datagram, specimen.row).tags(tags).rules(rules);
            }
        });
    }
    let too_many: [Way; 2] =
        [("three priorities", &[(Q, 0); 3], true), ("three VLANs", &[(AD, 7), (AD, 6), (Q, 5)], false)];
    for (name, tags, taken_off) in too_many {
        script.talk(format!("tags: {name}"), |t| {
            for specimen in specimens::arriving() {
                let datagram = specimen.make(t, port);
                let rules = if taken_off { Rules::Row(specimen.row) } else { Rules::Unseen };
                t.unparsed(&specimen.name(), specimen.place, datagram, Unparsed::TooManyTags).tags(tags).rules(rules);
            }
        });
    }
}
