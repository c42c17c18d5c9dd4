//! The node's CNI chain, as the plugins of its network would write it: ptp or bridge, and portmap.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::cni::Topology;
use crate::layout::{BRIDGE, POD_SUBNET};

/// Where container runtimes look for it.
pub const CONF_DIR: &str = "/etc/cni/net.d";
/// And for plugins.
pub const PLUGIN_DIR: &str = "/opt/cni/bin";
const FILE: &str = "10-pods.conflist";

pub(super) fn configure(topology: Topology) -> Result<()> {
    let mut network = json!({
        "type": topology.to_string(),
        // The machine around the guest knows no way to pods.
        "ipMasq": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": POD_SUBNET }]], "routes": [{ "dst": "0.0.0.0/0" }] },
    });
    if topology == Topology::Bridge {
        network["bridge"] = BRIDGE.into();
        network["isGateway"] = true.into();
        network["hairpinMode"] = true.into();
    }
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true });
    let list = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [network, portmap] });
    fs::create_dir_all(CONF_DIR).with_context(|| format!("make {CONF_DIR}"))?;
    let text = format!("{}\n", serde_json::to_string_pretty(&list)?);
    fs::write(Path::new(CONF_DIR).join(FILE), text).with_context(|| format!("write {FILE}"))
}
