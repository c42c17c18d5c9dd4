//! One packet for each row of the law in each place where the row can be met, in every form that a header can have:
//! [`tags`], [`options`], [`fragments`], and [`cuts`] at every boundary. Forms are generated: what a form does to a packet
//! is said once, and does not depend on the packet.

mod cuts;
mod fragments;
mod options;
mod specimens;
mod tags;

use super::super::script::Script;

pub(super) fn add(script: &mut Script) {
    tags::add(script);
    options::add(script);
    fragments::add(script);
    cuts::add(script);
}
