//! Which compiler builds the BPF object. It must be able to build `core` for a target that has none prebuilt: a rustup
//! nightly with `rust-src`, or Debian's `rustc-web` with `rust-web-src`.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::other;
use crate::{packages, process};

/// A compiler with the sources of `core`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Toolchain {
    Nightly,
    Debian,
}

impl Toolchain {
    /// A rustup nightly, if there is one that has the sources.
    pub(super) fn nightly() -> Option<Self> {
        let sysroot = process::output(other("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"])).ok()?;
        has_sources(Path::new(sysroot.trim())).then_some(Self::Nightly)
    }

    /// Debian's, installed if need be.
    pub(super) fn debian() -> Result<Option<Self>> {
        packages::install(packages::EBPF)?;
        Ok(has_sources(Path::new("/usr")).then_some(Self::Debian))
    }

    /// Its cargo.
    pub(super) fn cargo(self) -> Command {
        match self {
            Self::Nightly => {
                let mut command = other("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Self::Debian => {
                let mut command = other("/usr/bin/cargo");
                // `-Z build-std` is for nightlies; the compiler is as capable as one, and this makes it say so.
                command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup's nightly",
            Self::Debian => "Debian's rustc-web",
        })
    }
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
}
