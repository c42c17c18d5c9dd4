//! How the agent marks packets and attaches its programs, as people and the environment choose it.

use std::env;
use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Variables that choose where nothing else does.
pub const MODE_VARIABLE: &str = "REDIRECT_MODE";
/// As [`MODE_VARIABLE`], for [`Attach`].
pub const ATTACH_VARIABLE: &str = "REDIRECT_TC_ATTACH";

/// How packets are marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By iptables rules and a set.
    Iptables,
    /// By tc programs and a map.
    Ebpf,
}

/// How tc programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// As links, from 6.6 on.
    Tcx,
    /// As filters of a qdisc.
    Clsact,
}

impl Mode {
    /// What the environment asks for; ebpf if it does not say.
    pub fn from_environment() -> Result<Self> {
        Ok(from_environment(MODE_VARIABLE)?.unwrap_or(Self::Ebpf))
    }

    /// The one that this is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Iptables => Self::Ebpf,
            Self::Ebpf => Self::Iptables,
        }
    }
}

impl Attach {
    /// What the environment asks for, if anything.
    pub fn from_environment() -> Result<Option<Self>> {
        from_environment(ATTACH_VARIABLE)
    }
}

fn from_environment<T: ValueEnum>(name: &str) -> Result<Option<T>> {
    let Ok(value) = env::var(name) else { return Ok(None) };
    T::from_str(&value, false).map(Some).map_err(anyhow::Error::msg).with_context(|| format!("{name}={value}"))
}

/// As the agent's command line takes it.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iptables => "iptables",
            Self::Ebpf => "ebpf",
        })
    }
}

/// As the agent's command line takes it.
impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}
