//! What is set on a node before anything runs: modules, kernel settings, limits, its name, its loopback.

use std::fs::{self, File};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::unistd::sethostname;
use redirect_init::places::MODULES;

/// As systemd sets them on Debian (`/usr/lib/sysctl.d/50-default.conf`), because they decide about forwarding.
const SETTINGS: [(&str, &str); 5] = [
    ("net/ipv4/conf/all/rp_filter", "2"),
    ("net/ipv4/conf/default/rp_filter", "2"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/default/promote_secondaries", "1"),
    ("net/ipv4/conf/all/promote_secondaries", "1"),
];
const OPEN_FILES: u64 = 1 << 20;

/// Loads all modules, and names all that fail.
pub(crate) fn load_modules() -> Result<()> {
    let list = fs::read_to_string(MODULES).with_context(|| format!("read {MODULES}"))?;
    let failed: Vec<String> = list.lines().filter_map(|path| load(path).err()).map(|e| format!("{e:#}")).collect();
    ensure!(failed.is_empty(), "modules cannot be loaded: {}", failed.join("; "));
    Ok(())
}

fn load(path: &str) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {path}"))?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        // The kernel may have asked for it itself, by an alias, while an earlier one was loaded.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => bail!("{path}: {error}"),
    }
}

/// Sets everything else.
pub(crate) fn apply() -> Result<()> {
    for (name, value) in SETTINGS {
        let path = format!("/proc/sys/{name}");
        fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    sethostname("guest").context("set the host name")?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).context("raise the limit of open files")?;
    // Before 5.11 BPF maps count as locked memory.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).context("raise the limit of locked memory")?;
    let up = Command::new("/usr/sbin/ip").args(["link", "set", "lo", "up"]).status().context("start ip")?;
    ensure!(up.success(), "`ip link set lo up` failed: {up}");
    Ok(())
}
