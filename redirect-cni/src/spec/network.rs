//! What a runtime says on standard input: the network's configuration with our entry's keys ("Deriving request configuration
//! from plugin configuration").

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::names::{is_identifier, is_interface};
use super::{Code, Command, Error, Version};
use crate::json::object;

/// How deep objects and lists may be in one another. Parsers of runtimes take more; results have five.
const DEPTH: usize = 64;
/// Bytes of a unix socket's path, without its end (`sun_path`).
const SOCKET_PATH: usize = 107;
/// How long a pod's start may wait for the agent.
const TIMEOUT: u64 = 10;
/// Kubelet gives up on a call of the runtime after 120 s, and other plugins want some of them.
const TIMEOUTS: std::ops::RangeInclusive<u64> = 1..=60;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network<'a> {
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// What the plugins before have said, as they wrote it.
    #[serde(borrow)]
    pub prev_result: Option<&'a RawValue>,
    /// GC: the attachments that are there; absent where the runtime does not know.
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "present")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
    /// Ours: where the agent listens.
    #[serde(default = "socket")]
    pub socket: PathBuf,
    /// Ours: namespaces whose pods start whatever the agent says.
    #[serde(default)]
    pub exclude_namespaces: Vec<String>,
    /// Ours: how long a pod's start may wait for the agent.
    #[serde(default = "timeout")]
    timeout_seconds: u64,
}

/// An attachment that is there.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct ValidAttachment {
    /// The runtime's name for the container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface in the container.
    pub ifname: String,
}

impl Network<'_> {
    /// How long a pod's start may wait for the agent.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |key: &str, value: String| {
            Err(Error::new(Code::InvalidConfiguration, format!("invalid {key} in the network configuration"), value))
        };
        if !is_identifier(&self.name) {
            return wrong("name", format!("{:?}", self.name));
        }
        if !self.socket.is_absolute() || self.socket.as_os_str().len() > SOCKET_PATH {
            return wrong(
                "socket",
                format!("{} (an absolute path of at most {SOCKET_PATH} bytes)", self.socket.display()),
            );
        }
        if !TIMEOUTS.contains(&self.timeout_seconds) {
            return wrong("timeoutSeconds", format!("{} (1 to {})", self.timeout_seconds, TIMEOUTS.end()));
        }
        let bad = |it: &&ValidAttachment| !is_identifier(&it.container) || !is_interface(&it.ifname);
        match self.valid_attachments.iter().flatten().find(bad) {
            Some(bad) => wrong("cni.dev/valid-attachments", format!("{bad:?}")),
            None => Ok(()),
        }
    }
}

fn socket() -> PathBuf {
    crate::SOCKET.into()
}

fn timeout() -> u64 {
    TIMEOUT
}

/// A Go runtime writes an empty list as `null`; that is another thing than no list.
fn present<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<Vec<ValidAttachment>>, D::Error> {
    Option::deserialize(source).map(|list| Some(list.unwrap_or_default()))
}

/// The version of the configuration in `text`. Before anything else of it is looked at: in another version it may mean
/// something else.
pub fn version(text: &str) -> Result<Version, Error> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "cniVersion", default)]
        version: String,
    }
    check_depth(text)?;
    let Header { version } = object(text).map_err(|error| undecodable(&error))?;
    Version::named(&version).ok_or_else(|| {
        incompatible(format!("the network configuration is of version {version:?}; spoken are {}", Version::names()))
    })
}

/// Is there such a command in this version?
pub fn available(command: Command, version: Version) -> Result<(), Error> {
    if version >= command.since() {
        return Ok(());
    }
    Err(incompatible(format!("version {version} has no {command}; it came with {}", command.since())))
}

/// The version that a runtime offers in VERSION, to be said back. What it says beside makes no difference.
#[must_use]
pub fn offered(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "cniVersion")]
        version: String,
    }
    check_depth(text).ok()?;
    let Header { version } = object(text).ok()?;
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    (!version.is_empty() && version.len() < 32 && version.bytes().all(plain)).then_some(version)
}

/// The configuration in `text`, checked.
pub fn network(text: &str) -> Result<Network<'_>, Error> {
    let network: Network<'_> = object(text).map_err(|error| undecodable(&error))?;
    network.check()?;
    Ok(network)
}

/// What is not looked into is passed over without recursion, so a parser would let it through to the next one's stack.
fn check_depth(text: &str) -> Result<(), Error> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH {
            return Err(Error::new(
                Code::Decoding,
                "cannot decode the network configuration",
                format!("more than {DEPTH} objects and lists in one another"),
            ));
        }
    }
    Ok(())
}

fn undecodable(error: &serde_json::Error) -> Error {
    Error::new(Code::Decoding, "cannot decode the network configuration", error.to_string())
}

fn incompatible(details: String) -> Error {
    Error::new(Code::IncompatibleVersion, "incompatible CNI version", details)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(answer: Result<T, Error>) -> Option<Code> {
        answer.err().map(|error| error.code)
    }

    #[test]
    fn versions_and_what_they_have() {
        for known in Version::ALL {
            let text = format!(r#"{{"cniVersion":"{known}"}}"#);
            assert_eq!(version(&text), Ok(known));
            assert!(available(Command::Add, known).is_ok() && available(Command::Del, known).is_ok(), "{known}");
            assert_eq!(available(Command::Check, known).is_ok(), known >= Version::V0_4_0, "{known}");
            assert_eq!(available(Command::Gc, known).is_ok(), known >= Version::V1_1_0, "{known}");
            assert_eq!(available(Command::Status, known).is_ok(), known >= Version::V1_1_0, "{known}");
        }
        for unknown in [r#""0.1.0""#, r#""0.2.0""#, r#""1.2.0""#, r#""2.0.0""#, r#""""#, r#""1.0""#, r#""x""#] {
            let text = format!(r#"{{"cniVersion":{unknown},"prevResult":7}}"#);
            assert_eq!(code(version(&text)), Some(Code::IncompatibleVersion), "{unknown}");
        }
        // None is 0.1.0's way to say so.
        assert_eq!(code(version("{}")), Some(Code::IncompatibleVersion));
    }

    #[test]
    fn what_is_not_a_configuration_cannot_be_decoded() {
        for text in ["", "{", "null", "[]", r#"["1.0.0"]"#, "7", r#"{"cniVersion":1}"#, r#"{"cniVersion":"1.0.0"} x"#] {
            assert_eq!(code(version(text)), Some(Code::Decoding), "{text}");
        }
        for text in [r#"{"name":7}"#, r#"{"name":"a","prevResult":{},"prevResult":{}}"#, r#"{"excludeNamespaces":"a"}"#]
        {
            assert_eq!(code(network(text)), Some(Code::Decoding), "{text}");
        }
    }

    #[test]
    fn depth_is_limited_also_in_what_is_passed_on() {
        let deep = |depth: usize| {
            format!(
                r#"{{"cniVersion":"1.0.0","prevResult":{}1{}}}"#,
                r#"{"]":["#.repeat(depth / 2),
                "]}".repeat(depth / 2)
            )
        };
        assert!(version(&deep(60)).is_ok());
        assert_eq!(code(version(&deep(200))), Some(Code::Decoding));
        assert_eq!(code(version(&deep(100_000))), Some(Code::Decoding));
        let text = format!(r#"{{"cniVersion":"1.0.0","x":"{}\"{}"}}"#, "[".repeat(999), "{".repeat(999));
        assert!(version(&text).is_ok());
    }

    #[test]
    fn defaults_and_limits() {
        let plain = network(r#"{"name":"net","type":"redirect-cni","other":{"a":1}}"#).unwrap();
        assert_eq!((plain.socket.as_path(), plain.timeout()), (crate::SOCKET.as_ref(), Duration::from_secs(10)));
        assert!(plain.prev_result.is_none() && plain.valid_attachments.is_none());
        for wrong in [
            r#""name":"""#,
            r#""name":"a/b""#,
            r#""name":"a","socket":"run/x""#,
            r#""name":"a","timeoutSeconds":0"#,
            r#""name":"a","timeoutSeconds":61"#,
            r#""name":"a","cni.dev/valid-attachments":[{"containerID":"../x","ifname":"eth0"}]"#,
        ] {
            assert_eq!(code(network(&format!("{{{wrong}}}"))), Some(Code::InvalidConfiguration), "{wrong}");
        }
        let long = format!(r#"{{"name":"a","socket":"/{}"}}"#, "x".repeat(SOCKET_PATH));
        assert_eq!(code(network(&long)), Some(Code::InvalidConfiguration));
    }

    #[test]
    fn no_list_of_attachments_is_not_an_empty_one() {
        let list =
            |value: &str| network(&format!(r#"{{"name":"a"{value}}}"#)).unwrap().valid_attachments.map(|it| it.len());
        assert_eq!(list(""), None);
        assert_eq!(list(r#","cni.dev/valid-attachments":null"#), Some(0));
        assert_eq!(list(r#","cni.dev/valid-attachments":[]"#), Some(0));
        assert_eq!(list(r#","cni.dev/valid-attachments":[{"containerID":"c","ifname":"e","x":1}]"#), Some(1));
    }

    #[test]
    fn a_version_is_said_back_if_it_is_one() {
        assert_eq!(offered(r#"{"cniVersion":"9.9.9"}"#).as_deref(), Some("9.9.9"));
        for text in ["", "{}", "garbage", r#"{"cniVersion":""}"#, r#"{"cniVersion":"<x>"}"#, r#"{"cniVersion":1}"#] {
            assert_eq!(offered(text), None, "{text}");
        }
    }
}
