//! Debian's archive, by apt with sources and state of our own: other releases' packages, and sources, never become known to
//! the machine's apt. The mirror is the one that the machine uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lock::Lock;
use crate::{packages, process, progress};

/// Older lists name packages that may be gone.
const VALID: Duration = Duration::from_hours(1);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What is wanted of the archive.
pub(crate) struct Suites {
    /// Suites on the ordinary mirror.
    pub(crate) ordinary: &'static [&'static str],
    /// Suites on the mirror of security updates.
    pub(crate) security: &'static [&'static str],
    /// Packages, and source packages if they are wanted too.
    pub(crate) kinds: &'static [&'static str],
}

/// An apt of our own, held alone while the value lives.
pub(crate) struct Apt {
    folder: PathBuf,
    _lock: Lock,
}

impl Apt {
    /// The apt that keeps its state in `folder`. Fetches the lists of the suites, unless that was done a short while ago.
    pub(crate) fn open(folder: &Path, suites: &Suites) -> Result<Self> {
        let folder = folder.canonicalize().with_context(|| format!("find {}", folder.display()))?;
        let apt = Self { _lock: Lock::take(&folder.join("lock"))?, folder };
        apt.update(suites)?;
        Ok(apt)
    }

    /// `apt-get` or `apt-cache`.
    pub(crate) fn command(&self, program: &str) -> Command {
        let apt = self.folder.display();
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
        command
    }

    fn update(&self, suites: &Suites) -> Result<()> {
        let stamp = self.folder.join("updated");
        let age = stamp.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age < VALID) {
            return Ok(());
        }
        let names = [suites.ordinary, suites.security].concat().join(", ");
        progress::say(format!("fetching the package lists of {names}"));
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.folder.join(folder)).with_context(|| format!("create {folder}"))?;
        }
        fs::write(self.folder.join("sources.list"), sources(suites)?).context("write the list of sources")?;
        process::quiet(self.command("apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
        fs::write(stamp, "").context("note that the lists are there")
    }
}

fn sources(suites: &Suites) -> Result<String> {
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
    Ok(lines(suites, mirror, &security))
}

fn lines(suites: &Suites, mirror: &str, security: &str) -> String {
    let ordinary = suites.ordinary.iter().map(|suite| (mirror, suite));
    let all = ordinary.chain(suites.security.iter().map(|suite| (security, suite)));
    let line =
        |kind: &str, uri: &str, suite: &str| format!("{kind} [arch=amd64 signed-by={KEYRING}] {uri} {suite} main\n");
    all.flat_map(|(uri, suite)| suites.kinds.iter().map(move |kind| line(kind, uri, suite))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_that_of_the_release() {
        let targets = "nodistro http://other/x/\nbookworm-security http://a/sec/\nbookworm http://a/debian/\n";
        assert_eq!(mirror(targets, "bookworm"), Some("http://a/debian"));
        assert_eq!(mirror_of_security(targets, "bookworm").as_deref(), Some("http://a/sec"));
    }

    #[test]
    fn every_suite_is_listed_once_per_kind() {
        let suites = Suites { ordinary: &["a"], security: &["a-security"], kinds: &["deb", "deb-src"] };
        let text = lines(&suites, "http://m/debian", "http://m/security");
        let words = |line: &str| line.replace(&format!("[arch=amd64 signed-by={KEYRING}] "), "");
        let lines: Vec<String> = text.lines().map(words).collect();
        assert_eq!(lines[..2], ["deb http://m/debian a main", "deb-src http://m/debian a main"]);
        assert_eq!(lines[2..], ["deb http://m/security a-security main", "deb-src http://m/security a-security main"]);
    }
}
