//! Who speaks with the API server: service accounts with tokens of their own, and files for clients, here and on nodes.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::api::Api;
use super::control_plane::ControlPlane;
use super::{certificates, users};

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

/// What a node's programs and its administrator need, as files of a folder that can be moved to the node.
pub mod node_files {
    /// Who may do everything.
    pub const ADMIN: &str = "admin.json";
    /// kubelet.
    pub const KUBELET: &str = "kubelet.json";
    /// Where an echo server outside of the node is found; written by who starts one.
    pub const REMOTE: &str = "remote";
    /// kube-proxy.
    pub const KUBE_PROXY: &str = "kube-proxy.json";
}

impl ControlPlane {
    /// Writes the [`node_files`], for nodes that find the API server at this address.
    pub fn write_node_files(&self, folder: &Path, address: Ipv4Addr) -> Result<()> {
        let authority = self.dir().join(certificates::AUTHORITY);
        fs::copy(&authority, folder.join(certificates::AUTHORITY)).context("copy the authority's certificate")?;
        let users = [
            (node_files::ADMIN, users::ADMIN),
            (node_files::KUBELET, users::NODE),
            (node_files::KUBE_PROXY, users::KUBE_PROXY),
        ];
        for (file, user) in users {
            let mut api = self.user(user.token);
            api.server.set_ip(address);
            // A path in a kubeconfig begins in the folder of the file.
            api.authority = certificates::AUTHORITY.into();
            fs::write(folder.join(file), kubeconfig(&api).to_string()).with_context(|| format!("write {file}"))?;
        }
        Ok(())
    }
}

impl Api {
    /// The API as a kubeconfig of the lab describes it.
    pub fn of_kubeconfig(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let file: Value = serde_json::from_slice(&text).with_context(|| format!("{} is not ours", path.display()))?;
        let (cluster, user) = (&file["clusters"][0]["cluster"], &file["users"][0]["user"]);
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a kubeconfig of another kind");
        let server = text(&cluster["server"])?;
        let server = server.strip_prefix("https://").unwrap_or(&server);
        let folder = path.parent().unwrap_or(Path::new("/"));
        Ok(Self {
            server: server.parse().with_context(|| format!("not an address: {server}"))?,
            authority: folder.join(text(&cluster["certificate-authority"])?),
            token: text(&user["token"])?,
            netns: None,
        })
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
