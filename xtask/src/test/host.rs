//! Suites on the host's own kernel.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use redirect_init::places::BPF_OBJECT_VARIABLE;

use super::libtest;
use super::suites::Suite;
use super::totals::Totals;
use crate::programs::Programs;
use crate::{process, progress};

/// For one suite.
const SECONDS: &str = "600";

/// Whether the host's kernel has tunnels; asked of the kernel, in a network namespace that ends with the question.
pub(crate) fn has_geneve() -> Result<bool> {
    let mut command = Command::new("unshare");
    command.args(["--net", "ip", "link", "add", "probe", "type", "geneve", "id", "1", "remote", "192.0.2.1"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status().context("start unshare")?.success())
}

/// Runs them one after another.
pub(super) fn run(programs: &Programs, suites: &[Suite]) -> Result<Totals> {
    run_with(programs, suites, &[])
}

/// As [`run`], with more variables.
pub(super) fn run_with(programs: &Programs, suites: &[Suite], variables: &[(&str, String)]) -> Result<Totals> {
    suites.iter().map(|suite| run_one(programs, suite, variables)).sum()
}

fn run_one(programs: &Programs, suite: &Suite, variables: &[(&str, String)]) -> Result<Totals> {
    let since = Instant::now();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", SECONDS]).arg(&suite.program).args(["--test-threads=1", "--color=never"]);
    command.envs(suite.setting.variables()).env(BPF_OBJECT_VARIABLE, &programs.bpf_object);
    command.envs(variables.iter().cloned());
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {suite}"))?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let totals = libtest::judge(output.status.success(), &text);
    progress::say(format!("host {suite}: {totals} in {:.0} s", since.elapsed().as_secs_f32()));
    if !totals.are_good() {
        progress::say(process::tail(&text, 120));
    }
    Ok(totals)
}
