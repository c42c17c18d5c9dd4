//! Our entry in the node's CNI configuration: put in, kept, and taken out again, byte for byte.
//!
//! A file is edited as text: everything that is not ours stays as it is written, with its order, spacing, duplicate keys and
//! numbers of any size. What is pure is here and in [`single`]; files are read and written by [`folder`].

mod entry;
mod error;
pub mod folder;
mod list;
pub mod replace;
pub mod single;
mod versions;

pub use entry::Entry;
pub use error::ConflistError;

use list::List;

/// `text`, a list of plugins, with `entry` in it as it should be; nothing if it is so already.
///
/// It is put last. Where another plugin has been added after it, it stays where it is: two that each want to be last would
/// never end. First it cannot be, for it needs the result of the one that makes the interface.
pub fn install(text: &str, entry: &Entry) -> Result<Option<String>, ConflistError> {
    let list = List::parse(text)?;
    versions::check(text)?;
    let ours = list.ours();
    if ours.len() == list.plugins.len() {
        return Err(ConflistError::NoOther);
    }
    match ours[..] {
        [] => Ok(Some(list.with(entry, None))),
        [only] if only > 0 => {
            let original = list.plugins[only].original();
            let same = list.plugins[only].is(&entry.value(original.as_deref()));
            Ok((!same).then(|| list.replaced(only, entry, original.as_deref())))
        }
        [first, ..] => {
            let original = list.plugins[first].original();
            Ok(Some(List::parse(&list.without(&ours))?.with(entry, original.as_deref())))
        }
    }
}

/// `text` without our entry; nothing if there is none.
pub fn uninstall(text: &str) -> Result<Option<String>, ConflistError> {
    let list = List::parse(text)?;
    let ours = list.ours();
    if ours.is_empty() {
        return Ok(None);
    }
    if ours.len() == list.plugins.len() {
        return Err(ConflistError::NoOther);
    }
    Ok(Some(list.without(&ours)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDNET: &str = r#"
{
	"cniVersion": "0.3.1",
	"name": "kindnet",
	"plugins": [
	{
		"type": "ptp",
		"ipMasq": false,
		"ipam": { "type": "host-local", "dataDir": "/run/cni-ipam-state", "routes": [ { "dst": "0.0.0.0/0" } ] },
		"mtu": 1500
	},
	{
		"type": "portmap",
		"capabilities": { "portMappings": true }
	}
	]
}
"#;

    fn entry() -> Entry {
        Entry { exclude_namespaces: vec!["kube-system".into()], ..Entry::default() }
    }

    fn types(text: &str) -> Vec<String> {
        #[derive(serde::Deserialize)]
        struct File {
            plugins: Vec<Plugin>,
        }
        #[derive(serde::Deserialize)]
        struct Plugin {
            r#type: String,
        }
        serde_json::from_str::<File>(text).unwrap().plugins.into_iter().map(|it| it.r#type).collect()
    }

    #[test]
    fn in_and_out_again_leaves_the_same_bytes() {
        let odd = concat!(
            r#"{"z":1e400,"cniVersion":"1.0.0","a":18446744073709551616,"plugins":[{"type":"bridge","k":1.0,"k":"x\u002f"}]"#,
            r#","name":"n","disableCheck":true}"#
        );
        let inline = r#"{"cniVersion":"1.1.0","name":"n","plugins": [ {"type":"a"} , {"type":"b"} ] }"#;
        for text in [KINDNET, odd, inline] {
            let installed = install(text, &entry()).unwrap().unwrap();
            assert_eq!(types(&installed).last().unwrap(), "redirect-cni");
            assert_eq!(types(&installed).len(), types(text).len() + 1);
            assert_eq!(install(&installed, &entry()).unwrap(), None, "twice");
            assert_eq!(uninstall(&installed).unwrap().unwrap(), text);
            assert_eq!(uninstall(text).unwrap(), None);
        }
    }

    #[test]
    fn it_is_written_like_its_neighbours() {
        let installed = install(KINDNET, &entry()).unwrap().unwrap();
        let tail = concat!(
            "\t},\n\t{\n\t  \"type\": \"redirect-cni\",\n\t  \"socket\": \"/run/redirect/cni.sock\",\n",
            "\t  \"excludeNamespaces\": [\n\t    \"kube-system\"\n\t  ],\n\t  \"timeoutSeconds\": 10\n\t}\n\t]\n}\n"
        );
        assert!(installed.ends_with(tail), "{installed}");
    }

    #[test]
    fn another_configuration_is_put_in_place() {
        let before = install(KINDNET, &Entry::default()).unwrap().unwrap();
        let after = install(&before, &entry()).unwrap().unwrap();
        assert_eq!(after, install(KINDNET, &entry()).unwrap().unwrap());
    }

    #[test]
    fn order_is_kept_and_doubles_go() {
        let plugins = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|it| format!(r#"{{"type":"{it}"}}"#)).collect();
            format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{}]}}"#, all.join(","))
        };
        for (before, after) in [
            (&["a", "redirect-cni", "b"][..], &["a", "redirect-cni", "b"][..]),
            (&["redirect-cni", "a", "b"], &["a", "b", "redirect-cni"]),
            (&["a", "redirect-cni", "b", "redirect-cni"], &["a", "b", "redirect-cni"]),
            (&["redirect-cni", "redirect-cni", "a"], &["a", "redirect-cni"]),
        ] {
            let installed = install(&plugins(before), &entry()).unwrap().unwrap();
            assert_eq!(types(&installed), after);
            assert_eq!(install(&installed, &entry()).unwrap(), None, "{before:?} twice");
            let bare: Vec<_> = before.iter().copied().filter(|it| *it != "redirect-cni").collect();
            assert_eq!(uninstall(&plugins(before)).unwrap().unwrap(), plugins(&bare));
        }
    }

    #[test]
    fn what_is_not_a_list_is_an_error_and_stays() {
        for text in [
            "",
            "{",
            "[]",
            r#"[[{"type":"a"}]]"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[["a"]]}"#,
            "\u{feff}{}",
            r#"{"cniVersion":"1.0.0","name":"n"}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}]} x"#,
        ] {
            assert!(matches!(install(text, &entry()), Err(ConflistError::Malformed(_))), "{text}");
            assert!(matches!(uninstall(text), Err(ConflistError::Malformed(_))), "{text}");
        }
        let alone = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"redirect-cni"}]}"#;
        assert!(matches!(install(alone, &entry()), Err(ConflistError::NoOther)));
        assert!(matches!(uninstall(alone), Err(ConflistError::NoOther)));
        let empty = r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#;
        assert!(matches!(install(empty, &entry()), Err(ConflistError::NoOther)));
        assert_eq!(uninstall(empty).unwrap(), None);
    }

    /// With such a list every pod would fail.
    #[test]
    fn a_list_of_a_version_that_is_not_spoken_is_left_alone() {
        for versions in [
            r#""name":"n""#,
            r#""cniVersion":"0.2.0""#,
            r#""cniVersion":"1.2.0""#,
            r#""cniVersion":"1.0.0","cniVersions":["1.0.0","1.2.0"]"#,
            r#""cniVersion":"0.2.0","cniVersions":["1.0.0"]"#,
        ] {
            let text = format!(r#"{{{versions},"plugins":[{{"type":"a"}}]}}"#);
            assert!(matches!(install(&text, &entry()), Err(ConflistError::Version(_))), "{text}");
            assert_eq!(uninstall(&text).unwrap(), None);
        }
        let text = r#"{"cniVersion":"0.3.1","cniVersions":["0.1.0","0.3.1","1.1.0"],"plugins":[{"type":"a"}]}"#;
        assert!(install(text, &entry()).unwrap().is_some());
    }
}
