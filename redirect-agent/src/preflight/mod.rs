//! What on a node would stand against the redirection, found before anything is installed: others who use the same bits of marks,
//! and filters that drop what ztunnel sends. Only looks; nothing is changed.

use std::fmt;

use serde::Serialize;

use crate::datapaths::iptables;
use crate::kernel::netns::Netns;
use crate::kernel::process;
use crate::plan::node_rules;
use crate::resources::chain::backend::{self, Backend};
use crate::resources::chain::hidden;
use crate::resources::ledger::Problem;
use crate::resources::rule;

mod marks;
mod spoof;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    /// It may be what somebody wants; see whether it is.
    Warning,
    /// Packets go where they must not, here or at the neighbour's.
    Problem,
}

/// Something that was found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// The rule, as the tool that shows it prints it.
    pub(crate) object: String,
    pub(crate) message: String,
    /// What helps.
    pub(crate) remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Warning => "warning",
            Level::Problem => "problem",
        };
        write!(f, "{level}: {}: {}; {}", self.object, self.message, self.remedy)
    }
}

/// As status has it.
impl From<Finding> for Problem {
    fn from(Finding { object, message, remedy, .. }: Finding) -> Self {
        Self::new(object, format!("{message}; {remedy}"))
    }
}

/// Looks at the network namespace of the calling thread: the worst first.
///
/// # Errors
/// Something could not be read; then nothing is known.
pub(crate) fn look() -> anyhow::Result<Vec<Finding>> {
    let mut node = Netns::current()?;
    let mut findings = marks::in_policy_rules(&rule::foreign_marks(node.netlink(), &node_rules())?);
    for backend in backend::in_use() {
        let save = process::read(&backend.tool("save"), &[])?;
        findings.extend(in_rules(backend, &save));
    }
    findings.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
    findings.dedup();
    Ok(findings)
}

/// Looks, and logs what was found.
pub(crate) fn tell() {
    match look() {
        Ok(findings) => {
            for finding in &findings {
                tracing::warn!("{finding}");
            }
            tracing::info!(findings = findings.len(), "neighbours have been looked at");
        }
        Err(error) => tracing::warn!(error = format!("{error:#}"), "neighbours cannot be looked at"),
    }
}

/// Whether the agent has chains in this table of the node's.
fn holds_ours(table: &str) -> bool {
    iptables::owned_on_node().iter().any(|chain| chain.table == table)
}

/// In rules as `iptables-save` prints them.
fn in_rules(backend: Backend, save: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut table = "";
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(name) = hidden::table(line).filter(|name| holds_ours(name)) {
            findings.push(Finding {
                level: Level::Warning,
                object: format!("iptables-{backend} -t {name}"),
                message: hidden::MESSAGE.to_owned(),
                remedy: hidden::REMEDY.to_owned(),
            });
        } else if let Some(rule) = line.strip_prefix("-A ").filter(|rule| !backend::is_ours(rule)) {
            let object = format!("iptables-{backend} -t {table} -A {rule}");
            findings.extend(marks::in_rule(&object, rule));
            findings.extend(spoof::in_rule(&object, rule));
        }
    }
    findings
}
