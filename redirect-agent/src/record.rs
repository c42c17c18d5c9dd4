//! What the agent must not forget between two runs: settings as they were before it, and what it made that does not say so
//! itself. Kept on tmpfs, as the things themselves live no longer than the kernel; written before the thing is.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use redirect_common::policy::Seat;

use crate::config::Mode;
use crate::enrol::Known;
use crate::kernel::file;
use crate::kernel::netns::NetnsId;
use crate::proxy::Proxy;
use crate::resources::chain::backend::Backend;
use crate::resources::chain::residue::Made;
use crate::resources::guard::Family;
use crate::resources::ledger::Problem;
use crate::resources::route::Route;
use crate::resources::sysctl::Saved;

use self::content::{Data, Draining, FILE, Kept, Read, UNREAD, VERSION, put_aside, read};

/// The record, and the file that holds it.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    data: Data,
}

impl Record {
    /// Reads the record in `directory`, or begins one for the node whose namespace is `node`. One that cannot be read is put aside: an
    /// agent that ended over it would end again and again, and nobody would look after the node.
    ///
    /// # Errors
    /// It is of another namespace, or the files cannot be read or written at all.
    pub(crate) fn open(directory: &Path, node: NetnsId) -> anyhow::Result<Self> {
        let path = directory.join(FILE);
        let fresh = Data { version: VERSION, boot: boot_id()?, node: Some(node), ..Data::default() };
        let data = match read(&path, &fresh)? {
            Read::None => fresh.clone(),
            Read::Known(data) => *data,
            Read::Unread(error) => {
                put_aside(&path, &error)?;
                fresh.clone()
            }
        };
        let mut record = Self { path, data };
        record.check_node(node)?;
        if let Read::Known(aside) = read(&directory.join(UNREAD), &fresh)? {
            tracing::info!("what another version had put aside is on record again");
            record.change(|data| data.absorb(*aside))?;
            file::remove(&directory.join(UNREAD))?;
            record.check_node(node)?;
        }
        Ok(record)
    }

    fn check_node(&self, node: NetnsId) -> anyhow::Result<()> {
        let path = self.path.display();
        let known = self.data.node == Some(node);
        anyhow::ensure!(known, "the record {path} is of another network namespace; run this in the node's own");
        Ok(())
    }

    /// What is to be known of a record that this version cannot read, if there is one.
    pub(crate) fn note(&self) -> Option<Problem> {
        let aside = self.directory().join(UNREAD);
        aside.exists().then(|| {
            let what = "was written by another version, and this one cannot read it: settings that it names are not put back by this one";
            Problem::new(format!("record {}", aside.display()), what.to_owned())
        })
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

    /// The seat of the proxy that is programmed.
    pub(crate) fn seat(&self) -> Seat {
        if self.data.on_seat_b { Seat::B } else { Seat::A }
    }

    /// The seat that the proxy in this namespace has, or takes when it is the one that is programmed.
    pub(crate) fn seat_of(&self, netns: NetnsId) -> Seat {
        let follows = self.proxy().is_some_and(|programmed| programmed.netns != netns);
        if follows { self.seat().other() } else { self.seat() }
    }

    /// Notes, before anything points to it, that a proxy follows the one that is programmed and takes the other seat. The former
    /// drains, or is put among the retired; so is one that drained until now.
    pub(crate) fn follow(
        &mut self,
        proxy: &Proxy,
        node_ip: Option<Ipv4Addr>,
        until: Option<u64>,
    ) -> anyhow::Result<()> {
        self.change(|data| {
            data.node_ip = node_ip;
            data.on_seat_b = !data.on_seat_b;
            let gone = data.draining.take().map(|draining| draining.proxy.netns);
            let former = data.proxy.replace(proxy.clone());
            let (draining, ended) = match (former, until) {
                (Some(proxy), Some(until)) => (Some(Draining { proxy, until, awaits_turn: true }), None),
                (former, _) => (None, former.map(|former| former.netns)),
            };
            data.draining = draining;
            data.retired.extend(gone.into_iter().chain(ended));
            let held = [Some(proxy.netns), data.draining.as_ref().map(|draining| draining.proxy.netns)];
            data.retired.retain(|netns| !held.contains(&Some(*netns)));
        })
    }

    /// Whether no proxy was Ready, and none has been programmed since.
    pub(crate) fn proxy_is_away(&self) -> bool {
        self.data.proxy_is_away
    }

    /// Notes it, before anything is made of it.
    pub(crate) fn set_proxy_is_away(&mut self, away: bool) -> anyhow::Result<()> {
        if self.data.proxy_is_away == away { Ok(()) } else { self.change(|data| data.proxy_is_away = away) }
    }

    /// The proxy that drains.
    pub(crate) fn draining(&self) -> Option<&Draining> {
        self.data.draining.as_ref()
    }

    /// The node has turned away from the proxy that drains; it has until then.
    pub(crate) fn has_turned(&mut self, until: u64) -> anyhow::Result<()> {
        self.change(|data| {
            if let Some(draining) = &mut data.draining {
                (draining.until, draining.awaits_turn) = (until, false);
            }
        })
    }

    /// It drains no more, and is put among the retired.
    pub(crate) fn end_drain(&mut self) -> anyhow::Result<()> {
        self.change(|data| {
            let gone = data.draining.take().map(|draining| draining.proxy.netns);
            let current = data.proxy.as_ref().map(|proxy| proxy.netns);
            data.retired.extend(gone.filter(|netns| current != Some(*netns)));
        })
    }

    /// The addresses with which pods were meshed last.
    pub(crate) fn known(&self) -> &Known {
        &self.data.known
    }

    /// Notes them; those of others are forgotten.
    pub(crate) fn set_known(&mut self, known: Known) -> anyhow::Result<()> {
        self.change(|data| {
            data.known = known;
            if cfg!(feature = "other-layout") {
                data.be_of_another_version();
            }
        })
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

#[cfg(test)]
mod tests;
