//! Addresses, ports and names of the lab's node: fixed, so that tables, tests and people can name them. What the agent
//! makes on the node is in `redirect_common::names`, not here.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

/// Prefix of a lab's network namespaces unless told otherwise.
pub const DEFAULT_PREFIX: &str = "rl";
/// `spec.nodeName` of every pod, and the agent's `--node-name`.
pub const NODE_NAME: &str = "lab-node";

/// The node's address: `status.hostIP` of its pods, one end of the tunnels.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
/// A second address of the same node, as nodes with several networks or virtual addresses have.
pub const NODE_SECOND_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 22);
/// The second node, on the same wire.
pub const REMOTE_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// Prefix length of the wire between the nodes.
pub const WIRE_PREFIX: u8 = 24;
/// The uplink's name on either node.
pub const UPLINK: &str = "eth0";

/// Addresses of the pods of the lab's node.
pub const POD_SUBNET: &str = "10.244.1.0/24";
/// A pod's interface, in its own netns.
pub const POD_LINK: &str = "eth0";
/// Bridge of the `bridge` topology.
pub const BRIDGE: &str = "cni0";

/// Port of the echo server in every pod.
pub const POD_PORT: u16 = 80;
/// The remote server.
pub const REMOTE_SERVER: SocketAddrV4 = SocketAddrV4::new(REMOTE_IP, 8080);
/// Name by which the remote server and its netns are called.
pub const REMOTE: &str = "remote";
/// Name by which the node is called where a pod's name is expected.
pub const NODE: &str = "node";
/// In a real cluster the node is a guest: its address, and that of the machine around it (QEMU's user networking).
pub const GUEST_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The machine around the guest; its loopback address from inside.
pub const AROUND_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Service in front of the remote server.
pub const SERVICE_REMOTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);
/// Service in front of `app-b`.
pub const SERVICE_APP_B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 20), 80);

/// Namespace labelled as part of the mesh.
pub const MESH_NAMESPACE: &str = "mesh";
/// Namespace without any label.
pub const PLAIN_NAMESPACE: &str = "default";
/// Namespace of ztunnel.
pub const PROXY_NAMESPACE: &str = "istio-system";

/// Where objects of BPF are pinned.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Where the agent of the lab called `prefix` pins its programs and maps: labs share one file system.
#[must_use]
pub fn bpf_dir(prefix: &str) -> PathBuf {
    PathBuf::from(BPFFS).join(format!("redirect-{prefix}"))
}

/// Everything that a lab keeps, one folder per lab.
#[must_use]
pub fn state_root() -> PathBuf {
    PathBuf::from("/run/redirect-lab")
}
