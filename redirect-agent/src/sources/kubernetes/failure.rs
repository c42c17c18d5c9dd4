//! What is said of a request that failed: what an operator can do about it, first of all which permission is missing.

use std::time::Duration;

use kube::core::Status;

/// Why a request or a watch failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    /// The version that the watch began at is forgotten, or the server has not come that far: only a new list helps.
    pub(super) expired: bool,
}

impl Failure {
    /// A failure of our own finding.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), expired: false }
    }

    /// Nothing came for so long.
    pub(super) fn timeout(verb: &str, resource: &str, limit: Duration) -> Self {
        Self::new(format!("the API server did not answer to {verb} {resource} within {} s", limit.as_secs()))
    }

    /// What the API server or the way to it made of a request.
    pub(super) fn of(error: &kube::Error, verb: &str, resource: &str) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(status, verb, resource),
            other => Self::new(format!("cannot {verb} {resource}: {}", chain(other))),
        }
    }

    /// What the API server said instead of an event or an answer.
    pub(super) fn answered(status: &Status, verb: &str, resource: &str) -> Self {
        let Status { code, message, .. } = status;
        let message = match code {
            401 => format!("the API server does not know the agent's credentials (401): {message}"),
            403 => format!(
                "the agent may not {verb} {resource}: its role must allow verb {verb} on {resource} ({message})"
            ),
            410 => {
                format!("the API server has forgotten what the watch of {resource} had seen (410); listing them anew")
            }
            _ => format!("the API server refused to {verb} {resource}: {code} {message}"),
        };
        // Older servers send an expired version as an event with the reason alone (kubernetes #66425 tells the two apart).
        let expired = *code == 410 || matches!(status.reason.as_str(), "Expired" | "Gone") || is_ahead(status);
        Self { message, expired }
    }
}

/// Whether the server has not come as far as the version that was asked for: after etcd was restored from an older copy it may be long
/// before it does (`NewTooLargeResourceVersionError` of apimachinery).
fn is_ahead(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
}

/// An error with its causes; one that only repeats its cause is left out.
fn chain(error: &kube::Error) -> String {
    // `kube` names the layer that failed, which helps nobody; what it failed of comes next.
    let outermost: &dyn std::error::Error = match error {
        kube::Error::Service(cause) => &**cause,
        other => other,
    };
    let mut text = outermost.to_string();
    let mut cause = outermost.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, reason: &str) -> Failure {
        let status = Status::failure("no", reason).with_code(code).boxed();
        Failure::of(&kube::Error::Api(status), "watch", "pods")
    }

    #[test]
    fn a_missing_permission_is_named() {
        let failure = api(403, "Forbidden");
        assert!(failure.message.contains("must allow verb watch on pods"), "{}", failure.message);
        assert!(!failure.expired);
    }

    #[test]
    fn only_a_forgotten_version_makes_a_new_list() {
        assert!(api(410, "Gone").expired && api(410, "Expired").expired && api(0, "Expired").expired);
        assert!(!api(500, "InternalError").expired && !api(401, "Unauthorized").expired);
        let ahead: Status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": 504, "reason": "Timeout", "message": "Too large resource version: 9, current: 3",
            "details": { "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }] },
        }))
        .unwrap();
        assert!(Failure::answered(&ahead, "watch", "pods").expired);
        assert!(!Failure::timeout("list", "pods", Duration::from_secs(1)).expired);
    }
}
