//! IP options of every length that the header's four bits can say.

use super::super::super::script::Script;
use super::specimens;

/// The option without effect (RFC 791).
const NO_OPERATION: u8 = 1;
/// In units of four bytes.
const MOST: usize = 10;

pub(super) fn add(script: &mut Script) {
    let port = script.tunnel_port();
    for units in 1..=MOST {
        let options = vec![NO_OPERATION; units * 4];
        script.talk(format!("options: {} bytes", options.len()), |t| {
            for specimen in specimens::all() {
                let datagram = specimen.make(t, port).options(&options);
                t.packet(&specimen.name(), specimen.place, datagram, specimen.row);
            }
        });
    }
}
