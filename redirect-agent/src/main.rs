//! The node agent of an ambient mesh: sends meshed pods' TCP to the node's ztunnel, and keeps that true.
//!
//! [`sources`] say which pods there are, [`enrol`] decides which are meshed, [`plan`] turns that and the node's
//! [`facts`] into what must stand, [`resources`] bring the kernel there, and [`reconcile`] repeats it whenever something
//! changes.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

mod backoff;
mod bpf;
mod cli;
mod cni;
mod commands;
mod config;
mod datapaths;
mod enrol;
mod facts;
mod install;
mod kernel;
mod leaving;
mod lock;
mod metrics;
mod plan;
mod preflight;
mod proxy;
mod reconcile;
mod record;
mod resources;
mod serve;
mod socket;
mod sources;
mod status;
mod trace;

fn main() -> ExitCode {
    // What the client of the API server says of a failure is said by its source, with what helps.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    let outcome = match Cli::parse().command {
        Command::Run(args) => commands::run::run(args),
        Command::Status(args) => commands::status::run(&args),
        Command::Metrics(args) => commands::metrics::run(&args),
        Command::Trace(args) => commands::trace::run(args),
        Command::Check(args) => commands::check::run(&args),
        Command::Cleanup(args) => commands::cleanup::run(&args),
        Command::Rules(args) => commands::rules::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redirect-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
