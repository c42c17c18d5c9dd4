//! Which of the two iptables the host uses. Rules in the other one would run as well, but in an order nobody chose.

use std::fmt;
use std::fs;

use anyhow::bail;
use redirect_common::names::CHAIN_PREFIX;
use serde::{Deserialize, Serialize};

use crate::kernel::process;

/// An implementation of iptables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// `ip_tables`, the kernel's older one.
    Legacy,
    /// nftables behind iptables' commands.
    Nft,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        })
    }
}

impl Backend {
    /// The program `iptables-<backend>-<verb>`.
    pub(crate) fn tool(self, verb: &str) -> String {
        format!("iptables-{self}-{verb}")
    }

    /// How `iptables-restore` is called: others' chains stay, and a held lock is waited for.
    pub(crate) fn restore_args(self) -> Vec<&'static str> {
        match self {
            Self::Legacy => vec!["--noflush", "--wait", "45"],
            // nftables has transactions in place of the xtables lock.
            Self::Nft => vec!["--noflush"],
        }
    }
}

/// Chains that kubelet and kube-proxy leave in the backend of the host (`IPTablesMode` hints since Kubernetes 1.24; the
/// canary since 1.17).
const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// What is known of one backend.
struct Evidence {
    hinted: bool,
    rules: usize,
}

/// What has been found out about the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Detected {
    /// The backend to use.
    pub(crate) backend: Backend,
    /// Kubernetes has said so; else it is a guess, and Kubernetes may come later.
    pub(crate) certain: bool,
}

/// The backend that the calling thread's network namespace uses.
///
/// # Errors
/// Neither works; both reasons are named.
pub(crate) fn detect() -> anyhow::Result<Detected> {
    let nft = evidence(Backend::Nft);
    let legacy = if legacy_in_use() { evidence(Backend::Legacy) } else { Ok(Evidence { hinted: false, rules: 0 }) };
    choose(nft, legacy)
}

/// Every backend that has rules in the calling thread's network namespace, or could have.
pub(crate) fn in_use() -> Vec<Backend> {
    let legacy = legacy_in_use().then_some(Backend::Legacy);
    let nft = evidence(Backend::Nft).is_ok().then_some(Backend::Nft);
    nft.into_iter().chain(legacy).collect()
}

fn choose(nft: anyhow::Result<Evidence>, legacy: anyhow::Result<Evidence>) -> anyhow::Result<Detected> {
    let certain = [&nft, &legacy].into_iter().flatten().any(|evidence| evidence.hinted);
    let backend = match (nft, legacy) {
        (Ok(nft), Ok(legacy)) if legacy.hinted != nft.hinted => {
            if legacy.hinted {
                Backend::Legacy
            } else {
                Backend::Nft
            }
        }
        (Ok(nft), Ok(legacy)) if legacy.rules > nft.rules => Backend::Legacy,
        (Ok(_), _) => Backend::Nft,
        (Err(_), Ok(_)) => Backend::Legacy,
        (Err(nft), Err(legacy)) => bail!("no iptables works here: nft: {nft:#}; legacy: {legacy:#}"),
    };
    Ok(Detected { backend, certain })
}

fn evidence(backend: Backend) -> anyhow::Result<Evidence> {
    let save = process::read(&backend.tool("save"), &[])?;
    let hinted = save
        .lines()
        .filter_map(|line| line.strip_prefix(':'))
        .any(|chain| HINTS.iter().any(|hint| chain.split_whitespace().next() == Some(hint)));
    // Our own rules say nothing of the host.
    let rules = save.lines().filter(|line| line.starts_with("-A ") && !is_ours(line));
    Ok(Evidence { hinted, rules: rules.count() })
}

/// Whether a rule, as it stands behind `-A ` in what `iptables-save` prints, is in a chain of ours or leads into one.
pub(crate) fn is_ours(rule: &str) -> bool {
    rule.split_whitespace().any(|word| word.starts_with(CHAIN_PREFIX))
}

/// Asking legacy iptables for its rules creates its tables; the kernel's own list tells without that.
fn legacy_in_use() -> bool {
    fs::read_to_string("/proc/thread-self/net/ip_tables_names").is_ok_and(|names| !names.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "what `choose` takes")]
    fn evidence(hinted: bool, rules: usize) -> anyhow::Result<Evidence> {
        Ok(Evidence { hinted, rules })
    }

    fn chosen(nft: anyhow::Result<Evidence>, legacy: anyhow::Result<Evidence>) -> (Backend, bool) {
        let Detected { backend, certain } = choose(nft, legacy).unwrap();
        (backend, certain)
    }

    #[test]
    fn a_hint_outweighs_numbers() {
        assert_eq!(chosen(evidence(false, 900), evidence(true, 1)), (Backend::Legacy, true));
        assert_eq!(chosen(evidence(true, 1), evidence(false, 900)), (Backend::Nft, true));
        assert_eq!(chosen(evidence(false, 2), evidence(false, 3)), (Backend::Legacy, false));
        assert_eq!(chosen(evidence(false, 0), evidence(false, 0)), (Backend::Nft, false));
    }

    #[test]
    fn one_that_fails_is_not_used() {
        assert_eq!(chosen(Err(anyhow::anyhow!("no")), evidence(false, 0)), (Backend::Legacy, false));
        assert_eq!(chosen(evidence(false, 0), Err(anyhow::anyhow!("no"))), (Backend::Nft, false));
        assert!(choose(Err(anyhow::anyhow!("a")), Err(anyhow::anyhow!("b"))).is_err());
    }
}
