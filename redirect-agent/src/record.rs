//! What the agent must not forget between two runs: settings as they were before it, and what it made that does not say so
//! itself. Kept on tmpfs, as the things themselves live no longer than the kernel; written before the thing is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::enrol::Known;
use crate::kernel::file;
use crate::kernel::netns::NetnsId;
use crate::proxy::Proxy;
use crate::resources::chain::backend::Backend;
use crate::resources::chain::residue::Made;
use crate::resources::guard::Family;
use crate::resources::route::Route;
use crate::resources::sysctl::Saved;

/// Raised when the file's meaning changes; another version's file is refused, not guessed at.
const VERSION: u32 = 1;

#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Data {
    version: u32,
    /// The kernel's boot id: nothing on record outlives a boot.
    boot: String,
    /// The node's namespace: everything else on record was found from there.
    node: Option<NetnsId>,
    /// Where chains of ours may stand: one backend, and two while the host changes over.
    backends: Vec<Backend>,
    /// Modes of which something may stand; a record from before there were two has none, and means iptables.
    #[serde(default)]
    modes: Vec<Mode>,
    proxy: Option<Proxy>,
    /// Where that proxy's tunnels end on the node.
    node_ip: Option<Ipv4Addr>,
    /// Which guards may stand; a new record does not know.
    #[serde(default)]
    guards: BTreeMap<Family, bool>,
    /// The addresses with which pods were meshed last.
    #[serde(default)]
    known: Known,
    /// Namespaces of former proxies that still hold something of ours.
    retired: Vec<NetnsId>,
    /// Namespaces other than the node's in which something was made.
    touched: BTreeSet<NetnsId>,
    /// Keyed by the namespace; a list, as JSON has no other keys than text.
    netns: Vec<(NetnsId, Kept)>,
}

/// What is kept for one namespace.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    sysctls: Vec<Saved>,
    routes: BTreeSet<Route>,
    made: BTreeSet<Made>,
    /// Devices that we gave a `clsact` qdisc.
    #[serde(default)]
    qdiscs: BTreeSet<u32>,
    /// Those of them that had no queue until then.
    #[serde(default)]
    unqueued: BTreeSet<u32>,
}

/// The record, and the file that holds it.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    data: Data,
}

impl Record {
    /// Reads the record in `directory`, or begins one for the node whose namespace is `node`.
    ///
    /// # Errors
    /// It is there and cannot be read, or is of another namespace: going on would forget what has to be put back.
    pub(crate) fn open(directory: &Path, node: NetnsId) -> anyhow::Result<Self> {
        let path = directory.join("record.json");
        let fresh = Data { version: VERSION, boot: boot_id()?, node: Some(node), ..Data::default() };
        let data = match fs::read(&path) {
            Ok(bytes) => decode(&bytes, fresh).with_context(|| format!("record {}", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => fresh,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        anyhow::ensure!(
            data.node == Some(node),
            "the record {} is of another network namespace; run this in the node's own",
            path.display()
        );
        Ok(Self { path, data })
    }

    /// Where the file is.
    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// The proxy that was programmed last.
    pub(crate) fn proxy(&self) -> Option<&Proxy> {
        self.data.proxy.as_ref()
    }

    /// The node's address that its tunnels end at.
    pub(crate) fn node_ip(&self) -> Option<Ipv4Addr> {
        self.data.node_ip
    }

    /// Notes which proxy is programmed; a former one's namespace is put among the retired.
    pub(crate) fn set_proxy(&mut self, proxy: &Proxy, node_ip: Option<Ipv4Addr>) -> anyhow::Result<()> {
        self.change(|data| {
            data.node_ip = node_ip;
            if let Some(former) = data.proxy.replace(proxy.clone()).filter(|former| former.netns != proxy.netns) {
                data.retired.push(former.netns);
            }
            data.retired.retain(|netns| *netns != proxy.netns);
        })
    }

    /// The addresses with which pods were meshed last.
    pub(crate) fn known(&self) -> &Known {
        &self.data.known
    }

    /// Notes them; those of others are forgotten.
    pub(crate) fn set_known(&mut self, known: Known) -> anyhow::Result<()> {
        if self.data.known == known { Ok(()) } else { self.change(|data| data.known = known) }
    }

    /// Namespaces of former proxies.
    pub(crate) fn retired(&self) -> Vec<NetnsId> {
        self.data.retired.clone()
    }

    /// Notes a namespace before anything is made in it.
    pub(crate) fn touch(&mut self, netns: NetnsId) -> anyhow::Result<()> {
        self.change(|data| {
            data.touched.insert(netns);
        })
    }

    /// Whether something may have been made in the namespace.
    pub(crate) fn touched(&self, netns: NetnsId) -> bool {
        self.data.touched.contains(&netns)
    }

    /// Nothing of ours is left in the namespace.
    pub(crate) fn forget_netns(&mut self, netns: NetnsId) -> anyhow::Result<()> {
        self.change(|data| {
            data.retired.retain(|retired| *retired != netns);
            data.touched.remove(&netns);
            data.netns.retain(|(id, _)| *id != netns);
        })
    }

    /// Whether the guard of a family may stand.
    pub(crate) fn may_have_guard(&self, family: Family) -> bool {
        self.data.guards.get(&family).copied().unwrap_or(true)
    }

    /// Whether it was made.
    pub(crate) fn has_guard(&self, family: Family) -> bool {
        self.data.guards.get(&family) == Some(&true)
    }

    /// Notes whether it may.
    pub(crate) fn set_guard(&mut self, family: Family, may_stand: bool) -> anyhow::Result<()> {
        self.change(|data| {
            data.guards.insert(family, may_stand);
        })
    }

    /// The modes of which something may stand.
    pub(crate) fn modes(&self) -> Vec<Mode> {
        match self.data.modes.as_slice() {
            [] if !self.data.backends.is_empty() => vec![Mode::Iptables],
            modes => modes.to_vec(),
        }
    }

    /// Notes a mode before anything of it is made.
    pub(crate) fn add_mode(&mut self, mode: Mode) -> anyhow::Result<()> {
        let mut modes = self.modes();
        if !modes.contains(&mode) {
            modes.push(mode);
        }
        self.change(|data| data.modes = modes)
    }

    /// Nothing of any other mode is left.
    pub(crate) fn keep_mode(&mut self, mode: Mode) -> anyhow::Result<()> {
        self.change(|data| data.modes = vec![mode])
    }

    /// The backends that chains of ours may be in.
    pub(crate) fn backends(&self) -> &[Backend] {
        &self.data.backends
    }

    /// Notes a backend before chains are written to it.
    pub(crate) fn add_backend(&mut self, backend: Backend) -> anyhow::Result<()> {
        self.change(|data| {
            if !data.backends.contains(&backend) {
                data.backends.push(backend);
            }
        })
    }

    /// None of our chains is left in any other.
    pub(crate) fn keep_backend(&mut self, backend: Backend) -> anyhow::Result<()> {
        self.change(|data| data.backends.retain(|known| *known == backend))
    }

    /// Whether the agent made `route`.
    pub(crate) fn made_route(&self, netns: NetnsId, route: &Route) -> bool {
        self.kept(netns).is_some_and(|kept| kept.routes.contains(route))
    }

    /// Notes a route that does not show by itself that it is ours.
    pub(crate) fn add_route(&mut self, netns: NetnsId, route: &Route) -> anyhow::Result<()> {
        self.change_kept(netns, |kept| {
            kept.routes.insert(route.clone());
        })
    }

    /// Forgets routes that neither stand nor are wanted: an equal one that comes later is somebody else's.
    pub(crate) fn retain_routes(&mut self, netns: NetnsId, keep: impl Fn(&Route) -> bool) -> anyhow::Result<()> {
        if self.kept(netns).is_none_or(|kept| kept.routes.iter().all(&keep)) {
            return Ok(());
        }
        self.change_kept(netns, |kept| kept.routes.retain(|route| keep(route)))
    }

    /// The route is gone.
    pub(crate) fn forget_route(&mut self, netns: NetnsId, route: &Route) -> anyhow::Result<()> {
        self.change_kept(netns, |kept| {
            kept.routes.remove(route);
        })
    }

    /// Settings that the agent changed.
    pub(crate) fn saved_sysctls(&self, netns: NetnsId) -> Vec<Saved> {
        self.kept(netns).map(|kept| kept.sysctls.clone()).unwrap_or_default()
    }

    /// Notes settings before they are changed. What one was at first stays: a later value is somebody's drift.
    pub(crate) fn save_sysctls(&mut self, netns: NetnsId, changes: &[Saved]) -> anyhow::Result<()> {
        self.change_kept(netns, |kept| {
            for saved in changes {
                let same = |known: &&mut Saved| known.setting == saved.setting && known.index == saved.index;
                match kept.sysctls.iter_mut().find(same) {
                    Some(known) => known.set.clone_from(&saved.set),
                    None => kept.sysctls.push(saved.clone()),
                }
            }
        })
    }

    /// The settings are as they were, or their devices are gone.
    pub(crate) fn forget_sysctls(&mut self, netns: NetnsId, done: &[Saved]) -> anyhow::Result<()> {
        self.change_kept(netns, |kept| kept.sysctls.retain(|saved| !done.contains(saved)))
    }

    /// nftables objects that came into being with our rules.
    pub(crate) fn made(&self, netns: NetnsId) -> BTreeSet<Made> {
        self.kept(netns).map(|kept| kept.made.clone()).unwrap_or_default()
    }

    /// Notes them.
    pub(crate) fn add_made(&mut self, netns: NetnsId, made: BTreeSet<Made>) -> anyhow::Result<()> {
        self.change_kept(netns, |kept| kept.made.extend(made))
    }

    /// They are gone, or others'.
    pub(crate) fn forget_made(&mut self, netns: NetnsId) -> anyhow::Result<()> {
        self.change_kept(netns, |kept| kept.made.clear())
    }

    /// Whether the agent gave the device its `clsact` qdisc.
    pub(crate) fn made_qdisc(&self, netns: NetnsId, index: u32) -> bool {
        self.kept(netns).is_some_and(|kept| kept.qdiscs.contains(&index))
    }

    /// Notes a device before it is given one, and whether it has a queue so far.
    pub(crate) fn add_qdisc(&mut self, netns: NetnsId, index: u32, has_queue: bool) -> anyhow::Result<()> {
        self.change_kept(netns, |kept| {
            kept.qdiscs.insert(index);
            if !has_queue {
                kept.unqueued.insert(index);
            }
        })
    }

    /// Devices that had no queue before the agent gave them a qdisc.
    pub(crate) fn unqueued(&self, netns: NetnsId) -> BTreeSet<u32> {
        self.kept(netns).map(|kept| kept.unqueued.clone()).unwrap_or_default()
    }

    /// Forgets devices whose qdisc of ours is gone: one that comes later is somebody else's.
    pub(crate) fn retain_qdiscs(&mut self, netns: NetnsId, keep: impl Fn(u32) -> bool) -> anyhow::Result<()> {
        if self.kept(netns).is_none_or(|kept| kept.qdiscs.iter().all(|index| keep(*index))) {
            return Ok(());
        }
        self.change_kept(netns, |kept| {
            kept.qdiscs.retain(|index| keep(*index));
            kept.unqueued.retain(|index| keep(*index));
        })
    }

    /// Removes the file: nothing stands any more.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        Ok(file::remove(&self.path)?)
    }

    fn kept(&self, netns: NetnsId) -> Option<&Kept> {
        self.data.netns.iter().find(|(id, _)| *id == netns).map(|(_, kept)| kept)
    }

    fn change_kept(&mut self, netns: NetnsId, change: impl FnOnce(&mut Kept)) -> anyhow::Result<()> {
        self.change(|data| {
            let mut all: BTreeMap<_, _> = std::mem::take(&mut data.netns).into_iter().collect();
            change(all.entry(netns).or_default());
            data.netns = all.into_iter().filter(|(_, kept)| *kept != Kept::default()).collect();
        })
    }

    /// Changes the record and writes it, unless it stayed the same.
    fn change(&mut self, change: impl FnOnce(&mut Data)) -> anyhow::Result<()> {
        let before = self.data.clone();
        change(&mut self.data);
        if self.data == before && self.path.exists() {
            return Ok(());
        }
        if let Err(error) = self.write().with_context(|| format!("write {}", self.path.display())) {
            // What is not in the file is not on record: the next try must write it.
            self.data = before;
            return Err(error);
        }
        Ok(())
    }

    fn write(&self) -> anyhow::Result<()> {
        Ok(file::replace(&self.path, &serde_json::to_vec_pretty(&self.data)?)?)
    }
}

/// What the kernel calls this boot.
pub(crate) fn boot_id() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot id")?;
    Ok(text.trim().to_owned())
}

fn decode(bytes: &[u8], fresh: Data) -> anyhow::Result<Data> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
        boot: String,
    }
    let head: Head = serde_json::from_slice(bytes)?;
    if head.boot != fresh.boot {
        return Ok(fresh);
    }
    anyhow::ensure!(
        head.version == VERSION,
        "has version {}, this agent reads {VERSION}; run `redirect-agent cleanup` of the agent that wrote it",
        head.version
    );
    Ok(serde_json::from_slice(bytes)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use crate::resources::sysctl::Setting;

    use super::*;

    fn saved(original: &str, set: &str) -> Saved {
        Saved { setting: Setting::new("veth1", "rp_filter"), index: 4, original: original.into(), set: set.into() }
    }

    #[test]
    fn survives_a_restart_and_keeps_the_first_value() {
        let directory = tempfile::tempdir().unwrap();
        let netns = NetnsId::current().unwrap();
        let mut record = Record::open(directory.path(), netns).unwrap();
        record.save_sysctls(netns, &[saved("1", "0")]).unwrap();
        record.save_sysctls(netns, &[saved("2", "0")]).unwrap();
        let mut record = Record::open(directory.path(), netns).unwrap();
        assert_eq!(record.saved_sysctls(netns), [saved("1", "0")]);
        record.forget_sysctls(netns, &[saved("1", "0")]).unwrap();
        assert!(Record::open(directory.path(), netns).unwrap().saved_sysctls(netns).is_empty());
        let elsewhere = NetnsId::of(&File::open("/proc/self/ns/mnt").unwrap()).unwrap();
        assert!(Record::open(directory.path(), elsewhere).is_err());
    }

    #[test]
    fn another_boot_begins_anew_and_another_version_is_refused() {
        let fresh = Data { version: VERSION, boot: "b".into(), ..Data::default() };
        assert_eq!(decode(br#"{"version": 9, "boot": "a"}"#, fresh.clone()).unwrap(), fresh);
        assert!(decode(br#"{"version": 9, "boot": "b"}"#, fresh.clone()).is_err());
        assert!(decode(b"{", fresh).is_err());
    }
}
