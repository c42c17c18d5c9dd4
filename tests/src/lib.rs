//! The lab: a node made of network namespaces as a real one is built, a transparent proxy in the place of ztunnel, and
//! the cases that the agent is judged by. It does not decide what is right for a packet; that is `redirect_common`.

// For the tests that load the BPF object themselves.
#[cfg(test)]
use aya as _;

pub mod agent;
pub mod backend;
pub mod binaries;
pub mod cli;
pub mod client;
pub mod cni;
pub mod command;
pub mod corpus;
mod daemons;
pub mod demo;
mod diff;
pub mod drift;
pub mod harness;
pub mod lab;
pub mod layout;
pub mod manifests;
pub mod netns;
pub mod node;
pub mod operator;
pub mod pod;
mod pods;
pub mod process;
pub mod proxy;
pub mod scoped;
pub mod serve;
pub mod services;
pub mod snapshot;
pub mod state;
pub mod status;
pub mod table;
mod time;

// Only for the integration test of the BPF object.
#[cfg(test)]
use aya as _;
