//! The ways into the kernel that every resource uses: netlink, network namespaces, and the processes for which there is no
//! stable kernel interface. No decisions are taken here.
//!
//! All that changes the node goes through [`netlink`], [`process`], [`bpf`] or [`file`], and there each write passes
//! [`fault`].

pub(crate) mod bpf;
pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod links;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod nftables;
pub(crate) mod process;
pub(crate) mod sockets;
pub(crate) mod tc;
