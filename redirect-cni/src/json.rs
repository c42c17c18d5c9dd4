//! JSON objects. A parser of structures takes lists as well, value for value; nobody means those.

use serde::Deserialize;
use serde::de::Error as _;

/// What the object `text` says.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    if text.trim_start().starts_with(['[', '"']) {
        return Err(serde_json::Error::custom("an object is needed"));
    }
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Named {
        name: String,
    }

    #[test]
    fn only_an_object_is_one() {
        assert_eq!(object::<Named>(" {\"name\":\"n\"}\n").unwrap().name, "n");
        for text in ["[\"n\"]", " [\"n\"]", "\"n\"", "null", "7", "", "{}", "\u{feff}{\"name\":\"n\"}"] {
            assert!(object::<Named>(text).is_err(), "{text}");
        }
    }
}
