//! `cargo xtask`: everything a person runs. Setting the machine up, building, the demo, the tests, and guests to play in.

mod apt;
mod bench;
mod cpio;
mod demo;
mod deny;
mod ebpf;
mod guest;
mod image;
mod kernels;
mod kubernetes;
mod lock;
mod packages;
mod process;
mod programs;
mod progress;
mod remap;
mod setup;
mod test;
mod tools;
mod verifier;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what is missing: Debian packages, bpf-linker, cargo-deny, the guests' kernels and QEMU
    Setup,
    /// Builds the BPF object
    BuildEbpf,
    /// Shows redirection happening on a node made of network namespaces
    Demo(demo::Arguments),
    /// Builds the agent's image, as an OCI archive
    Image(image::Arguments),
    /// Measures what redirection costs
    Bench(bench::Arguments),
    /// Runs the tests; the last line is how many passed, failed and were skipped
    Test(test::Arguments),
    /// Asks every kernel's verifier about the programs and writes docs/verifier.md
    Verifier(verifier::Arguments),
    /// Boots a guest with everything built on its PATH and runs a command in it
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    progress::start();
    match run(Arguments::parse().command) {
        Ok(status) => status,
        Err(error) => {
            progress::say(format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match command {
        Command::Setup => setup::run(&workspace)?,
        Command::BuildEbpf => {
            let object = ebpf::build(&workspace)?;
            println!("{}", object.display());
        }
        Command::Bench(arguments) => return bench::run(&workspace, &arguments),
        Command::Image(arguments) => return image::run(&workspace, &arguments),
        Command::Demo(arguments) => return demo::run(&workspace, &arguments),
        Command::Test(arguments) => return test::run(&workspace, &arguments),
        Command::Verifier(arguments) => return verifier::run(&workspace, &arguments),
        Command::Vm(arguments) => return vm::run(&workspace, arguments),
    }
    Ok(ExitCode::SUCCESS)
}
