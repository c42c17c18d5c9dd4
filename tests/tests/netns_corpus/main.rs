//! The packet corpus through the agent's own iptables rules, in a real netns: the rules must give every packet the mark,
//! and its connection the memory, that the law gives.
//!
//! The rules are what `redirect-agent rules` prints; the agent itself does not run, and veth pairs stand in for the
//! tunnels, because a mark does not depend on what kind of link a packet came by.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod judge;
mod net;
mod nflog;
mod rules;
mod setup;

use std::env;

use anyhow::{Context as _, Error, Result, ensure};
use clap::ValueEnum as _;
use redirect_common::names::{OUTBOUND, PROXY_RETURN_A, PROXY_RETURN_B};
use redirect_lab::backend::Backend;
use redirect_lab::corpus::conversations;

use judge::{Until, judge};
use net::Net;
use setup::{Setup, Veth};

/// A bit that belongs to somebody else, on packets and on connections.
const FOREIGN: u32 = 0x10000;

#[test]
fn the_rules_obey_the_law() -> Result<()> {
    backends()?.into_iter().try_for_each(obeys)
}

/// The test tests something: it fails when any single rule of the law is missing or writes foreign bits.
#[test]
fn each_broken_rule_is_noticed() -> Result<()> {
    backends()?.into_iter().try_for_each(notices_each_broken_rule)
}

/// The one that `REDIRECT_BACKEND` asks for, or both.
fn backends() -> Result<Vec<Backend>> {
    match env::var("REDIRECT_BACKEND") {
        Ok(name) => Ok(vec![Backend::from_str(&name, false).map_err(Error::msg).context("REDIRECT_BACKEND")?]),
        Err(_) => Ok(Backend::ALL.to_vec()),
    }
}

fn usual(backend: Backend) -> Setup {
    Setup { backend, veth: Veth::Own, foreign: FOREIGN, marked: None, tunnel_port: 6081 }
}

fn obeys(backend: Backend) -> Result<()> {
    let usual = usual(backend);
    let setups = [
        Setup { foreign: 0, ..usual },
        usual,
        Setup { veth: Veth::Bridged, tunnel_port: 16081, ..usual },
        Setup { marked: Some(OUTBOUND), ..usual },
        Setup { marked: Some(PROXY_RETURN_A), ..usual },
        Setup { marked: Some(PROXY_RETURN_B), ..usual },
    ];
    for setup in setups {
        let rules = rules::of_agent(setup)?;
        let corpus = conversations(setup.tunnel_port);
        let report = Net::with(setup, |net| {
            net.load(&rules)?;
            judge(net, &corpus, Until::TheEnd)
        })?;
        println!("{setup:?}: {report}");
        ensure!(report.seen >= 2000, "{setup:?}: the rules saw only {} packets", report.seen);
        ensure!(report.wrong.is_empty(), "{setup:?}: {report}\n{}", report.wrong.join("\n"));
    }
    Ok(())
}

fn notices_each_broken_rule(backend: Backend) -> Result<()> {
    let setup = usual(backend);
    let rules = rules::of_agent(setup)?;
    let corpus = conversations(setup.tunnel_port);
    let all = rules::broken(&rules);
    ensure!(all.len() >= 20, "the law cannot be written in so few rules:\n{rules}");
    let unnoticed = Net::with(setup, |net| {
        let mut unnoticed = Vec::new();
        for broken in all {
            net.reset()?;
            net.load(&broken.rules)?;
            let report = judge(net, &corpus, Until::FirstWrong)?;
            match report.wrong.first() {
                Some(wrong) => println!("{}: {wrong}", broken.what),
                None => unnoticed.push(broken.what),
            }
        }
        Ok(unnoticed)
    })?;
    ensure!(unnoticed.is_empty(), "{backend}: nothing is wrong:\n{}", unnoticed.join("\n"));
    Ok(())
}
