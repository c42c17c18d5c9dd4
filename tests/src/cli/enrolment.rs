//! `redirect-lab enrolment`: what it costs to enrol pods, for `cargo xtask bench`.

use anyhow::Result;
use clap::Args;

use super::bpf::Output;
use crate::enrolment::{self, Effort};

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct EnrolmentArgs {
    /// Pods that are there when the agent starts
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..60_000))]
    pods: u16,
    /// Cold starts in each mode
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Pods that come and go one by one
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..60_000))]
    events: u16,
    /// For whom
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: EnrolmentArgs) -> Result<()> {
    let EnrolmentArgs { pods, rounds, events, output } = args;
    let effort = Effort { pods: pods.into(), rounds: rounds.into(), events: events.into() };
    let figures = enrolment::measure(effort)?;
    match output {
        Output::Text => print!("{}", enrolment::render(&figures)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
    }
    Ok(())
}
