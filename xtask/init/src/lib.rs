//! What the guest's first process and the host that booted it agree on: places in the guest, and the frames that the one
//! tells the other about the command. The process itself is the binary of this package.

pub mod places;
pub mod wire;

// Used by the binary only.
use {anyhow as _, nix as _};
