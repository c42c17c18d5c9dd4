//! A panic on demand, for the tests that show that the datapath outlives one.
//!
//! `REDIRECT_TEST_PANIC` names a file. While that file holds the name of a kind of resource (`map`, `program`), the loop panics
//! when it comes to that kind on the node. A build without debug checks, as is deployed, does not look at any of this.

use crate::resources::ledger::Kind;

/// Panics if a test wants the loop to end here.
#[cfg(debug_assertions)]
pub(super) fn perhaps_panic(kind: Kind) {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::{env, fs};

    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| env::var_os("REDIRECT_TEST_PANIC").map(PathBuf::from));
    let wanted = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
    assert!(wanted.is_none_or(|wanted| wanted.trim() != kind.name()), "a test wants a panic at kind {}", kind.name());
}

/// Deployed agents have no such thing.
#[cfg(not(debug_assertions))]
pub(super) const fn perhaps_panic(_kind: Kind) {}
