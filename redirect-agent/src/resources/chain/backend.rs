//! Which of the two iptables the host uses. Rules in the other one would run as well, but in an order nobody chose.

use std::fmt;
use std::fs;

use anyhow::bail;
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

/// The backend that the calling thread's network namespace uses.
///
/// # Errors
/// Neither works; both reasons are named.
pub(crate) fn detect() -> anyhow::Result<Backend> {
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

fn choose(nft: anyhow::Result<Evidence>, legacy: anyhow::Result<Evidence>) -> anyhow::Result<Backend> {
    match (nft, legacy) {
        (Ok(nft), Ok(legacy)) if legacy.hinted != nft.hinted => {
            Ok(if legacy.hinted { Backend::Legacy } else { Backend::Nft })
        }
        (Ok(nft), Ok(legacy)) => Ok(if legacy.rules > nft.rules { Backend::Legacy } else { Backend::Nft }),
        (Ok(_), Err(_)) => Ok(Backend::Nft),
        (Err(_), Ok(_)) => Ok(Backend::Legacy),
        (Err(nft), Err(legacy)) => bail!("no iptables works here: nft: {nft:#}; legacy: {legacy:#}"),
    }
}

fn evidence(backend: Backend) -> anyhow::Result<Evidence> {
    let save = process::run(&backend.tool("save"), &[], "")?;
    let hinted = save
        .lines()
        .filter_map(|line| line.strip_prefix(':'))
        .any(|chain| HINTS.iter().any(|hint| chain.split_whitespace().next() == Some(hint)));
    Ok(Evidence { hinted, rules: save.lines().filter(|line| line.starts_with("-A ")).count() })
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

    #[test]
    fn a_hint_outweighs_numbers() {
        assert_eq!(choose(evidence(false, 900), evidence(true, 1)).unwrap(), Backend::Legacy);
        assert_eq!(choose(evidence(true, 1), evidence(false, 900)).unwrap(), Backend::Nft);
        assert_eq!(choose(evidence(false, 2), evidence(false, 3)).unwrap(), Backend::Legacy);
        assert_eq!(choose(evidence(false, 0), evidence(false, 0)).unwrap(), Backend::Nft);
    }

    #[test]
    fn one_that_fails_is_not_used() {
        assert_eq!(choose(Err(anyhow::anyhow!("no")), evidence(false, 0)).unwrap(), Backend::Legacy);
        assert!(choose(Err(anyhow::anyhow!("a")), Err(anyhow::anyhow!("b"))).is_err());
    }
}
