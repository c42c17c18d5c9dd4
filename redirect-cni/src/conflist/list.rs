//! Where the plugins stand in the text of a list, and the text with ours in it or out of it.

use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ConflistError, Entry};
use crate::json::object;

/// A list's text, parsed.
#[derive(Debug)]
pub(super) struct List<'a> {
    text: &'a str,
    /// From behind `[` to before `]`.
    inside: Range<usize>,
    /// The plugins.
    pub(super) plugins: Vec<Plugin<'a>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Plugin<'a> {
    at: Range<usize>,
    text: &'a str,
    ours: bool,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    plugins: &'a RawValue,
}

#[derive(Deserialize)]
struct Typed {
    r#type: String,
}

impl<'a> List<'a> {
    /// Of an object that has a list of plugins, each with its type.
    pub(super) fn parse(text: &'a str) -> Result<Self, ConflistError> {
        let File { plugins: array } = object(text)?;
        let elements: Vec<&'a RawValue> = serde_json::from_str(array.get())?;
        let array = place(text, array.get());
        let plugins = elements.into_iter().map(|raw| {
            let Typed { r#type } = object(raw.get())?;
            Ok(Plugin { at: place(text, raw.get()), text: raw.get(), ours: r#type == crate::PLUGIN })
        });
        Ok(Self {
            text,
            inside: array.start + 1..array.end - 1,
            plugins: plugins.collect::<Result<_, ConflistError>>()?,
        })
    }

    /// Which are ours.
    pub(super) fn ours(&self) -> Vec<usize> {
        self.plugins.iter().enumerate().filter(|(_, plugin)| plugin.ours).map(|(index, _)| index).collect()
    }

    /// The text with `entry` last, set off as the one before it is.
    pub(super) fn with(&self, entry: &Entry, original: Option<&str>) -> String {
        let Some(last) = self.plugins.last() else {
            return self.spliced(self.inside.clone(), &entry.text(original, ""));
        };
        let before = &self.text[..last.at.start];
        let space = &before[before.trim_end().len()..];
        self.spliced(last.at.end..last.at.end, &format!(",{space}{}", entry.text(original, space)))
    }

    /// The text with `entry` in the place of the plugin `index`.
    pub(super) fn replaced(&self, index: usize, entry: &Entry, original: Option<&str>) -> String {
        let at = self.plugins[index].at.clone();
        let before = &self.text[..at.start];
        self.spliced(at, &entry.text(original, &before[before.trim_end().len()..]))
    }

    /// The text without these, each with the comma and the space that set it off from the one before it; of the first ones,
    /// from those behind.
    pub(super) fn without(&self, indices: &[usize]) -> String {
        let mut kept = String::new();
        let mut from = 0;
        let leading = indices.iter().enumerate().take_while(|(place, index)| place == *index).count();
        if let (Some(first), Some(next)) = (self.plugins.first().filter(|_| leading > 0), self.plugins.get(leading)) {
            kept.push_str(&self.text[..first.at.start]);
            from = next.at.start;
        }
        for &index in &indices[leading..] {
            kept.push_str(&self.text[from..self.plugins[index - 1].at.end]);
            from = self.plugins[index].at.end;
        }
        kept.push_str(&self.text[from..]);
        kept
    }

    /// What stands before the comma behind the first plugin, with the space around it.
    pub(super) fn first_with_space(&self) -> Option<&'a str> {
        let [first, second, ..] = &self.plugins[..] else { return None };
        let comma = self.text[first.at.end..second.at.start].find(',')?;
        Some(&self.text[self.inside.start..first.at.end + comma])
    }

    fn spliced(&self, at: Range<usize>, text: &str) -> String {
        format!("{}{text}{}", &self.text[..at.start], &self.text[at.end..])
    }
}

impl Plugin<'_> {
    /// Is it this, in whatever spelling?
    pub(super) fn is(&self, value: &Value) -> bool {
        serde_json::from_str::<Value>(self.text).is_ok_and(|it| it == *value)
    }

    /// The file that the list was made of, which our entry remembers.
    pub(super) fn original(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Remembered {
            #[serde(rename = "convertedFrom")]
            converted_from: String,
        }
        object(self.text).ok().map(|Remembered { converted_from }| converted_from)
    }
}

/// Where a part of `text` stands in it: a raw value is borrowed from what it was parsed from.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}
