//! The CNI plugin. What it does is in the library.

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;

use nix as _;
use redirect_cni::plugin;
use serde as _;
use serde_json as _;
#[cfg(test)]
use tempfile as _;
use thiserror as _;

fn main() -> ExitCode {
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
