//! What each command does.

pub(crate) mod check;
pub(crate) mod cleanup;
pub(crate) mod client;
pub(crate) mod metrics;
mod print;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod trace;
