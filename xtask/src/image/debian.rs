//! The image's Debian: packages unpacked and not installed. Nothing of theirs is run, there is no package manager inside, and
//! each file is as Debian built it; `/var/lib/dpkg/status.d` names them, for scanners that look for known faults.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::apt::{Apt, Suites};
use crate::{process, progress};

const SUITES: Suites = Suites { ordinary: &["bookworm"], security: &["bookworm-security"], kinds: &["deb"] };

/// iptables, ipset and nft for the agent; a shell, mount, stat and sleep for deploy/; what they are linked with, and whose licences
/// those refer to. Complete: [`super::root::verify`] starts each program.
#[rustfmt::skip]
const PACKAGES: &[&str] = &[
    "base-files", "coreutils", "dash", "gcc-12-base", "ipset", "iptables", "libacl1", "libattr1", "libblkid1", "libbsd0", "libc6",
    "libcrypt1", "libedit2", "libgcc-s1", "libgmp10", "libip4tc2", "libip6tc2", "libipset13", "libjansson4", "libmd0", "libmnl0", "libmount1",
    "libnetfilter-conntrack3", "libnfnetlink0", "libnftables1", "libnftnl11", "libpcre2-8-0", "libselinux1", "libsmartcols1",
    "libtinfo6", "libxtables12", "mount", "netbase", "nftables",
];

/// One `/usr`, as Debian has it once it is installed.
const MERGED: &[(&str, &str)] = &[("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

/// What nobody in a container reads or runs. The licences stay.
#[rustfmt::skip]
const DROPPED: &[&str] = &[
    "etc/default", "etc/dpkg", "etc/init.d", "etc/profile.d", "etc/update-motd.d", "root", "usr/games", "usr/lib/systemd", "usr/lib/x86_64-linux-gnu/audit",
    "usr/lib/x86_64-linux-gnu/gconv", "usr/local", "usr/share/base-files", "usr/share/bash-completion", "usr/share/bug", "usr/share/debianutils", "usr/share/dict", "usr/share/gcc",
    "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/menu", "usr/share/misc", "usr/src", "var/backups", "var/local", "var/mail", "var/spool",
];

/// Puts them into `root`. What was downloaded before is in `packages`.
pub(super) fn unpack(apt: &Path, packages: &Path, root: &Path) -> Result<()> {
    let files = download(apt, packages)?;
    progress::say(format!("unpacking {} Debian packages", files.len()));
    for (path, target) in MERGED {
        fs::create_dir_all(root.join(target))?;
        symlink(target, root.join(path)).with_context(|| format!("link /{path}"))?;
    }
    for file in &files {
        extract(file, root)?;
        describe(file, root)?;
    }
    for path in DROPPED {
        let path = root.join(path);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    keep_licences(&root.join("usr/share/doc"))
}

/// The packages' files, in order. Older versions, downloaded before, are removed.
fn download(apt: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let apt = Apt::open(apt, &SUITES)?;
    let query = apt.command("apt-get").args(["download", "--print-uris"]).args(PACKAGES).stdin(Stdio::null()).output();
    let query = query.context("start apt-get")?;
    ensure!(query.status.success(), "apt-get knows not all of {}", PACKAGES.join(" "));
    let names = names(&String::from_utf8_lossy(&query.stdout));
    ensure!(names.len() == PACKAGES.len(), "apt-get names {} of {} packages", names.len(), PACKAGES.len());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !names.contains(&entry.file_name().to_string_lossy().into_owned()) {
            fs::remove_file(entry.path())?;
        }
    }
    if names.iter().any(|name| !folder.join(name).exists()) {
        progress::say("downloading the image's Debian packages");
        process::quiet(apt.command("apt-get").current_dir(folder).arg("download").args(PACKAGES))?;
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// The second word of each line, `'URI' NAME SIZE HASH`.
fn names(listing: &str) -> Vec<String> {
    let mut names: Vec<String> =
        listing.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect();
    names.sort();
    names
}

/// By tar, as `dpkg --unpack` does it: a package's `/lib` goes where our link leads.
fn extract(package: &Path, root: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("--fsys-tarfile").arg(package).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut dpkg = dpkg.spawn().context("start dpkg-deb")?;
    let stream = dpkg.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--keep-directory-symlink", "--same-permissions", "--numeric-owner", "--file=-"]);
    let tar = tar.arg("--directory").arg(root).stdin(stream).status().context("start tar")?;
    let dpkg = dpkg.wait().context("wait for dpkg-deb")?;
    ensure!(tar.success() && dpkg.success(), "{} cannot be unpacked", package.display());
    Ok(())
}

fn describe(package: &Path, root: &Path) -> Result<()> {
    let folder = root.join("var/lib/dpkg/status.d");
    fs::create_dir_all(&folder)?;
    let text = process::output(Command::new("dpkg-deb").arg("--field").arg(package))?;
    let name = text.lines().find_map(|line| line.strip_prefix("Package: ")).context("a package has a name")?;
    fs::write(folder.join(name), &text).with_context(|| format!("describe {name}"))
}

/// Of each package's documentation; a folder can be a link to that of a package of the same source.
fn keep_licences(doc: &Path) -> Result<()> {
    for package in fs::read_dir(doc).with_context(|| format!("list {}", doc.display()))? {
        let package = package?;
        if !package.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(package.path())? {
            let file = file?;
            match (file.file_name() == "copyright", file.file_type()?.is_dir()) {
                (true, _) => {}
                (false, true) => fs::remove_dir_all(file.path())?,
                (false, false) => fs::remove_file(file.path())?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_sorted_and_once() {
        assert!(PACKAGES.is_sorted_by(|a, b| a < b));
        assert!(DROPPED.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn files_are_named_as_they_are_stored() {
        let listing = "'http://m/pool/b_2_amd64.deb' b_2_amd64.deb 10 SHA256:1\n'http://m/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 10 SHA256:2\n";
        assert_eq!(names(listing), ["a_1%3a2_amd64.deb", "b_2_amd64.deb"]);
    }
}
