//! Requests to the API server as one of its users. curl makes them: the lab needs no library that speaks HTTP and TLS.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::watch::Watch;
use crate::command::Cmd;
use crate::netns::Netns;

/// For one request.
const SECONDS: &str = "30";
const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// The API server as one user sees it.
#[derive(Clone, Debug)]
pub struct Api {
    pub(super) server: SocketAddrV4,
    pub(super) authority: PathBuf,
    pub(super) token: String,
    pub(super) netns: Option<Netns>,
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The body, if it is JSON.
    pub object: Value,
}

impl Answer {
    /// The object, of a request that succeeded.
    pub fn good(self) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "HTTP {}: {}", self.status, self.object["message"]);
        Ok(self.object)
    }
}

impl Api {
    /// Any request; not being answered is an error.
    pub fn request(&self, method: &str, path: &str, content: Option<(&str, &Value)>) -> Result<Answer> {
        let mut curl = Cmd::new("curl").args(self.arguments(path));
        curl = curl.args(["--max-time", SECONDS, "--request", method, "--write-out", "\n%{http_code}"]);
        if let Some((kind, object)) = content {
            curl = curl
                .args(["--header", &format!("Content-Type: {kind}"), "--data-binary", "@-"])
                .stdin(object.to_string());
        }
        if let Some(netns) = &self.netns {
            curl = curl.netns(netns);
        }
        let text = curl.run()?;
        let (body, status) = text.rsplit_once('\n').context("curl tells no status")?;
        let object = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
        Ok(Answer { status: status.parse().with_context(|| format!("not a status: {status}"))?, object })
    }

    /// Reads.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, None)
    }

    /// Makes an object below the path of a collection.
    pub fn post(&self, path: &str, object: &Value) -> Result<Answer> {
        self.request("POST", path, Some((JSON, object)))
    }

    /// Changes fields of what is at the path; `null` removes one.
    pub fn patch(&self, path: &str, change: &Value) -> Result<Answer> {
        self.request("PATCH", path, Some((MERGE, change)))
    }

    /// Removes at once. (A pod is otherwise only marked, and its kubelet removes it.)
    pub fn delete(&self, path: &str) -> Result<Answer> {
        self.request("DELETE", &format!("{path}?gracePeriodSeconds=0"), None)
    }

    /// Makes an object, or makes it what is given here; what others set in it stays.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let path = path(object)?;
        let query = "?fieldManager=redirect-lab&force=true";
        let answer = self.request("PATCH", &format!("{path}{query}"), Some((APPLY, object)))?;
        answer.good().with_context(|| format!("apply {path}"))
    }

    /// What happens to the objects of a collection after this resource version.
    pub fn watch(&self, path: &str, since: &str) -> Result<Watch> {
        let path = format!("{path}?watch=true&resourceVersion={since}");
        let mut command = Command::new("curl");
        command.arg("--no-buffer").args(self.arguments(&path));
        Watch::start(command, self.netns.as_ref())
    }

    fn arguments(&self, path: &str) -> Vec<String> {
        let Self { server, authority, token, .. } = self;
        let header = format!("Authorization: Bearer {token}");
        // To user agents of people the server answers with pretty JSON.
        let known = ["--silent", "--show-error", "--user-agent", "redirect-lab", "--cacert"].map(str::to_owned);
        let given = [authority.display().to_string(), "--header".to_owned(), header, format!("https://{server}{path}")];
        known.into_iter().chain(given).collect()
    }
}

/// Where an object is, by its kind, namespace and name.
pub fn path(object: &Value) -> Result<String> {
    let text = |value: &'_ Value| value.as_str().map(str::to_owned);
    let (version, kind, name) = (text(&object["apiVersion"]), text(&object["kind"]), text(&object["metadata"]["name"]));
    let (Some(version), Some(kind), Some(name)) = (version, kind, name) else { bail!("not an object: {object}") };
    let group = if version.contains('/') { "apis" } else { "api" };
    let namespace =
        text(&object["metadata"]["namespace"]).map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    Ok(format!("/{group}/{version}{namespace}/{}s/{name}", kind.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_those_of_the_api() -> Result<()> {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "a", "name": "b" } });
        assert_eq!(path(&pod)?, "/api/v1/namespaces/a/pods/b");
        let role =
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "c" } });
        assert_eq!(path(&role)?, "/apis/rbac.authorization.k8s.io/v1/clusterroles/c");
        assert!(path(&json!({ "kind": "Pod" })).is_err());
        Ok(())
    }
}
