//! What a tool has shown to be as planned in nftables, and what the kernel held of it then. As long as it holds the same, nobody needs to ask the
//! tool, which takes ten times as long.

use std::collections::BTreeMap;

use crate::kernel::nftables::image::{self, Image, Part, Picture};

/// What is known of a namespace, by [`Subject::name`]: of each the text, and what the kernel holds where all is as it says.
#[derive(Default, Debug)]
pub(crate) struct Known(BTreeMap<String, (String, Image)>);

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
    pub(crate) fn compare(&self, subject: &Subject) -> Option<(Picture, bool)> {
        let (_, image) = self.0.get(&subject.name).filter(|(text, _)| *text == subject.text)?;
        let picture = picture(subject)?;
        let is_same = picture.image == *image;
        Some((picture, is_same))
    }

    /// All was as the subject's text says at this generation.
    pub(crate) fn learn(&mut self, subject: Subject, generation: u32) {
        if let Some(picture) = picture(&subject).filter(|picture| picture.generation == generation) {
            self.0.insert(subject.name, (subject.text, picture.image));
        }
    }
}

fn picture(Subject { name, family, parts, .. }: &Subject) -> Option<Picture> {
    let picture = image::picture(*family, parts);
    picture.inspect_err(|error| tracing::debug!(%error, name, "what the kernel holds of it cannot be read")).ok()
}
