//! IPv4 settings of an interface, or of a namespace. What a setting was before is put on record before it is changed, and put back when it is
//! no longer wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Context;
use super::ledger::Kind;
use crate::kernel::file;

/// Where settings can be written: in a container `/proc/sys` is read-only, and deploy/ mounts the node's beside it. Whichever
/// it is, it shows those of the namespace that the thread is in (`net_ctl_header_lookup`, `net/sysctl_net.c`).
static SETTINGS: LazyLock<&Path> = LazyLock::new(|| {
    let [host, own] = ["/host/proc/sys/net/ipv4", "/proc/sys/net/ipv4"].map(Path::new);
    if host.is_dir() { host } else { own }
});

/// A setting below `net.ipv4`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Whose it is below `net.ipv4.conf`; empty for one of the namespace, which agents that know of none such take for a device that is gone.
    pub(crate) device: String,
    pub(crate) key: String,
}

impl Setting {
    /// The setting `key` of `device`.
    pub(crate) fn new(device: &str, key: &str) -> Self {
        Self { device: device.into(), key: key.into() }
    }

    /// The setting `key` of the namespace.
    pub(crate) fn of_netns(key: &str) -> Self {
        Self { device: String::new(), key: key.into() }
    }

    fn is_of_netns(&self) -> bool {
        self.device.is_empty()
    }

    fn path(&self) -> PathBuf {
        if self.is_of_netns() {
            SETTINGS.join(&self.key)
        } else {
            SETTINGS.join("conf").join(&self.device).join(&self.key)
        }
    }
}

/// As `sysctl` names it; a dot in a device's name is a slash there.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_of_netns() {
            write!(f, "net.ipv4.{}", self.key)
        } else {
            write!(f, "net.ipv4.conf.{}.{}", self.device.replace('.', "/"), self.key)
        }
    }
}

/// What a setting was, and what the agent made of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) setting: Setting,
    /// Index of the device: another of the same name has settings of its own. 0 for one of the namespace.
    pub(crate) index: u32,
    pub(crate) original: String,
    pub(crate) set: String,
}

/// Makes the `desired` settings stand; puts back those that the agent changed and that are not desired any more.
pub(crate) fn converge(context: &mut Context<'_>, desired: &BTreeMap<Setting, String>) -> anyhow::Result<()> {
    restore(context, desired)?;
    let mut changes = Vec::new();
    for (setting, want) in desired {
        let Some(index) = index(context, setting)? else { continue };
        let Some(original) = read(context, setting)?.filter(|have| have != want) else { continue };
        changes.push(Saved { setting: setting.clone(), index, original, set: want.clone() });
    }
    let netns = context.netns.id();
    context.record.save_sysctls(netns, &changes)?;
    for Saved { setting, original, set, .. } in changes {
        let outcome = write(context, &setting, &set);
        context.ledger.mend(Kind::Sysctl, &setting.to_string(), original, &format!("set to {set}"), outcome);
    }
    Ok(())
}

fn restore(context: &mut Context<'_>, desired: &BTreeMap<Setting, String>) -> anyhow::Result<()> {
    let netns = context.netns.id();
    let mut done = Vec::new();
    for saved in context.record.saved_sysctls(netns) {
        let same_device = index(context, &saved.setting)? == Some(saved.index);
        if same_device && desired.contains_key(&saved.setting) {
            continue;
        }
        // Somebody who has written since then meant it.
        let untouched = same_device && read(context, &saved.setting)?.as_ref() == Some(&saved.set);
        if untouched && saved.original != saved.set {
            let outcome = write(context, &saved.setting, &saved.original);
            let what = format!("put back to {}", saved.original);
            if !context.ledger.book(Kind::Sysctl, &saved.setting.to_string(), &what, outcome) {
                continue;
            }
        }
        done.push(saved);
    }
    context.record.forget_sysctls(netns, &done)
}

/// The index of the setting's device, if that is there.
fn index(context: &mut Context<'_>, setting: &Setting) -> anyhow::Result<Option<u32>> {
    if setting.is_of_netns() {
        return Ok(Some(0));
    }
    Ok(context.link(&setting.device)?.map(|link| link.index))
}

/// The setting's value, its parts a space apart; `None` when its device has just gone.
fn read(context: &Context<'_>, setting: &Setting) -> anyhow::Result<Option<String>> {
    match context.netns.run(|| fs::read_to_string(setting.path()))? {
        Ok(text) => Ok(Some(text.split_whitespace().collect::<Vec<_>>().join(" "))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {setting}")),
    }
}

fn write(context: &Context<'_>, setting: &Setting, value: &str) -> anyhow::Result<()> {
    let hint = || {
        format!(
            "write {} (is /proc/sys mounted read-only, and the node's not at /host/proc/sys/net?)",
            setting.path().display()
        )
    };
    context.netns.run(|| file::write(&setting.path(), value))?.with_context(hint)
}
