//! The attachments that there are, and which pods they are of. A pod has an address here before its status says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use redirect_cni::protocol::{self, AttachmentId, NetnsId, Valid};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Attachments beyond this number are refused: several times what a node runs, and small enough to hold and to write.
const LIMIT: usize = 4096;
/// Addresses of an attachment.
const ADDRESSES: usize = 16;
/// Addresses of one pod that are remembered as taken away.
const GONE: usize = 4 * ADDRESSES;
/// Bytes of a name: as long as Kubernetes lets one be (RFC 1123 subdomains), and what runtimes call containers is shorter.
const NAME: usize = 253;

/// An attachment whose addresses were found in its namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Attached {
    pub(crate) id: AttachmentId,
    /// Whose. The UID is the runtime's, or else that of the pod that it was first found to be of.
    pub(crate) pod: protocol::Pod,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) netns: NetnsId,
}

impl Attached {
    /// What a request says, unless it is larger than anything that could be true.
    pub(crate) fn new(request: protocol::Attachment) -> Result<Self, String> {
        let protocol::Attachment { id, mut pod, netns_id, ips, .. } = request;
        pod.uid = pod.uid.filter(|uid| !uid.is_empty());
        let uid = pod.uid.as_deref().unwrap_or_default();
        if [&id.network, &id.container, &id.ifname, &pod.namespace, &pod.name, uid].iter().any(|name| name.len() > NAME)
        {
            return Err(format!("a name of more than {NAME} bytes"));
        }
        if ips.len() > ADDRESSES {
            return Err(format!("more than {ADDRESSES} addresses"));
        }
        Ok(Self { id, pod, ips, netns: netns_id })
    }
}

/// A pod as far as attachments tell pods apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Named<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    /// Where the runtime knows it by another.
    pub(crate) runtime_uid: Option<&'a str>,
}

/// What is known of attachments.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Book {
    /// All of the node, in the order in which they came.
    attached: Vec<Attached>,
    /// Addresses that were taken away from a pod, by its UID: its status goes on naming them until the pod is gone.
    #[serde(default)]
    gone: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Book {
    /// What can be made out of another version's, and how many attachments cannot.
    pub(crate) fn salvage(found: &Value) -> (Self, usize) {
        let all = found["attached"].as_array().map(Vec::as_slice).unwrap_or_default();
        let attached: Vec<_> = all.iter().filter_map(|attached| Attached::deserialize(attached).ok()).collect();
        let left = all.len() - attached.len();
        (Self { attached, gone: Deserialize::deserialize(&found["gone"]).unwrap_or_default() }, left)
    }

    pub(crate) fn all(&self) -> &[Attached] {
        &self.attached
    }

    pub(crate) fn get(&self, id: &AttachmentId) -> Option<&Attached> {
        self.attached.iter().find(|known| known.id == *id)
    }

    /// Takes an attachment in as the newest; returns what was known by its id.
    pub(crate) fn put(&mut self, attached: Attached) -> Result<Option<Attached>, String> {
        let former = self.remove(&attached.id);
        if self.attached.len() >= LIMIT {
            return Err(format!("{LIMIT} attachments are known already, more than a node can have"));
        }
        self.attached.push(attached);
        Ok(former)
    }

    /// The runtime has taken an attachment down: its addresses are its pod's no more, whatever the pod's status says.
    pub(crate) fn detach(&mut self, id: &AttachmentId) {
        let Some(Attached { pod: protocol::Pod { uid: Some(uid), .. }, ips, .. }) = self.remove(id) else { return };
        if self.gone.len() < LIMIT || self.gone.contains_key(&uid) {
            let gone = self.gone.entry(uid).or_default();
            let room = GONE.saturating_sub(gone.len());
            gone.extend(ips.into_iter().take(room));
        }
    }

    /// Forgets an attachment; returns it if it was known.
    pub(crate) fn remove(&mut self, id: &AttachmentId) -> Option<Attached> {
        let at = self.attached.iter().position(|known| known.id == *id)?;
        Some(self.attached.remove(at))
    }

    /// A pod may start in `new`. It has one sandbox: those of the same pod, network and interface in another container are of a
    /// former one. So are those in the same network namespace: the kernel has given its number away. Whether there were any.
    pub(crate) fn supersede(&mut self, new: &Attached) -> bool {
        let before = (self.attached.len(), self.gone.len());
        self.attached.retain(|known| {
            let of_the_pod =
                known.pod == new.pod && (&known.id.network, &known.id.ifname) == (&new.id.network, &new.id.ifname);
            known.id.container == new.id.container || !(of_the_pod || known.netns == new.netns)
        });
        if let Some(uid) = &new.pod.uid
            && let Some(gone) = self.gone.get_mut(uid)
        {
            gone.retain(|ip| !new.ips.contains(ip));
            self.gone.retain(|_, gone| !gone.is_empty());
        }
        before != (self.attached.len(), self.gone.len())
    }

    /// Keeps of one network what is valid, or what `waits`.
    pub(crate) fn keep_valid(&mut self, valid: &Valid, waits: impl Fn(&AttachmentId) -> bool) {
        let valid_ids: BTreeSet<_> = valid.attachments.iter().map(|(container, ifname)| (container, ifname)).collect();
        self.attached.retain(|known| {
            known.id.network != valid.network
                || valid_ids.contains(&(&known.id.container, &known.id.ifname))
                || waits(&known.id)
        });
    }

    /// Writes down whose each is, and forgets what there is of pods that are not there any more unless they `wait` for one to
    /// be. `pods` are the UIDs of those that are there.
    pub(crate) fn settle(
        &mut self,
        owners: &BTreeMap<AttachmentId, String>,
        pods: &BTreeSet<&str>,
        waits: impl Fn(&AttachmentId) -> bool,
    ) {
        self.gone.retain(|uid, _| pods.contains(uid.as_str()));
        self.attached.retain_mut(|known| match owners.get(&known.id) {
            Some(uid) => {
                known.pod.uid = Some(uid.clone());
                true
            }
            None => waits(&known.id),
        });
    }

    /// Whether a run that found this leaves the book as it is.
    pub(crate) fn is_settled(
        &self,
        owners: &BTreeMap<AttachmentId, String>,
        pods: &BTreeSet<&str>,
        waits: impl Fn(&AttachmentId) -> bool,
    ) -> bool {
        self.gone.keys().all(|uid| pods.contains(uid.as_str()))
            && self.attached.iter().all(|known| match owners.get(&known.id) {
                Some(uid) => known.pod.uid.as_ref() == Some(uid),
                None => waits(&known.id),
            })
    }

    /// Finds the pods. `pods` has the newest last, and none that has ended: no pod starts that has.
    pub(crate) fn assign<'a>(&'a self, pods: &[Named<'a>]) -> Assigned<'a> {
        let uids = |pod: &Named<'a>| [Some(pod.uid), pod.runtime_uid].into_iter().flatten();
        let keyed = |pod: &Named<'a>| uids(pod).map(|uid| ((pod.namespace, pod.name, uid), *pod)).collect::<Vec<_>>();
        let exact: BTreeMap<_, _> = pods.iter().flat_map(keyed).collect();
        let newest: BTreeMap<_, _> = pods.iter().map(|pod| ((pod.namespace, pod.name), *pod)).collect();
        let mut assigned =
            Assigned { owners: BTreeMap::new(), addresses: BTreeMap::new(), pods: BTreeMap::new(), gone: &self.gone };
        for known in &self.attached {
            let (namespace, name) = (known.pod.namespace.as_str(), known.pod.name.as_str());
            let pod = match &known.pod.uid {
                Some(uid) => exact.get(&(namespace, name, uid.as_str())),
                None => newest.get(&(namespace, name)),
            };
            let Some(pod) = pod.copied() else { continue };
            assigned.owners.insert(known.id.clone(), pod.uid.to_owned());
            for ip in &known.ips {
                assigned.addresses.insert(*ip, pod);
            }
            assigned.pods.entry(pod).or_default().extend(&known.ips);
        }
        assigned
    }
}

/// What attachments say of pods.
#[derive(Debug)]
pub(crate) struct Assigned<'a> {
    /// The pod of each attachment that has one, by its UID.
    pub(crate) owners: BTreeMap<AttachmentId, String>,
    /// Whose an address is: the newest attachment has it.
    addresses: BTreeMap<IpAddr, Named<'a>>,
    pods: BTreeMap<Named<'a>, Vec<IpAddr>>,
    gone: &'a BTreeMap<String, BTreeSet<IpAddr>>,
}

impl<'a> Assigned<'a> {
    /// The pod that an address was given to.
    pub(crate) fn owner(&self, ip: IpAddr) -> Option<Named<'a>> {
        self.addresses.get(&ip).copied()
    }

    /// Adds a pod's attached addresses to those of its status. Its attachments are newer than its status: an address that was
    /// taken away, or given to another pod since, is not the pod's any more.
    pub(crate) fn complete(&self, pod: Named<'_>, status: &mut Vec<IpAddr>) {
        if let Some(gone) = self.gone.get(pod.uid) {
            status.retain(|ip| !gone.contains(ip));
        }
        let Some(attached) = self.pods.get(&pod) else { return };
        status.retain(|ip| self.owner(*ip).is_none_or(|owner| owner == pod));
        for ip in attached {
            if self.owner(*ip) == Some(pod) && !status.contains(ip) {
                status.push(*ip);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
