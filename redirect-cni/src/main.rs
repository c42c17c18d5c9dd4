//! The CNI plugin. What it does is in the library.

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;

use nix as _;
use redirect_cni::{MARK, plugin};
use serde as _;
use serde_json as _;
#[cfg(test)]
use tempfile as _;
use thiserror as _;

fn main() -> ExitCode {
    // A runtime gives none, so it is a person who asks.
    if env::args_os().len() > 1 {
        eprintln!("{MARK}, version {}; it is called by a container runtime", env!("CARGO_PKG_VERSION"));
        return ExitCode::FAILURE;
    }
    let (line, code) = match plugin::run(|name| env::var_os(name), io::stdin().lock()) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(failure) => (failure.error.object(failure.version), ExitCode::FAILURE),
    };
    if line.is_empty() {
        return code;
    }
    let mut output = io::stdout().lock();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
