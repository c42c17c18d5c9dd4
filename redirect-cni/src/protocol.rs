//! What plugin and agent say to each other: one request a connection, one answer, each a line of JSON with a version and a
//! length limit. No I/O, so that both sides use it as it is.
//!
//! The two are of different age while a node is upgraded. Keys that are not known are passed over, so a key may be added; a
//! change that the other side must understand is a new [`VERSION`].

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version that is spoken.
pub const VERSION: u32 = 1;
/// Bytes of a request, with its line end. A list of a node's attachments is the largest, and comes from an input of
/// [`crate::input::LIMIT`] bytes.
pub const REQUEST_LIMIT: usize = 1 << 20;
/// Bytes of an answer, with its line end.
pub const ANSWER_LIMIT: usize = 16 * 1024;

/// What the plugin asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// A pod starts: answer when it is enrolled, or does not belong to the mesh.
    Add(Attachment),
    /// Is it still as it was?
    Check(Attachment),
    /// It is gone.
    Del(AttachmentId),
    /// All attachments of one network that there are.
    Gc(Valid),
    /// Could a pod start now?
    Status,
}

/// A pod's connection to a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// Which.
    pub id: AttachmentId,
    /// Whose.
    pub pod: Pod,
    /// The path of its network namespace, as the runtime gave it to the plugin.
    pub netns: String,
    /// What the plugin found there. What the agent opens must be the same.
    pub netns_id: NetnsId,
    /// The addresses that the plugins before said it has. Not checked against the namespace: the agent must.
    pub ips: Vec<IpAddr>,
}

/// How the specification tells attachments apart, and the network they are of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The network's name: lists of valid attachments are of one network each.
    pub network: String,
    /// The runtime's name for the container.
    pub container: String,
    /// The interface in the container.
    pub ifname: String,
}

/// A network namespace, as the kernel tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct NetnsId {
    /// Its file's device.
    pub dev: u64,
    /// Its file's inode.
    pub ino: u64,
}

/// A pod, as Kubernetes names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where the runtime tells.
    pub uid: Option<String>,
}

/// The attachments of one network that are valid; others of it are stale.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Valid {
    /// The network's name.
    pub network: String,
    /// Container and interface.
    pub attachments: Vec<(String, String)>,
}

/// What the agent says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Add`] and [`Request::Check`]: the pod's datapath stands, read back.
    Enrolled,
    /// To the same: nothing is to be done for it.
    NotMeshed,
    /// To the others: done, or ready.
    Done,
    /// Not now, for this reason. To [`Request::Status`]: no pod can start.
    RetryLater(String),
    /// Not at all, for this reason: what was said does not hold.
    Refused(String),
    /// To [`Request::Status`]: no pod can start, and those that run may not reach everything.
    Limited(String),
}

/// Why bytes are no message, or a message no bytes.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Longer than it may be.
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
    /// The other side is older or younger, and says what this one does not know.
    #[error("version {0} of the protocol is spoken, this is version {VERSION}")]
    Version(u32),
    /// Not a message.
    #[error("not a message: {0}")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    message: T,
}

/// A request's line.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, ProtocolError> {
    encode(request, REQUEST_LIMIT)
}

/// What a request's line says, with or without its end.
pub fn decode_request(line: &[u8]) -> Result<Request, ProtocolError> {
    decode(line, REQUEST_LIMIT)
}

/// An answer's line.
pub fn encode_answer(answer: &Answer) -> Result<Vec<u8>, ProtocolError> {
    encode(answer, ANSWER_LIMIT)
}

/// What an answer's line says, with or without its end.
pub fn decode_answer(line: &[u8]) -> Result<Answer, ProtocolError> {
    decode(line, ANSWER_LIMIT)
}

fn encode(message: &impl Serialize, limit: usize) -> Result<Vec<u8>, ProtocolError> {
    let mut bytes = serde_json::to_vec(&Envelope { version: VERSION, message })?;
    bytes.push(b'\n');
    if bytes.len() > limit { Err(ProtocolError::TooLong(limit)) } else { Ok(bytes) }
}

/// The version first: what another version says beside it may not make sense.
fn decode<T: DeserializeOwned>(line: &[u8], limit: usize) -> Result<T, ProtocolError> {
    if line.len() > limit {
        return Err(ProtocolError::TooLong(limit));
    }
    let Versioned { version } = serde_json::from_slice(line)?;
    if version != VERSION {
        return Err(ProtocolError::Version(version));
    }
    Ok(serde_json::from_slice::<Envelope<T>>(line)?.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            id: AttachmentId { network: "net".into(), container: "c1".into(), ifname: "eth0".into() },
            pod: Pod { namespace: "shop".into(), name: "cart-0".into(), uid: Some("u-1".into()) },
            netns: "/run/netns/c1".into(),
            netns_id: NetnsId { dev: 4, ino: 4_026_532_200 },
            ips: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let valid = Valid { network: "net".into(), attachments: vec![("c1".into(), "eth0".into())] };
        let requests = [
            Request::Add(attachment()),
            Request::Check(attachment()),
            Request::Del(attachment().id),
            Request::Gc(valid),
            Request::Status,
        ];
        for request in requests {
            assert_eq!(decode_request(&encode_request(&request).unwrap()).unwrap(), request);
        }
        for answer in [Answer::Enrolled, Answer::RetryLater("no ztunnel".into()), Answer::Limited("x\ny".into())] {
            let line = encode_answer(&answer).unwrap();
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
            assert_eq!(decode_answer(&line).unwrap(), answer);
        }
    }

    /// Agents and plugins of other releases read it: it does not change by accident.
    #[test]
    fn the_wire_form_is_fixed() {
        let line = String::from_utf8(encode_request(&Request::Add(attachment())).unwrap()).unwrap();
        assert_eq!(
            line,
            concat!(
                r#"{"version":1,"message":{"add":{"id":{"network":"net","container":"c1","ifname":"eth0"},"#,
                r#""pod":{"namespace":"shop","name":"cart-0","uid":"u-1"},"netns":"/run/netns/c1","#,
                r#""netns_id":{"dev":4,"ino":4026532200},"ips":["10.244.1.5","fd00::5"]}}}"#,
                "\n"
            )
        );
        assert_eq!(encode_answer(&Answer::NotMeshed).unwrap(), b"{\"version\":1,\"message\":\"not-meshed\"}\n");
    }

    #[test]
    fn another_version_is_told_from_garbage() {
        let younger = br#"{"version":2,"message":{"what":"ever"},"more":1}"#;
        assert!(matches!(decode_answer(younger), Err(ProtocolError::Version(2))));
        for garbage in [&b""[..], b"{", b"null", b"\xff", br#"{"version":1}"#, br#"{"version":1,"message":"drop"}"#] {
            assert!(matches!(decode_answer(garbage), Err(ProtocolError::Malformed(_))), "{garbage:?}");
        }
    }

    #[test]
    fn keys_that_are_not_known_are_passed_over() {
        let line = br#"{"version":1,"message":{"retry-later":"soon"},"hint":5}"#;
        assert_eq!(decode_answer(line).unwrap(), Answer::RetryLater("soon".into()));
    }

    #[test]
    fn neither_side_makes_or_takes_more_than_the_limit() {
        let long = Answer::Refused("x".repeat(ANSWER_LIMIT));
        assert!(matches!(encode_answer(&long), Err(ProtocolError::TooLong(ANSWER_LIMIT))));
        assert!(matches!(decode_request(&vec![b' '; REQUEST_LIMIT + 1]), Err(ProtocolError::TooLong(REQUEST_LIMIT))));
    }
}
