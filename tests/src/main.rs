//! `redirect-lab`: the lab's command line, see `redirect_lab::cli`.
#![allow(unused_crate_dependencies, reason = "they are the library's; this is its command line")]

use std::process::ExitCode;

fn main() -> ExitCode {
    redirect_lab::cli::main()
}
