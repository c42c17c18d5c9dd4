//! Our entry in a list.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

/// What the plugin is configured with. [`crate::spec::Network`] reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Namespaces whose pods start whatever the agent says.
    pub exclude_namespaces: Vec<String>,
    /// How long a pod's start may wait for the agent.
    pub timeout_seconds: u64,
}

impl Default for Entry {
    fn default() -> Self {
        Self { socket: crate::SOCKET.into(), exclude_namespaces: Vec::new(), timeout_seconds: 10 }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    r#type: &'static str,
    socket: String,
    exclude_namespaces: &'a [String],
    timeout_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    converted_from: Option<&'a str>,
}

impl Entry {
    /// The entry as a value, for comparison. `original` is the file that the list was made of, if it was.
    pub(super) fn value(&self, original: Option<&str>) -> Value {
        serde_json::to_value(self.written(original)).unwrap_or_default()
    }

    /// The entry as text, to stand after `space`: on one line, or on several as far in.
    pub(super) fn text(&self, original: Option<&str>, space: &str) -> String {
        let written = self.written(original);
        let Some((_, indent)) = space.rsplit_once('\n') else {
            return serde_json::to_string(&written).unwrap_or_default();
        };
        // A string's own line ends are escaped.
        serde_json::to_string_pretty(&written).unwrap_or_default().replace('\n', &format!("\n{indent}"))
    }

    fn written<'a>(&'a self, original: Option<&'a str>) -> Written<'a> {
        Written {
            r#type: crate::PLUGIN,
            socket: self.socket.to_string_lossy().into_owned(),
            exclude_namespaces: &self.exclude_namespaces,
            timeout_seconds: self.timeout_seconds,
            converted_from: original,
        }
    }
}
