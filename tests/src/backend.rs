//! The two iptables backends and their tools.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which kernel interface iptables rules go through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// `nf_tables`, by `iptables-nft`.
    Nft,
    /// `x_tables`, by `iptables-legacy`.
    Legacy,
}

impl Backend {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The one that it is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    /// The command that prints and edits rules.
    #[must_use]
    pub const fn iptables(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }

    /// The command that prints all rules.
    #[must_use]
    pub const fn save(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft-save",
            Self::Legacy => "iptables-legacy-save",
        }
    }

    /// The command that applies a batch of rules.
    #[must_use]
    pub const fn restore(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft-restore",
            Self::Legacy => "iptables-legacy-restore",
        }
    }
}

/// As the command line takes it.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}
