//! The agent's rules as text, and what is left of them when one goes.

use std::env;
use std::path::PathBuf;

use anyhow::Result;
use redirect_lab::binaries;
use redirect_lab::command::Cmd;
use redirect_lab::corpus::{PROXY, PROXY_B};

use crate::setup::Setup;

/// What `redirect-agent rules` prints for this setup, for `iptables-restore --noflush`.
pub(crate) fn of_agent(setup: Setup) -> Result<String> {
    let agent = match env::var_os("REDIRECT_AGENT") {
        Some(path) => PathBuf::from(path),
        None => binaries::find("redirect-agent")?,
    };
    let port = setup.tunnel_port.to_string();
    Cmd::new(agent)
        .args(["rules", "--proxy-ip", &PROXY.to_string(), "--proxy-ip", &PROXY_B.to_string(), "--tunnel-port", &port])
        .args(setup.agent_args())
        .run()
}

/// A rule of the agent, what was done to it, and all rules with that done.
pub(crate) struct Broken {
    pub(crate) what: String,
    pub(crate) rules: String,
}

/// The rules without one of those that carry the law (table `mangle`), for each of them; and with one that writes all bits
/// of a mark instead of its own, for each that writes.
pub(crate) fn broken(rules: &str) -> Vec<Broken> {
    let lines: Vec<_> = rules.lines().collect();
    let start = lines.iter().position(|line| *line == "*mangle").unwrap_or(lines.len());
    let end = start + lines[start..].iter().position(|line| *line == "COMMIT").unwrap_or(0);
    let is_rule = |line: &str| line.starts_with("-A ") || line.starts_with("-I ");
    let mut all = Vec::new();
    for at in (start..end).filter(|&at| is_rule(lines[at])) {
        let line = lines[at];
        all.push(Broken { what: format!("without {line}"), rules: replaced(&lines, at, None) });
        if let Some((mark, _)) = line.split_once('/').filter(|(mark, _)| mark.contains("--set-xmark")) {
            let whole = format!("{mark}/0xffffffff");
            all.push(Broken { what: format!("with {whole}"), rules: replaced(&lines, at, Some(&whole)) });
        }
    }
    all
}

fn replaced(lines: &[&str], at: usize, by: Option<&str>) -> String {
    let lines = lines.iter().enumerate().filter_map(|(other, line)| if other == at { by } else { Some(*line) });
    lines.flat_map(|line| [line, "\n"]).collect()
}
