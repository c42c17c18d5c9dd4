//! The part of a guest's file system that is the same for every kernel and every build: the host's tools and what they need.
//! It is written once per state of the host's packages.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::libraries;
use super::tree::Tree;
use crate::lock::Lock;
use crate::workspace::Workspace;
use crate::{process, progress};

/// Debian packages whose programs and plug-ins a guest has.
#[rustfmt::skip]
const WHOLE: &[&str] = &[
    "bash", "bpftool", "conntrack", "coreutils", "dash", "diffutils", "ethtool", "findutils", "grep", "hostname", "ipset",
    "iproute2", "iptables", "iputils-ping", "ipvsadm", "kmod", "libc-bin", "mawk", "netbase", "nftables", "procps", "sed", "tcpdump",
];
/// Single programs of packages that are too large.
const PROGRAMS: &[&str] = &["dmesg", "flock", "mount", "nsenter", "prlimit", "setpriv", "timeout", "umount", "unshare"];
const CNI_PLUGINS: &[&str] = &["bridge", "host-local", "loopback", "portmap", "ptp"];
const CNI: &str = "/usr/lib/cni";
/// What of a package's files is taken: programs, tables of names, and plug-ins that are loaded by name at run time.
const TAKEN: &[&str] =
    &["/bin/", "/sbin/", "/etc/iproute2/", "/xtables/", "/usr/lib/tc/", "/etc/protocols", "/etc/services"];
/// Debian's defaults of what `update-alternatives` links, without the links of links.
const ALTERNATIVES: &[(&str, &str)] = &[
    ("/usr/bin/awk", "mawk"),
    ("/usr/sbin/iptables", "iptables-nft"),
    ("/usr/sbin/iptables-save", "iptables-nft-save"),
    ("/usr/sbin/iptables-restore", "iptables-nft-restore"),
    ("/usr/sbin/ip6tables", "ip6tables-nft"),
    ("/usr/sbin/ip6tables-save", "ip6tables-nft-save"),
    ("/usr/sbin/ip6tables-restore", "ip6tables-nft-restore"),
];
const MERGED: &[(&str, &str)] = &[
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
    ("/var/run", "../run"),
    ("/opt/cni/bin", CNI),
];
// tcpdump gives up root for a user of its own.
const USERS: &str =
    "root:x:0:0:root:/root:/bin/bash\ntcpdump:x:100:100::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
const GROUPS: &str = "root:x:0:\ntcpdump:x:100:\nnogroup:x:65534:\n";

/// The written archive. Nobody replaces it while this is held.
pub(super) struct Tools {
    _lock: Lock,
    pub(super) archive: PathBuf,
    /// What is in it.
    pub(super) paths: BTreeSet<String>,
}

/// The archive, from the cache or written now.
pub(super) fn get(workspace: &Workspace) -> Result<Tools> {
    let folder = workspace.cache("vm/tools")?;
    let lock = Lock::take(&folder.join("lock"))?;
    let key = key()?;
    let archive = folder.join(format!("{key:016x}.cpio"));
    let list = folder.join(format!("{key:016x}.list"));
    if !list.exists() {
        progress::say("collecting the guest's tools");
        discard_older(&folder)?;
        write(&archive, &list)?;
    }
    let paths = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    Ok(Tools { _lock: lock, archive, paths: paths.lines().map(str::to_owned).collect() })
}

/// Changes with the host's packages, and with this program (the lists above).
fn key() -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for path in [PathBuf::from("/var/lib/dpkg/status"), std::env::current_exe().context("find this program")?] {
        let metadata = fs::metadata(&path).with_context(|| format!("read {}", path.display()))?;
        metadata.len().hash(&mut hasher);
        metadata.modified().context("time of a file")?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn discard_older(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cpio" || extension == "list") {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn write(archive: &Path, list: &Path) -> Result<()> {
    let tree = tree()?;
    let file = File::create(archive).with_context(|| format!("create {}", archive.display()))?;
    tree.write(BufWriter::new(file))?;
    // Written last: it says that the archive is whole.
    fs::write(list, tree.paths().collect::<Vec<_>>().join("\n")).with_context(|| format!("write {}", list.display()))
}

fn tree() -> Result<Tree> {
    let mut tree = Tree::default();
    for (path, target) in MERGED.iter().chain(ALTERNATIVES) {
        tree.symlink(path, target);
    }
    let listing = process::output(Command::new("dpkg-query").arg("-L").args(WHOLE))?;
    for file in listing.lines().filter(|file| is_taken(file)).map(Path::new) {
        // A package's list has folders too, and files that the machine was told not to install.
        if file.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
            tree.copy(file)?;
        }
    }
    for program in PROGRAMS {
        tree.copy(&process::find(program)?)?;
    }
    for plugin in CNI_PLUGINS {
        tree.copy(&Path::new(CNI).join(plugin))?;
    }
    tree.text("/etc/passwd", USERS);
    tree.text("/etc/group", GROUPS);
    tree.text("/etc/hosts", "127.0.0.1 localhost guest\n");
    tree.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
    for folder in ["/root", "/proc", "/sys", "/dev", "/run", "/tmp", "/var/lib", "/var/log"] {
        tree.dir(folder);
    }
    libraries::add(&mut tree, &BTreeSet::new())?;
    Ok(tree)
}

fn is_taken(file: &str) -> bool {
    TAKEN.iter().any(|part| file.contains(part))
}
