//! Who speaks with the API server: service accounts with tokens of their own, and files for clients.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::api::Api;
use super::control_plane::ControlPlane;

impl ControlPlane {
    /// Makes a service account, unless it is there, and returns the API as it sees it.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<Api> {
        let admin = self.admin();
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": namespace, "name": name } });
        admin.apply(&account)?;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": 7200 } });
        let answer = admin.post(&path, &request)?.good().with_context(|| format!("a token for {namespace}/{name}"))?;
        Ok(self.user(answer["status"]["token"].as_str().context("no token in the answer")?))
    }

    /// Writes a file that makes kubectl, or another client, this user of the API.
    pub fn kubeconfig(&self, file: &str, api: &Api) -> Result<PathBuf> {
        let path = self.dir().join(file);
        fs::write(&path, kubeconfig(api).to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

fn kubeconfig(api: &Api) -> Value {
    let cluster = json!({ "server": format!("https://{}", api.server), "certificate-authority": api.authority });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": cluster }],
        "users": [{ "name": "user", "user": { "token": api.token } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "user" } }],
        "current-context": "lab",
    })
}
