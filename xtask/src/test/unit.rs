//! What needs no kernel of its own: the form of the code, the dependencies, and the tests inside the crates.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::libtest;
use super::totals::Totals;
use crate::programs::{self, PROFILE};
use crate::workspace::Workspace;
use crate::{deny, ebpf, process, progress};

/// All of it; a check that fails does not keep the others from being made.
pub(super) fn run(workspace: &Workspace) -> Result<Totals> {
    // The agent has the object inside.
    ebpf::build(workspace)?;
    let mut totals = Totals::default();
    for (name, mut command) in checks(workspace)? {
        progress::say(name);
        totals += Totals::one(process::status(&mut command)?.success());
    }
    // `driven` is the CNI plugin as a runtime drives it, `shapes` the parser and bytes by chance. The other tests of their own are the
    // lab's suites.
    for kind in [&["--lib", "--bins"][..], &["--doc"], &["--test", "driven", "--test", "shapes"]] {
        progress::say(format!("cargo test --workspace {}", kind.join(" ")));
        let mut command = programs::cargo(workspace, "test");
        command.arg("--no-fail-fast").args(kind);
        totals += tests(&mut command)?;
    }
    Ok(totals)
}

fn checks(workspace: &Workspace) -> Result<[(&'static str, Command); 4]> {
    let cargo = |words: &[&str]| {
        let mut command = workspace.cargo();
        command.args(words);
        command
    };
    let mut deny = Command::new(deny::prepare(workspace)?);
    deny.current_dir(workspace.root()).args([
        "--offline",
        "--log-level",
        "error",
        "check",
        "licenses",
        "bans",
        "sources",
    ]);
    let clippy = ["clippy", "--workspace", "--all-targets", "--profile", PROFILE, "--", "--deny", "warnings"];
    Ok([
        ("cargo fmt --check", cargo(&["fmt", "--all", "--check"])),
        (
            "cargo fmt --check in redirect-ebpf",
            cargo(&["fmt", "--manifest-path", "redirect-ebpf/Cargo.toml", "--check"]),
        ),
        ("cargo clippy", cargo(&clippy)),
        ("cargo deny check", deny),
    ])
}

/// Runs `cargo test`, shows what it prints and counts its results.
fn tests(command: &mut Command) -> Result<Totals> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let mut output = String::new();
    let stdout = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read what cargo test prints")?;
        println!("{line}");
        output.push_str(&line);
        output.push('\n');
    }
    let succeeded = child.wait().context("wait for cargo test")?.success();
    let mut totals = libtest::sum(&output);
    if !succeeded && totals.failed == 0 {
        // It did not compile, or crashed.
        totals += Totals::one(false);
    }
    Ok(totals)
}
