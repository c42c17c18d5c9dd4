//! `cargo xtask vm`: any command in a guest.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::guest::Guest;
use crate::kernels::{self, Kernel, Series};
use crate::workspace::Workspace;
use crate::{packages, programs, progress};

/// What is asked for.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Kernel: 5.10, 6.1, 6.12 or 7.x
    #[arg(long, value_name = "VERSION", default_value = kernels::DEFAULT.name)]
    kernel: Series,
    /// Puts a file or folder below /copy in the guest, which is on its PATH
    #[arg(long, value_name = "PATH")]
    copy: Vec<PathBuf>,
    /// Kills the guest after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    smp: u8,
    /// Memory
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    memory: u32,
    /// Command: one argument is a script for bash, several are a program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs it and gives the command's exit status.
pub(crate) fn run(workspace: &Workspace, arguments: Arguments) -> Result<ExitCode> {
    packages::install(packages::BASE)?;
    let kernel = Kernel::get(workspace, arguments.kernel)?;
    let programs = programs::build(workspace)?;
    progress::say(format!("booting kernel {}", kernel.release));
    let guest = Guest::new(kernel, programs, script(&arguments.command))
        .copy(arguments.copy)
        .cpus(arguments.smp)
        .memory_mb(arguments.memory)
        .deadline(Duration::from_secs(arguments.timeout));
    let mut stdout = io::stdout();
    let outcome = guest.run(workspace, &mut |bytes| {
        // Whoever reads may have gone; the command goes on all the same.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    })?;
    let (boot, total) = (outcome.boot.as_secs_f32(), outcome.total.as_secs_f32());
    progress::say(format!("exit status {} (booted in {boot:.1} s, ended after {total:.1} s)", outcome.status));
    Ok(exit_code(outcome.status))
}

/// The command's exit status as ours.
pub(crate) fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// One word is a script; several are kept apart, as the caller's shell kept them.
pub(crate) fn script(words: &[String]) -> String {
    match words {
        [script] => script.clone(),
        _ => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script_of(words: &[&str]) -> String {
        script(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_word_is_a_script() {
        assert_eq!(script_of(&["ip link; uname -r"]), "ip link; uname -r");
    }

    #[test]
    fn several_words_are_kept_apart() {
        assert_eq!(script_of(&["bash", "-c", "echo 'a b'"]), r"'bash' '-c' 'echo '\''a b'\'''");
    }
}
