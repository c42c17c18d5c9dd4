//! The conversations, by what they are about.

mod flags;
mod forms;
mod icmp;
mod inbound;
mod ipv6;
mod malformed;
mod memory;
mod near;
mod node;
mod outbound;
mod protocols;
mod proxy;
mod seats;
mod shapes;
mod tunnel;
mod udp;
mod unmeshed;

use super::script::Script;

pub(super) fn add_all(script: &mut Script) {
    outbound::add(script);
    inbound::add(script);
    unmeshed::add(script);
    proxy::add(script);
    seats::add(script);
    node::add(script);
    udp::add(script);
    icmp::add(script);
    tunnel::add(script);
    protocols::add(script);
    memory::add(script);
    near::add(script);
    flags::add(script);
    shapes::add(script);
    malformed::add(script);
    ipv6::add(script);
    forms::add(script);
}
