//! `redirect-lab rest`: what the agent costs while nothing happens, for `cargo xtask bench`.

use anyhow::Result;
use clap::Args;

use super::bpf::Output;
use crate::rest;

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct RestArgs {
    /// How long each is measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// For whom
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: RestArgs) -> Result<()> {
    let figures = rest::measure(args.seconds)?;
    match args.output {
        Output::Text => print!("{}", rest::render(&figures)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
    }
    Ok(())
}
