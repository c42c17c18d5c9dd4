//! The record's file: what is in it, and how agents of several versions read it, newer and older ones.
//!
//! So it only grows: a field that is added has a default for files without it, none is taken away or gets another meaning, and an enum
//! gets no new value. What an agent does not know it carries along.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// Raised only if all of that cannot be kept: which agents can read the file. What one cannot read it puts aside, for one that can.
pub(super) const VERSION: u32 = 1;
pub(super) const FILE: &str = "record.json";
/// What was put aside.
pub(super) const UNREAD: &str = "record.unread.json";

#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Data {
    pub(super) version: u32,
    /// The kernel's boot id: nothing on record outlives a boot.
    pub(super) boot: String,
    /// The node's namespace: everything else on record was found from there.
    pub(super) node: Option<NetnsId>,
    /// Where chains of ours may stand: one backend, and two while the host changes over.
    pub(super) backends: Vec<Backend>,
    /// Modes of which something may stand; a record from before there were two has none, and means iptables.
    #[serde(default)]
    pub(super) modes: Vec<Mode>,
    pub(super) proxy: Option<Proxy>,
    /// Whether that proxy has the law's second seat.
    #[serde(default)]
    pub(super) on_seat_b: bool,
    /// The one before it, while what it began goes on with it.
    #[serde(default)]
    pub(super) draining: Option<Draining>,
    /// No proxy was Ready, and none has been programmed since.
    #[serde(default)]
    pub(super) proxy_is_away: bool,
    /// Where that proxy's tunnels end on the node.
    pub(super) node_ip: Option<Ipv4Addr>,
    /// Which guards may stand; a new record does not know.
    #[serde(default)]
    pub(super) guards: BTreeMap<Family, bool>,
    /// The addresses with which pods were meshed last.
    #[serde(default)]
    pub(super) known: Known,
    /// Namespaces of former proxies that still hold something of ours.
    pub(super) retired: Vec<NetnsId>,
    /// Namespaces other than the node's in which something was made.
    pub(super) touched: BTreeSet<NetnsId>,
    /// Keyed by the namespace; a list, as JSON has no other keys than text.
    pub(super) netns: Vec<(NetnsId, Kept)>,
    /// What only other versions know.
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, Value>,
}

/// A former proxy, on the seat that the one after it has not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Draining {
    pub(crate) proxy: Proxy,
    /// When it ends at the latest: seconds since boot.
    pub(crate) until: u64,
    /// The node has not turned to the one after it yet, and its time does not run.
    #[serde(default)]
    pub(crate) awaits_turn: bool,
}

impl Draining {
    /// Whether its time is over, so many seconds after boot.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        !self.awaits_turn && now >= self.until
    }
}

/// What is kept for one namespace.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) sysctls: Vec<Saved>,
    pub(super) routes: BTreeSet<Route>,
    pub(super) made: BTreeSet<Made>,
    /// Devices that we gave a `clsact` qdisc.
    #[serde(default)]
    pub(super) qdiscs: BTreeSet<u32>,
    /// Those of them that had no queue until then.
    #[serde(default)]
    pub(super) unqueued: BTreeSet<u32>,
    /// What only other versions know.
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, Value>,
}

/// What there is at a path.
pub(super) enum Read {
    /// Nothing.
    None,
    /// A record.
    Known(Box<Data>),
    /// Something else, and why.
    Unread(anyhow::Error),
}

pub(super) fn read(path: &Path, fresh: &Data) -> anyhow::Result<Read> {
    match fs::read(path) {
        Ok(bytes) => Ok(decode(&bytes, fresh).map_or_else(Read::Unread, |data| Read::Known(Box::new(data)))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Read::None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn decode(bytes: &[u8], fresh: &Data) -> anyhow::Result<Data> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
        boot: String,
    }
    let head: Head = serde_json::from_slice(bytes)?;
    if head.boot != fresh.boot {
        return Ok(fresh.clone());
    }
    anyhow::ensure!(head.version <= VERSION, "it is of version {}, this agent reads up to {VERSION}", head.version);
    Ok(Data { version: VERSION, ..serde_json::from_slice(bytes)? })
}

/// The first one stays: it has the settings as they were before any agent.
pub(super) fn put_aside(path: &Path, error: &anyhow::Error) -> anyhow::Result<()> {
    let aside = path.with_file_name(UNREAD);
    let error = format!("{error:#}");
    tracing::error!(error, record = %path.display(), aside = %aside.display(), "the record cannot be read; a new one begins");
    let outcome = if aside.exists() { file::remove(path) } else { file::rename(path, &aside) };
    outcome.context("put it aside")
}

impl Data {
    /// As the version that only tests have writes it: with something that no other one knows, and that is another for each agent. So
    /// each of them writes, as one of a real other version would.
    pub(super) fn be_of_another_version(&mut self) {
        self.unknown.insert("other".to_owned(), Value::from(format!("version of process {}", std::process::id())));
    }

    /// Takes in what another agent had on record before. What either made is to be taken away; what a setting was before the first of
    /// them is what it is put back to.
    pub(super) fn absorb(&mut self, aside: Self) {
        add_new(&mut self.backends, aside.backends);
        add_new(&mut self.modes, aside.modes);
        let drained = aside.draining.map(|draining| draining.proxy);
        let former = aside.proxy.into_iter().chain(drained).map(|proxy| proxy.netns).chain(aside.retired);
        let held = [&self.proxy, &self.draining.as_ref().map(|draining| draining.proxy.clone())]
            .map(|proxy| proxy.as_ref().map(|proxy| proxy.netns));
        add_new(&mut self.retired, former.filter(|netns| !held.contains(&Some(*netns))));
        self.touched.extend(aside.touched);
        let mut all: BTreeMap<_, _> = std::mem::take(&mut self.netns).into_iter().collect();
        for (netns, kept) in aside.netns {
            all.entry(netns).or_default().absorb(kept);
        }
        self.netns = all.into_iter().collect();
        self.unknown.extend(aside.unknown);
    }
}

fn add_new<T: PartialEq>(list: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

impl Kept {
    fn absorb(&mut self, aside: Self) {
        for saved in aside.sysctls {
            let same = |known: &&mut Saved| known.setting == saved.setting && known.index == saved.index;
            match self.sysctls.iter_mut().find(same) {
                Some(known) => known.original = saved.original,
                None => self.sysctls.push(saved),
            }
        }
        self.routes.extend(aside.routes);
        self.made.extend(aside.made);
        self.qdiscs.extend(aside.qdiscs);
        self.unqueued.extend(aside.unqueued);
        self.unknown.extend(aside.unknown);
    }
}

#[cfg(test)]
mod tests {
    use crate::resources::sysctl::Setting;

    use super::*;

    /// As the first agents wrote it: no modes, guards, qdiscs, addresses.
    const FIRST: &str = r#"{"version": 1, "boot": "b", "node": {"device": 4, "inode": 7}, "backends": ["nft"], "proxy": null,
        "node_ip": "172.18.0.2", "retired": [], "touched": [], "netns": [[{"device": 4, "inode": 7},
        {"sysctls": [{"setting": {"device": "veth1", "key": "rp_filter"}, "index": 4, "original": "1", "set": "0"}],
        "routes": [], "made": []}]]}"#;

    fn fresh() -> Data {
        Data { version: VERSION, boot: "b".into(), ..Data::default() }
    }

    #[test]
    fn what_the_first_agents_wrote_is_read() {
        let data = decode(FIRST.as_bytes(), &fresh()).unwrap();
        let setting = Setting::new("veth1", "rp_filter");
        let saved = Saved { setting, index: 4, original: "1".into(), set: "0".into() };
        assert_eq!(data.netns[0].1.sysctls, [saved]);
        assert_eq!(data.backends, [Backend::Nft]);
        assert!(data.unknown.is_empty());
    }

    #[test]
    fn what_a_later_agent_wrote_is_read_and_carried_along() {
        let later = FIRST.replacen("\"boot\"", "\"seats\": {\"a\": [1]}, \"boot\"", 1);
        let later = later.replacen("\"routes\"", "\"nets\": [\"x\"], \"routes\"", 1);
        let data = decode(later.as_bytes(), &fresh()).unwrap();
        let written: Value = serde_json::from_slice(&serde_json::to_vec(&data).unwrap()).unwrap();
        assert_eq!(written["seats"], serde_json::json!({"a": [1]}));
        assert_eq!(written["netns"][0][1]["nets"], serde_json::json!(["x"]));
    }

    #[test]
    fn another_boot_begins_anew() {
        assert_eq!(decode(br#"{"version": 9, "boot": "a"}"#, &fresh()).unwrap(), fresh());
        assert!(decode(br#"{"version": 9, "boot": "b"}"#, &fresh()).is_err());
        assert!(decode(b"{", &fresh()).is_err());
    }
}
