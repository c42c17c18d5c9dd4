//! Which mode is in force: the one that was asked for, or iptables where BPF cannot be used.

use anyhow::Context as _;

use crate::bpf::{self, Bpf, Options};
use crate::config::Config;
use crate::config::Mode;

/// The programs in ebpf mode, else why they cannot be had.
pub(super) fn start(config: &Config) -> anyhow::Result<(Option<Bpf>, Option<String>)> {
    if config.mode == Mode::Iptables {
        return Ok((None, None));
    }
    let options = Options { dir: &config.bpf_dir, attach: config.tc_attach, flows: config.flows };
    match bpf::open(&options) {
        Ok(bpf) => {
            tracing::info!(attach = %bpf.kind, pins = %config.bpf_dir.display(), "ebpf mode");
            Ok((Some(bpf), None))
        }
        Err(error) if config.no_fallback => Err(error).context("BPF cannot be used, and --no-fallback is set"),
        Err(error) => {
            let reason = format!("{error:#}");
            tracing::warn!(reason, "BPF cannot be used: going on in iptables mode");
            Ok((None, Some(reason)))
        }
    }
}
