//! What a tool has shown to be as planned in nftables, and what the kernel held of it then. As long as it holds the same, nobody needs to ask the
//! tool, which takes ten times as long.

use std::collections::BTreeMap;

use crate::kernel::nftables::image::{self, Image, Part, Picture};

/// What is known of a namespace, by [`Subject::name`].
#[derive(Default, Debug)]
pub(crate) struct Known(BTreeMap<String, Entry>);

/// A text, and what the kernel holds where all is as it says.
#[derive(Debug)]
struct Entry {
    text: String,
    image: Image,
    /// Whether the kernel has always held the same for the same text. If not, what differs need not be wrong.
    is_steady: bool,
}

/// What the kernel holds of a subject, compared with what it held when that was right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Match {
    Same,
    Other,
    /// Another, but the kernel is known to hold now this, now that.
    Unsure,
}

/// Something that is to be as a text says.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Subject {
    /// There is one text for each name.
    pub(crate) name: String,
    pub(crate) text: String,
    /// `nfgenmsg.nfgen_family`.
    pub(crate) family: u8,
    /// All that it consists of.
    pub(crate) parts: Vec<Part>,
}

impl Known {
    /// What the kernel holds in the calling thread's network namespace, and whether that is as the subject's text says; `None` if nobody knows how
    /// that would look.
    pub(crate) fn compare(&self, subject: &Subject) -> Option<(Picture, Match)> {
        let entry = self.0.get(&subject.name).filter(|entry| entry.text == subject.text)?;
        let picture = picture(subject)?;
        let found = match (picture.image == entry.image, entry.is_steady) {
            (true, _) => Match::Same,
            (false, true) => Match::Other,
            (false, false) => Match::Unsure,
        };
        Some((picture, found))
    }

    /// All was as the subject's text says at this generation.
    pub(crate) fn learn(&mut self, subject: Subject, generation: u32) {
        if let Some(picture) = picture(&subject).filter(|picture| picture.generation == generation) {
            self.note(subject.name, subject.text, picture.image);
        }
    }

    fn note(&mut self, name: String, text: String, image: Image) {
        let agrees = |known: &Entry| known.is_steady && (known.text != text || known.image == image);
        let is_steady = self.0.get(&name).is_none_or(agrees);
        self.0.insert(name, Entry { text, image, is_steady });
    }
}

fn picture(Subject { name, family, parts, .. }: &Subject) -> Option<Picture> {
    let picture = image::picture(*family, parts);
    picture.inspect_err(|error| tracing::debug!(%error, name, "what the kernel holds of it cannot be read")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shows_now_this_and_now_that_for_one_text_is_not_steady() {
        let steady = |known: &Known| known.0.values().all(|entry| entry.is_steady);
        let mut known = Known::default();
        let mut note = |text: &str, image| {
            known.note("table ip".to_owned(), text.to_owned(), image);
            steady(&known)
        };
        assert!(note("a", Image::for_tests(1)) && note("a", Image::for_tests(1)) && note("b", Image::for_tests(2)));
        assert!(!note("b", Image::for_tests(3)));
        assert!(!note("c", Image::for_tests(4)), "nor is it by another text");
    }
}
