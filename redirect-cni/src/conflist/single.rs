//! A file for one plugin, made a list, since only lists have room for ours; and back.
//!
//! The original stands in the list as it was written, with the space around it, so that going back gives the same bytes. Our
//! entry remembers its name.

use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::list::List;
use super::{ConflistError, Entry, versions};
use crate::json::object;

const START: &str = "\"plugins\": [\n";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Single<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    cni_version: Option<&'a RawValue>,
    #[serde(rename = "type")]
    _type: String,
}

/// The list that `text`, the content of the file `name`, becomes.
pub fn convert(text: &str, name: &str, entry: &Entry) -> Result<String, ConflistError> {
    let single: Single<'_> = object(text)?;
    versions::check(text)?;
    let network = single.name.ok_or(ConflistError::NoName)?;
    let version = single.cni_version.map_or(String::new(), |raw| format!("  \"cniVersion\": {raw},\n"));
    let ours = entry.text(Some(name), "\n    ");
    let list = format!("{{\n{version}  \"name\": {network},\n  {START}{text},\n    {ours}\n  ]\n}}\n");
    // What was fine by itself is fine in a list.
    List::parse(&list)?;
    Ok(list)
}

/// What the file was, if the list `file` was made of one and nobody has added to it: the name that it had, and its content.
#[must_use]
pub fn revert(text: &str, file: &str) -> Option<(String, String)> {
    let list = List::parse(text).ok()?;
    if list.ours() != [1] || list.plugins.len() != 2 {
        return None;
    }
    let name = original(text, file)?;
    let content = list.first_with_space()?;
    Some((name, content.strip_prefix('\n').unwrap_or(content).to_owned()))
}

/// The file that the list `file` was made of. Only one that becomes this list is believed: the name is written in a file that
/// others write as well, and is removed or written by root.
#[must_use]
pub fn original(text: &str, file: &str) -> Option<String> {
    let list = List::parse(text).ok()?;
    let name = list.ours().into_iter().find_map(|index| list.plugins[index].original())?;
    (list_name(&name).as_deref() == Some(file)).then_some(name)
}

/// The list's file name, for a single plugin's.
#[must_use]
pub fn list_name(name: &str) -> Option<String> {
    let path = Path::new(name);
    let bare = path.file_name() == Some(path.as_os_str());
    let single = path.extension().is_some_and(|it| it == "conf" || it == "json");
    (bare && single).then(|| Some(path.with_extension("conflist").to_str()?.to_owned())).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::{install, uninstall};
    use super::*;

    const BRIDGE: &str = "\n{\n  \"name\": \"n\\u0065t\",\n  \"cniVersion\": \"0.3.1\", \"type\": \"bridge\",\n  \
                          \"mtu\": 1e400 \n}\n\n";

    fn converted() -> String {
        convert(BRIDGE, "10-bridge.conf", &Entry::default()).unwrap()
    }

    #[test]
    fn there_and_back_leaves_the_same_bytes() {
        for text in [
            BRIDGE,
            r#"{"name":"a","type":"b","cniVersion":"1.0.0"}"#,
            "{\"name\":\"a\",\"type\":\"b\",\"cniVersion\":\"1.0.0\"}\n",
        ] {
            let list = convert(text, "10-b.conf", &Entry::default()).unwrap();
            assert_eq!(revert(&list, "10-b.conflist").unwrap(), ("10-b.conf".into(), text.into()));
            assert_eq!(install(&list, &Entry::default()).unwrap(), None, "nothing to repair");
        }
    }

    #[test]
    fn the_list_has_name_and_version() {
        assert!(
            converted().starts_with("{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"n\\u0065t\",\n"),
            "{}",
            converted()
        );
    }

    #[test]
    fn a_repair_keeps_the_origin() {
        let other = Entry { timeout_seconds: 3, ..Entry::default() };
        let repaired = install(&converted(), &other).unwrap().unwrap();
        assert_eq!(revert(&repaired, "10-bridge.conflist").unwrap().1, BRIDGE);
    }

    #[test]
    fn a_list_that_another_has_added_to_stays_one() {
        let text = converted().replace("\n  ]\n", ",{\"type\":\"portmap\"}\n  ]\n");
        assert_eq!(revert(&text, "10-bridge.conflist"), None);
        assert!(uninstall(&text).unwrap().unwrap().contains("portmap"));
    }

    #[test]
    fn only_a_name_that_becomes_the_list_is_believed() {
        for name in ["../10-bridge.conf", "/etc/passwd", "10-bridge.conflist", "99-other.conf", "10-bridge", ""] {
            let text = converted().replace("10-bridge.conf", name);
            assert_eq!(revert(&text, "10-bridge.conflist"), None, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_a_list_is_an_error() {
        let convert = |text| convert(text, "10-bridge.conf", &Entry::default());
        assert!(matches!(convert(r#"{"cniVersion":"1.0.0","type":"a"}"#), Err(ConflistError::NoName)));
        assert!(matches!(convert(r#"{"name":"n","type":"a"}"#), Err(ConflistError::Version(_))));
        for text in ["", "{", r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#] {
            assert!(matches!(convert(text), Err(ConflistError::Malformed(_))), "{text}");
        }
    }
}
