//! Gets a kernel's packages from Debian's archive by apt, with sources and state of our own: other releases' packages
//! never become known to the machine's apt. The mirror is the one that the machine uses.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::lock::Lock;
use crate::{packages, process, progress};

/// Where the series of the matrix are. Security suites are on another mirror.
const SUITES: [&str; 3] = ["bullseye", "bookworm", "trixie-backports"];
const SECURITY_SUITES: [&str; 1] = ["bookworm-security"];
/// Older lists name packages that may be gone.
const VALID: Duration = Duration::from_hours(1);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
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
    let _lock = Lock::take(&apt.join("lock"))?;
    update(apt)?;
    let names = process::output(private(apt, "apt-cache")?.args(["pkgnames", "linux-"]))?;
    let names: Vec<&str> = names.lines().collect();
    let release = newest(&names, prefix).ok_or_else(|| anyhow!("no suite has a kernel {prefix}*{FLAVOUR}"))?;
    progress::say(format!("downloading kernel {release}"));
    fs::create_dir_all(packages).with_context(|| format!("create {}", packages.display()))?;
    let wanted = PARTS.map(|part| format!("{part}{release}"));
    let wanted = wanted.iter().filter(|package| names.contains(&package.as_str()));
    process::quiet(private(apt, "apt-get")?.current_dir(packages).arg("download").args(wanted))?;
    fs::write(&stamp, &release).with_context(|| format!("write {}", stamp.display()))?;
    Ok(release)
}

/// Fetches the lists of the suites, unless a kernel before this one did a short while ago.
fn update(apt: &Path) -> Result<()> {
    let stamp = apt.join("updated");
    let age = stamp.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
    if age.is_some_and(|age| age < VALID) {
        return Ok(());
    }
    progress::say("fetching the package lists that have the guests' kernels");
    for folder in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(folder)).with_context(|| format!("create {folder}"))?;
    }
    fs::write(apt.join("sources.list"), sources()?).context("write the list of sources")?;
    process::quiet(private(apt, "apt-get")?.args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
    fs::write(stamp, "").context("note that the lists are there")
}

fn sources() -> Result<String> {
    let system = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release has no VERSION_CODENAME")?;
    let mut targets = targets()?;
    if mirror(&targets, codename).is_none() {
        // apt tells only of what it has lists of, and images of fresh machines come without.
        packages::update()?;
        targets = self::targets()?;
    }
    let mirror = mirror(&targets, codename).with_context(|| format!("apt has no source for {codename}"))?;
    let security = mirror_of_security(&targets, codename).unwrap_or_else(|| format!("{mirror}-security"));
    let line = |uri: &str, suite: &str| format!("deb [arch=amd64 signed-by={KEYRING}] {uri} {suite} main\n");
    let lines = SUITES.iter().map(|suite| line(mirror, suite));
    Ok(lines.chain(SECURITY_SUITES.iter().map(|suite| line(&security, suite))).collect())
}

/// The machine's own sources: a release and its URI per line.
fn targets() -> Result<String> {
    process::output(Command::new("apt-get").args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"]))
}

fn mirror<'a>(targets: &'a str, release: &str) -> Option<&'a str> {
    let pairs = targets.lines().filter_map(|line| line.split_once(' '));
    pairs.filter(|(name, _)| *name == release).map(|(_, uri)| uri.trim_end_matches('/')).next()
}

fn mirror_of_security(targets: &str, codename: &str) -> Option<String> {
    mirror(targets, &format!("{codename}-security")).map(str::to_owned)
}

/// `apt-get` or `apt-cache`, on our own sources and state.
fn private(apt: &Path, program: &str) -> Result<Command> {
    let apt = apt.canonicalize().with_context(|| format!("find {}", apt.display()))?;
    let apt = apt.display();
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8").arg("-qq");
    for option in [
        format!("Dir::Etc::sourcelist={apt}/sources.list"),
        format!("Dir::State::lists={apt}/lists"),
        format!("Dir::Cache={apt}/cache"),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        "Acquire::Retries=3".to_owned(),
        "Dir::Etc::preferences=/dev/null".to_owned(),
        "Dir::Etc::preferencesparts=/dev/null".to_owned(),
        // The cache is root's: apt's own unprivileged user could not write there, and says so every time.
        "APT::Sandbox::User=root".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    Ok(command)
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

    #[test]
    fn mirror_is_that_of_the_release() {
        let targets = "nodistro http://other/x/\nbookworm-security http://a/sec/\nbookworm http://a/debian/\n";
        assert_eq!(mirror(targets, "bookworm"), Some("http://a/debian"));
        assert_eq!(mirror_of_security(targets, "bookworm").as_deref(), Some("http://a/sec"));
    }
}
