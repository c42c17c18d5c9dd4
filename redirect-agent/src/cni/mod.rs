//! What the CNI plugin tells of pods that start: it is believed as far as it can be seen in the pod's network namespace, and
//! the plugin is answered when the pod's datapath stands, so that no packet of it leaves before.
//!
//! * [`server`]: the socket, and who may ask.
//! * [`inspect`]: whether what is said holds.
//! * [`book`]: the attachments that there are, and to which pods they give which addresses. Pure.
//! * [`desk`]: the book, shared by clients and loop.
//! * [`attachments`]: the loop's side of it; [`store`]: the book's file.
//! * [`answer`]: what a run of the loop means for a pod that waits. Pure.

mod answer;
pub(crate) mod attachments;
pub(crate) mod book;
pub(crate) mod desk;
mod inspect;
pub(crate) mod server;
pub(crate) mod store;

/// File name of the socket in the state directory.
pub(crate) const SOCKET: &str = "cni.sock";
