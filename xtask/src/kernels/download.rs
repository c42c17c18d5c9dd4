//! Gets a kernel's packages from Debian's archive: which ones make a kernel, and which is the newest.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::apt::{Apt, Suites};
use crate::{process, progress};

/// Where the series of the matrix are.
const SUITES: Suites = Suites {
    ordinary: &["bullseye", "bookworm", "trixie-backports"],
    security: &["bookworm-security"],
    kinds: &["deb"],
};
/// Without drivers for hardware: a third of the size.
const FLAVOUR: &str = "-cloud-amd64";
/// What a kernel is split into; newer ones have all of them, older ones only the first.
const PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];

/// Downloads the packages of the newest kernel whose version starts with `prefix`; returns its release.
pub(crate) fn get(apt: &Path, packages: &Path, prefix: &str) -> Result<String> {
    let stamp = packages.join("release");
    if let Ok(release) = fs::read_to_string(&stamp) {
        return Ok(release);
    }
    let apt = Apt::open(apt, &SUITES)?;
    let names = process::output(apt.command("apt-cache").args(["pkgnames", "linux-"]))?;
    let names: Vec<&str> = names.lines().collect();
    let release = newest(&names, prefix).ok_or_else(|| anyhow!("no suite has a kernel {prefix}*{FLAVOUR}"))?;
    progress::say(format!("downloading kernel {release}"));
    fs::create_dir_all(packages).with_context(|| format!("create {}", packages.display()))?;
    let wanted = PARTS.map(|part| format!("{part}{release}"));
    let wanted = wanted.iter().filter(|package| names.contains(&package.as_str()));
    process::quiet(apt.command("apt-get").current_dir(packages).arg("download").args(wanted))?;
    fs::write(&stamp, &release).with_context(|| format!("write {}", stamp.display()))?;
    Ok(release)
}

/// The release with the highest version among the packages.
fn newest(names: &[&str], prefix: &str) -> Option<String> {
    let releases = names.iter().filter_map(|name| name.strip_prefix(PARTS[0]));
    let releases = releases.filter(|release| release.starts_with(prefix) && release.ends_with(FLAVOUR));
    releases.max_by_key(|release| numbers(release)).map(str::to_owned)
}

/// The numbers in a version, in order: `5.10.0-32` is 5, 10, 0, 32.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_compares_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.200+deb12-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-headers-6.12.300+deb12-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ];
        assert_eq!(newest(&names, "6.12.").as_deref(), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(&names, "6.1.").as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(newest(&names, "5.10."), None);
    }
}
