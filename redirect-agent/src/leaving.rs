//! Pods whose objects are gone while their sandboxes are not: deleted with force, or with their node's object. Kubelet gives their containers the rest
//! of their grace period all the same, and what they send meanwhile is a meshed pod's. Until the runtime takes the sandbox down (DEL, or
//! GC) they stay what they were. A DEL may be lost, with the agent away; so it is looked whether the sandbox still has its address.

use std::collections::{BTreeMap, BTreeSet};

use redirect_cni::protocol::AttachmentId;

use crate::cni::book::{Attached, Book};
use crate::enrol::Known;
use crate::kernel::netns::{Netns, NetnsId};
use crate::proxy;
use crate::resources::address;
use crate::sources::Snapshot;

/// The attachments of such pods that were meshed. Network namespaces are looked for only where there is one that could be.
///
/// # Errors
/// The namespaces cannot be looked through; then nobody knows.
pub(crate) fn look(
    node: NetnsId,
    snapshot: &Snapshot,
    book: &Book,
    known: &Known,
) -> anyhow::Result<BTreeSet<AttachmentId>> {
    let mut leaving = BTreeSet::new();
    let mut wanted: BTreeMap<NetnsId, Vec<&Attached>> = BTreeMap::new();
    for attached in candidates(snapshot, book, known) {
        wanted.entry(NetnsId::told(attached.netns)).or_default().push(attached);
    }
    if wanted.is_empty() {
        return Ok(leaving);
    }
    for file in proxy::namespaces(node) {
        let file = file?;
        let Some(attached) = wanted.remove(&NetnsId::of(&file)?) else { continue };
        // What cannot be looked into is there all the same.
        let held = Netns::open(file).and_then(|mut netns| address::observe(netns.netlink())).ok();
        let holds = |attached: &&Attached| {
            held.as_ref().is_none_or(|held| held.iter().any(|address| attached.ips.contains(&address.ip)))
        };
        leaving.extend(attached.into_iter().filter(holds).map(|attached| attached.id.clone()));
    }
    Ok(leaving)
}

/// Those of pods that were meshed and that the source knows no more.
fn candidates<'a>(snapshot: &Snapshot, book: &'a Book, known: &Known) -> Vec<&'a Attached> {
    let was_meshed =
        |attached: &&Attached| attached.pod.uid.as_ref().is_some_and(|uid| known.contains_key(uid.as_str()));
    let mut candidates: Vec<_> = book.all().iter().filter(was_meshed).collect();
    if !candidates.is_empty() {
        let there: BTreeSet<_> = snapshot.pods.iter().map(|pod| pod.uid.as_str()).collect();
        candidates.retain(|attached| attached.pod.uid.as_deref().is_some_and(|uid| !there.contains(uid)));
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::book::tests::{attached, book};

    #[test]
    fn only_who_was_meshed_and_is_gone_is_looked_for() {
        let gone = attached("c1", "a", Some("u1"), &["10.0.0.1"]);
        let never = attached("c2", "b", Some("u2"), &["10.0.0.2"]);
        let unknown = attached("c3", "c", None, &["10.0.0.3"]);
        let all = book(&[gone.clone(), never, unknown]);
        let known = Known::from([("u1".to_owned(), gone.ips.clone())]);
        assert_eq!(candidates(&Snapshot::default(), &all, &known), [&gone]);
        assert!(candidates(&Snapshot::default(), &all, &Known::new()).is_empty());
    }
}
