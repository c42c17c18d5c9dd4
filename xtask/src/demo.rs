//! `cargo xtask demo`: a node, the agent, and redirection happening; on the host if its kernel has the tunnels, else in a guest.

use std::io::{self, Write};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use redirect_init::places::BPF_OBJECT_VARIABLE;

use crate::guest::Guest;
use crate::kernels::{self, Kernel, Series};
use crate::programs::Programs;
use crate::test::host;
use crate::workspace::Workspace;
use crate::{packages, process, programs, progress, vm};

const PROGRAM: &str = "redirect-lab";

/// What is asked for.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Boots this kernel, also if the host's could do it: 5.10, 6.1, 6.12 or 7.x
    #[arg(long, value_name = "VERSION")]
    kernel: Option<Series>,
    /// How the agent marks packets: iptables or ebpf
    #[arg(long)]
    mode: Option<String>,
    /// How the agent attaches programs in ebpf mode: tcx or clsact
    #[arg(long)]
    tc_attach: Option<String>,
    /// Run the agent where bpf(2) fails, to see it fall back to iptables mode
    #[arg(long)]
    without_bpf: bool,
    /// More arguments of `redirect-lab demo`
    #[arg(last = true, value_name = "ARGUMENTS")]
    more: Vec<String>,
}

/// Shows it; the exit code says whether all of it is right.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    packages::install(packages::BASE)?;
    let on_host = arguments.kernel.is_none() && host::has_geneve()?;
    let words = arguments.words();
    if on_host {
        return run_on_host(&programs::build(workspace)?, &words);
    }
    let kernel = Kernel::get(workspace, arguments.kernel.unwrap_or(kernels::DEFAULT))?;
    run_in_guest(workspace, kernel, programs::build(workspace)?, &words)
}

impl Arguments {
    /// The command line of `redirect-lab`.
    fn words(&self) -> Vec<&str> {
        let mut words = vec!["demo"];
        words.extend(self.mode.iter().flat_map(|mode| ["--mode", mode]));
        words.extend(self.tc_attach.iter().flat_map(|attach| ["--tc-attach", attach]));
        words.extend(self.without_bpf.then_some("--without-bpf"));
        words.extend(self.more.iter().map(String::as_str));
        words
    }
}

fn run_on_host(programs: &Programs, words: &[&str]) -> Result<ExitCode> {
    progress::say("the demo runs on this kernel");
    let found = programs.tools.iter().find(|tool| tool.file_name().is_some_and(|name| name == PROGRAM));
    let program = found.with_context(|| format!("cargo built no {PROGRAM}"))?;
    let status = process::status(Command::new(program).args(words).env(BPF_OBJECT_VARIABLE, &programs.bpf_object))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_in_guest(workspace: &Workspace, kernel: Kernel, programs: Programs, words: &[&str]) -> Result<ExitCode> {
    progress::say(format!("the demo runs in a guest, kernel {}", kernel.release));
    let words: Vec<String> = [&[PROGRAM], words].concat().into_iter().map(str::to_owned).collect();
    let mut stdout = io::stdout();
    let outcome = Guest::new(kernel, programs, vm::script(&words)).run(workspace, &mut |bytes| {
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    })?;
    progress::say(format!("exit status {} after {:.1} s", outcome.status, outcome.total.as_secs_f32()));
    Ok(vm::exit_code(outcome.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_is_passed_on() {
        let arguments = Arguments {
            kernel: None,
            mode: Some("ebpf".to_owned()),
            tc_attach: None,
            without_bpf: true,
            more: vec!["--topology".to_owned(), "bridge".to_owned()],
        };
        assert_eq!(arguments.words(), ["demo", "--mode", "ebpf", "--without-bpf", "--topology", "bridge"]);
    }
}
