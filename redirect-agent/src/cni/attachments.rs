//! The loop's side of the desk: what a run looks at, and what it has seen when it ends.

use std::path::Path;
use std::sync::Arc;

use super::book::Book;
use super::desk::Desk;
use super::store::Store;
use crate::enrol::Cluster;
use crate::status::{AttachmentStatus, CniStatus};

/// What the loop keeps of attachments.
#[derive(Debug)]
pub(crate) struct Attachments {
    desk: Arc<Desk>,
    store: Store,
    /// As the last run that judged the pods has seen it.
    status: CniStatus,
}

/// What there was at the beginning of a run.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) book: Arc<Book>,
    generation: u64,
}

impl Attachments {
    /// Goes on with what an earlier agent has left in `directory`.
    pub(crate) fn open(directory: &Path) -> anyhow::Result<Self> {
        let (store, book) = Store::open(directory)?;
        Ok(Self { desk: Arc::new(Desk::new(book)), store, status: CniStatus::default() })
    }

    /// For those who ask.
    pub(crate) fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// What is known now; written down before anything is done for it.
    pub(crate) fn look(&mut self) -> anyhow::Result<Look> {
        let (book, generation) = self.desk.look();
        self.store.keep(&book)?;
        Ok(Look { book, generation })
    }

    /// A run has judged the pods by what it has seen.
    pub(crate) fn judged(&mut self, look: &Look, cluster: &Cluster) {
        let owners = &cluster.attached;
        self.desk.settle(owners, &cluster.pods.iter().map(|pod| pod.uid.as_str()).collect());
        // Those of pods that are gone were forgotten just now, and a DEL may have come meanwhile.
        let (left, _) = self.desk.look();
        let left = look.book.all().iter().filter(|known| left.get(&known.id).is_some());
        let shown = left.map(|known| {
            let owner = owners.get(&known.id);
            let mut pod = known.pod.clone();
            pod.uid = owner.cloned().or(pod.uid);
            AttachmentStatus { id: known.id.clone(), pod, ips: known.ips.clone(), known: owner.is_some() }
        });
        self.status = CniStatus { seen: look.generation, attachments: shown.collect(), ..CniStatus::default() };
    }

    /// For status.
    pub(crate) fn status(&self) -> CniStatus {
        CniStatus { answers: self.desk.answers(), ..self.status.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::book::tests::attached;
    use super::*;

    #[test]
    fn a_run_shows_what_it_has_seen_and_the_next_agent_knows_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut attachments = Attachments::open(directory.path()).unwrap();
        let ours = attached("c1", "a", None, &["10.0.0.1"]);
        attachments.desk().take_in(ours.clone()).unwrap().keep();
        let look = attachments.look().unwrap();
        let late = attachments.desk().take_in(attached("c2", "b", None, &[])).unwrap();
        let attached = BTreeMap::from([(ours.id.clone(), "u".to_owned())]);
        attachments.judged(&look, &Cluster { attached, ..Cluster::default() });
        let status = attachments.status();
        assert!(status.seen < late.generation);
        assert_eq!(status.attachments.len(), 1);
        assert_eq!((status.attachments[0].known, status.attachments[0].pod.uid.as_deref()), (true, Some("u")));
        late.withdraw();
        attachments.look().unwrap();
        let next = Attachments::open(directory.path()).unwrap();
        let known = next.desk().look().0;
        assert_eq!(known.all().len(), 1);
        assert_eq!(known.all()[0].pod.uid.as_deref(), Some("u"), "whose it is was written down");
        attachments.judged(&look, &Cluster::default());
        assert!(attachments.status().attachments.is_empty(), "its pod is gone");
    }
}
