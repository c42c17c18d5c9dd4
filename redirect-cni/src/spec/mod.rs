//! The CNI specification, as far as a chained plugin meets it: versions 0.3.0 to 1.1.0.
//! See <https://github.com/containernetworking/cni/blob/main/SPEC.md>; sections are cited by their titles.

mod environment;
mod error;
mod names;
mod network;
mod pod;
mod result;
mod version;

pub use environment::{Command, Environment};
pub use error::{Code, Error};
pub use network::{Network, ValidAttachment, available, network, offered, version};
pub use pod::pod;
pub use result::Previous;
pub use version::Version;
