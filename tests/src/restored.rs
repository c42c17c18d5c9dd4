//! Whether the node and ztunnel's namespace are again what they were.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::demo::ZTUNNEL;
use crate::lab::Lab;
use crate::snapshot::Snapshot;

/// Both namespaces, as they were.
#[derive(Clone, Debug)]
pub struct Before {
    node: Snapshot,
    /// ztunnel's, and which one that is.
    proxy: (u64, Snapshot),
    /// The node's ends of the pods that there were, by pod.
    links: BTreeMap<String, String>,
}

impl Before {
    /// As they are now.
    pub fn of(lab: &Lab) -> Result<Self> {
        let netns = lab.pod_netns(ZTUNNEL);
        let proxy = (netns.number()?, Snapshot::exact(&netns)?);
        Ok(Self { node: Snapshot::exact(&lab.node())?, proxy, links: links(lab) })
    }

    /// They are so again, to the letter. What a pod brought along that has come since, or took along that has gone, is the pod's: its
    /// link. If ztunnel has gone, there is nothing of it to compare.
    pub fn is_back(&self, lab: &Lab) -> Result<()> {
        let now = links(lab);
        let only_in = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            one.values().filter(|link| !other.values().any(|known| known == *link)).cloned().collect::<Vec<_>>()
        };
        let pods = [only_in(&self.links, &now), only_in(&now, &self.links)].concat();
        let node = Snapshot::exact(&lab.node())?;
        let mut changes = self.node.without(&pods).diff(&node.without(&pods)).unwrap_or_default();
        let (number, proxy) = &self.proxy;
        let netns = lab.pod_netns(ZTUNNEL);
        if netns.exists() && netns.number()? == *number {
            changes += &proxy.diff(&Snapshot::exact(&netns)?).unwrap_or_default();
        }
        ensure!(changes.is_empty(), "{changes}");
        Ok(())
    }

    /// Runs `redirect-agent cleanup`, after which they must be so again.
    pub fn is_back_after_cleanup(&self, lab: &mut Lab) -> Result<()> {
        lab.cleanup_agent()?;
        ensure!(!lab.bpf_dir().exists(), "{} is still there", lab.bpf_dir().display());
        self.is_back(lab)
    }
}

fn links(lab: &Lab) -> BTreeMap<String, String> {
    lab.pods().iter().filter_map(|pod| Some((pod.uid.clone(), pod.host_link.clone()?))).collect()
}
