//! `redirect-lab starts`: what our CNI plugin adds to the start of a pod, for `cargo xtask bench`.

use anyhow::Result;
use clap::Args;

use super::bpf::Output;
use crate::cni_bench;

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct StartsArgs {
    /// Starts in either way, in each mode
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// For whom
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: StartsArgs) -> Result<()> {
    let figures = cni_bench::measure(args.rounds.into())?;
    match args.output {
        Output::Text => print!("{}", cni_bench::render(&figures)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
    }
    Ok(())
}
