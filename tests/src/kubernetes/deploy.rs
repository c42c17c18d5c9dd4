//! What an operator applies: the folder `deploy/`, built by the kustomize inside kubectl. `REDIRECT_DEPLOY` names the folder.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::api::Api;
use super::programs;
use crate::command::Cmd;

const VARIABLE: &str = "REDIRECT_DEPLOY";

/// All overlays.
pub const OVERLAYS: [&str; 4] = ["ebpf", "iptables", "kind", "uninstall"];
/// Namespace of the agent and of its service account.
pub const NAMESPACE: &str = "redirect-system";
/// Name of the service account, its role, and the daemon set.
pub const NAME: &str = "redirect-agent";

/// Where an overlay is.
pub fn folder(overlay: &str) -> Result<PathBuf> {
    let folder = env::var_os(VARIABLE);
    let folder = folder.with_context(|| format!("{VARIABLE} is not set: `cargo xtask test kubernetes` sets it"))?;
    Ok(PathBuf::from(folder).join("overlays").join(overlay))
}

/// An overlay as kubectl builds it.
pub fn build(overlay: &str) -> Result<String> {
    Cmd::new(programs::find("kubectl")?).args(["kustomize"]).args([folder(overlay)?]).run()
}

/// The objects of an overlay, in the order in which kubectl would apply them.
pub fn objects(overlay: &str) -> Result<Vec<Value>> {
    let text = build(overlay)?;
    let parse = |document| serde_saphyr::from_str(document).with_context(|| format!("{overlay}: {document}"));
    let objects: Vec<Value> = text.split("\n---\n").map(parse).collect::<Result<_>>()?;
    ensure!(objects.len() > 1, "overlay {overlay} has {} objects", objects.len());
    Ok(objects)
}

/// The one object of this kind.
pub fn object(overlay: &str, kind: &str) -> Result<Value> {
    let found = objects(overlay)?.into_iter().find(|object| object["kind"] == kind);
    found.with_context(|| format!("overlay {overlay} has no {kind}"))
}

/// Applies an overlay.
pub fn apply(api: &Api, overlay: &str) -> Result<()> {
    objects(overlay)?.iter().try_for_each(|object| api.apply(object).map(drop))
}
