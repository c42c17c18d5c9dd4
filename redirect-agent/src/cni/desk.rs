//! The book of attachments, shared by those who ask and the loop. The loop sees at the beginning of a run what has come until
//! then, and says afterwards how far it has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redirect_cni::protocol::{Answer, AttachmentId, Request, Valid};

use super::book::{Attached, Book};

/// How often each request was answered how.
pub(crate) type Answers = BTreeMap<String, BTreeMap<String, u64>>;

#[derive(Default, Debug)]
struct State {
    book: Arc<Book>,
    /// Rises with every change that a client makes.
    generation: u64,
    /// How many clients wait for each attachment.
    waiting: BTreeMap<AttachmentId, usize>,
    answers: BTreeMap<(&'static str, &'static str), u64>,
}

/// The desk.
#[derive(Default, Debug)]
pub(crate) struct Desk(Mutex<State>);

impl Desk {
    /// A desk with what an earlier agent has left.
    pub(crate) fn new(book: Book) -> Self {
        Self(Mutex::new(State { book: Arc::new(book), ..State::default() }))
    }

    /// What is known, and which generation that is.
    pub(crate) fn look(&self) -> (Arc<Book>, u64) {
        let state = self.state();
        (Arc::clone(&state.book), state.generation)
    }

    /// Takes an attachment in until the ticket goes, or for good if it is kept.
    pub(super) fn take_in(self: &Arc<Self>, attached: Attached) -> Result<Ticket, String> {
        let id = attached.id.clone();
        let mut state = self.state();
        let former = Arc::make_mut(&mut state.book).put(attached)?;
        state.generation += 1;
        *state.waiting.entry(id.clone()).or_default() += 1;
        let generation = state.generation;
        drop(state);
        Ok(Ticket { desk: Arc::clone(self), id, generation, former })
    }

    /// An attachment was taken down.
    pub(super) fn detach(&self, id: &AttachmentId) {
        let mut state = self.state();
        if state.book.get(id).is_some() {
            Arc::make_mut(&mut state.book).detach(id);
            state.generation += 1;
        }
    }

    /// Forgets those of a network that are not valid. Who is just being served is.
    pub(super) fn keep_valid(&self, valid: &Valid) {
        let mut state = self.state();
        let state = &mut *state;
        Arc::make_mut(&mut state.book).keep_valid(valid, |id| state.waiting.contains_key(id));
        state.generation += 1;
    }

    /// For the loop: writes down whose attachments are, and forgets those of pods that are gone. `pods` are those that are not.
    pub(crate) fn settle(&self, owners: &BTreeMap<AttachmentId, String>, pods: &BTreeSet<&str>) {
        let mut state = self.state();
        let state = &mut *state;
        let waits = |id: &AttachmentId| state.waiting.contains_key(id);
        if !state.book.is_settled(owners, pods, waits) {
            Arc::make_mut(&mut state.book).settle(owners, pods, waits);
        }
    }

    /// Counts an answer.
    pub(super) fn count(&self, request: &Request, answer: &Answer) {
        let request = match request {
            Request::Add(_) => "add",
            Request::Check(_) => "check",
            Request::Del(_) => "del",
            Request::Gc(_) => "gc",
            Request::Status => "status",
        };
        let answer = match answer {
            Answer::Enrolled => "enrolled",
            Answer::NotMeshed => "not-meshed",
            Answer::Done => "done",
            Answer::RetryLater(_) => "retry-later",
            Answer::Refused(_) => "refused",
            Answer::Limited(_) => "limited",
        };
        *self.state().answers.entry((request, answer)).or_default() += 1;
    }

    /// For status.
    pub(crate) fn answers(&self) -> Answers {
        let mut answers = Answers::new();
        for ((request, answer), count) in &self.state().answers {
            answers.entry((*request).to_owned()).or_default().insert((*answer).to_owned(), *count);
        }
        answers
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for an attachment's pod.
#[derive(Debug)]
pub(super) struct Ticket {
    desk: Arc<Desk>,
    pub(super) id: AttachmentId,
    /// A run that has seen this has seen the attachment.
    pub(super) generation: u64,
    former: Option<Attached>,
}

impl Ticket {
    /// The pod may start: those of its former sandboxes are gone. Whether there were any: then the loop has to look again.
    pub(super) fn keep(self) -> bool {
        let mut state = self.desk.state();
        let Some(attached) = state.book.get(&self.id).cloned() else { return false };
        let changed = Arc::make_mut(&mut state.book).supersede(&attached);
        state.generation += u64::from(changed);
        changed
    }

    /// The pod may not start: what is known is what was known before.
    pub(super) fn withdraw(mut self) {
        let mut state = self.desk.state();
        let book = Arc::make_mut(&mut state.book);
        book.remove(&self.id);
        if let Some(former) = self.former.take() {
            // It had a place.
            drop(book.put(former));
        }
        state.generation += 1;
    }
}

/// Nobody waits any more. What was neither kept nor withdrawn stays as long as its pod: it may have started all the same.
impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.desk.state();
        if let Some(count) = state.waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.waiting.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::attached;
    use super::*;

    fn ips(desk: &Desk) -> Vec<String> {
        desk.look().0.all().iter().flat_map(|known| &known.ips).map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_withdrawn_leaves_what_was_before() {
        let desk = Arc::new(Desk::default());
        desk.take_in(attached("c1", "a", Some("u"), &["10.0.0.1"])).unwrap().keep();
        let before = desk.look();
        let ticket = desk.take_in(attached("c1", "a", Some("u"), &["10.0.0.2"])).unwrap();
        assert_eq!(ips(&desk), ["10.0.0.2"]);
        assert_eq!(ticket.generation, desk.look().1);
        ticket.withdraw();
        assert_eq!(desk.look().0, before.0);
        assert!(desk.look().1 > before.1, "the loop must look again");
        assert!(desk.state().waiting.is_empty());
    }

    #[test]
    fn only_who_waits_outlives_a_pod_that_is_not_known() {
        let desk = Arc::new(Desk::default());
        let ticket = desk.take_in(attached("c1", "a", Some("u"), &["10.0.0.1"])).unwrap();
        desk.settle(&BTreeMap::new(), &BTreeSet::new());
        desk.keep_valid(&Valid { network: "net".into(), attachments: Vec::new() });
        assert_eq!(ips(&desk), ["10.0.0.1"]);
        drop(ticket);
        desk.settle(&BTreeMap::new(), &BTreeSet::new());
        assert!(ips(&desk).is_empty());
    }

    #[test]
    fn a_former_sandbox_goes_when_the_new_one_may_start_and_not_before() {
        let desk = Arc::new(Desk::default());
        desk.take_in(attached("c1", "a", Some("u"), &["10.0.0.1"])).unwrap().keep();
        desk.take_in(attached("c2", "a", Some("u"), &["10.0.0.2"])).unwrap().withdraw();
        assert_eq!(ips(&desk), ["10.0.0.1"]);
        desk.take_in(attached("c2", "a", Some("u"), &["10.0.0.2"])).unwrap().keep();
        assert_eq!(ips(&desk), ["10.0.0.2"]);
        desk.detach(&attached("c1", "a", None, &[]).id);
        desk.detach(&attached("c2", "a", None, &[]).id);
        desk.detach(&attached("c2", "a", None, &[]).id);
        assert!(ips(&desk).is_empty());
    }

    #[test]
    fn answers_are_counted_by_request() {
        let desk = Desk::default();
        for answer in [Answer::Done, Answer::RetryLater("why".into()), Answer::Done] {
            desk.count(&Request::Status, &answer);
        }
        assert_eq!(desk.answers()["status"], BTreeMap::from([("done".into(), 2), ("retry-later".into(), 1)]));
    }
}
