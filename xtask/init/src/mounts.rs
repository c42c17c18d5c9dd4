//! The file systems of a node.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// Where, what kind, and options.
const MOUNTS: [(&str, &str, Option<&str>); 11] = [
    ("/proc", "proc", None),
    ("/sys", "sysfs", None),
    ("/dev", "devtmpfs", None),
    ("/dev/pts", "devpts", Some("ptmxmode=666")),
    ("/dev/shm", "tmpfs", None),
    ("/run", "tmpfs", Some("mode=755")),
    ("/tmp", "tmpfs", None),
    ("/sys/fs/cgroup", "cgroup2", None),
    ("/sys/fs/bpf", "bpf", Some("mode=700")),
    ("/sys/kernel/debug", "debugfs", None),
    ("/sys/kernel/tracing", "tracefs", None),
];

/// What tools expect to find.
const FOLDERS: [&str; 3] = ["/run/lock", "/run/netns", "/var/lib/cni"];

/// A process's own open files, as on any node: where TOMOYO is on, Linux before 6.1 runs a program by its descriptor only if it finds
/// it here (`tomoyo_find_next_domain`, `security/tomoyo/domain.c`), and that is how runc runs itself.
const LINKS: [(&str, &str); 1] = [("/dev/fd", "/proc/self/fd")];

/// Mounts them all.
pub(crate) fn mount_all() -> Result<()> {
    for (place, kind, options) in MOUNTS {
        // In sysfs and debugfs the places are there already, and cannot be made.
        if !fs::exists(place).unwrap_or(false) {
            fs::create_dir_all(place).with_context(|| format!("create {place}"))?;
        }
        mount(Some(kind), place, Some(kind), MsFlags::empty(), options).with_context(|| format!("mount {place}"))?;
    }
    for folder in FOLDERS {
        fs::create_dir_all(folder).with_context(|| format!("create {folder}"))?;
    }
    for (link, target) in LINKS {
        symlink(target, link).with_context(|| format!("create {link}"))?;
    }
    Ok(())
}
