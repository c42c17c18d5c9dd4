//! The kernels that the guests boot: which ones, and each unpacked under the target directory, once. Getting the packages is
//! [`download`]'s part, choosing modules is [`modules`]'s.

mod download;
mod modules;
mod unpack;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::lock::Lock;
use crate::progress;
use crate::workspace::Workspace;

/// A line of kernels, of which Debian's newest patch version is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Series {
    /// What it is called on command lines and in results.
    pub(crate) name: &'static str,
    /// What the version of a package of the series starts with.
    prefix: &'static str,
}

/// Oldest first. The first is the oldest that is supported (`bpf_redirect_neigh` is of 5.10).
pub(crate) const MATRIX: [Series; 4] = [
    Series { name: "5.10", prefix: "5.10." },
    Series { name: "6.1", prefix: "6.1." },
    Series { name: "6.12", prefix: "6.12." },
    Series { name: "7.x", prefix: "7." },
];

/// What folders of unpacked kernels are called; a fingerprint follows.
const UNPACKED: &str = "guest-";

/// What a guest boots when nothing else is asked for.
pub(crate) const DEFAULT: Series = MATRIX[2];

impl std::str::FromStr for Series {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = || MATRIX.map(|series| series.name).join(", ");
        // `7.3` means the series that it is of, of which there is one version.
        let found = MATRIX.iter().find(|series| series.name == name || name.starts_with(series.prefix));
        found.copied().ok_or_else(|| anyhow!("no kernel `{name}`: there are {}", known()))
    }
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) series: Series,
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// The image, for QEMU.
    pub(crate) image: PathBuf,
    /// Root of a tree `lib/modules/RELEASE` with the modules that the guest needs, and no others.
    pub(crate) modules_root: PathBuf,
    /// Paths of modules below `lib/modules/RELEASE`, in the order in which they must be loaded.
    pub(crate) load_order: Vec<String>,
}

impl Kernel {
    /// The kernel of a series: from the cache, or downloaded and unpacked.
    pub(crate) fn get(workspace: &Workspace, series: Series) -> Result<Self> {
        let cache = workspace.cache("vm/kernels")?;
        let _lock = Lock::take(&cache.join(format!("{}.lock", series.name)))?;
        let folder = workspace.cache(&format!("vm/kernels/{}", series.name))?;
        // Changing the list of modules in the code must not need a download.
        let unpacked = folder.join(format!("{UNPACKED}{:016x}", modules::fingerprint()));
        if !unpacked.join(unpack::COMPLETE).exists() {
            let packages = Workspace::kept(&format!("kernels/{}", series.name))?;
            // Of the packages, between checkouts; the one above is of what is unpacked in this one.
            let _lock = Lock::take(&packages.join("lock"))?;
            let release = download::get(&Workspace::kept("apt/kernels")?, &packages, series.prefix)?;
            progress::say(format!("unpacking kernel {}: {release}", series.name));
            discard_older(&folder)?;
            unpack::unpack(&packages, &release, &unpacked).with_context(|| format!("unpack kernel {release}"))?;
        }
        Self::read(series, &unpacked)
    }

    fn read(series: Series, unpacked: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = unpacked.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        Ok(Self {
            series,
            release: read(unpack::RELEASE)?.trim().to_owned(),
            image: unpacked.join(unpack::IMAGE),
            modules_root: unpacked.to_owned(),
            load_order: read(unpack::LOAD_ORDER)?.lines().map(str::to_owned).collect(),
        })
    }
}

/// What earlier lists of modules needed.
fn discard_older(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNPACKED) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_name_and_by_version() {
        for (name, expected) in [("6.1", "6.1"), ("6.12", "6.12"), ("6.12.117", "6.12"), ("7.x", "7.x"), ("7.3", "7.x")]
        {
            assert_eq!(name.parse::<Series>().unwrap().name, expected);
        }
        assert!("6.2".parse::<Series>().unwrap_err().to_string().contains("5.10, 6.1, 6.12, 7.x"));
    }
}
