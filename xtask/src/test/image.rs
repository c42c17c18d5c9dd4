//! The image: that it is the same each time, small enough, and that the demo passes with its binaries and its user land.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Result;

use super::totals::Totals;
use crate::guest::Guest;
use crate::image::unpacked::Unpacked;
use crate::image::{self, Archive};
use crate::kernels::{DEFAULT, Kernel, Series};
use crate::workspace::Workspace;
use crate::{programs, progress};

const MODES: [&str; 2] = ["iptables", "ebpf"];
/// The image is part of the guest's memory, twice while it boots.
const MEMORY_MB: u32 = 2048;
const DEADLINE: Duration = Duration::from_mins(15);

/// Builds it twice, and runs the demo with it in a guest.
pub(super) fn run(workspace: &Workspace, kernel: Option<Series>) -> Result<Totals> {
    let archive = image::agent(workspace)?;
    let mut totals = Totals::one(same(&archive, &image::agent(workspace)?));
    let unpacked = Unpacked::new(workspace, &archive)?;
    let kernel = Kernel::get(workspace, kernel.unwrap_or(DEFAULT))?;
    for mode in MODES {
        let script = format!("redirect-lab demo --mode {mode} --image-root /copy/image-root");
        let guest = Guest::new(kernel.clone(), programs::build(workspace)?, script)
            .copy([unpacked.root().to_owned()])
            .memory_mb(MEMORY_MB)
            .deadline(DEADLINE);
        let mut shown = io::stdout();
        let outcome = guest.run(workspace, &mut |bytes| {
            let _ = shown.write_all(bytes);
        })?;
        progress::say(format!("the demo with the image in {mode} mode: exit status {}", outcome.status));
        totals += Totals::one(outcome.status == 0);
    }
    Ok(totals)
}

fn same(first: &Archive, second: &Archive) -> bool {
    progress::say(format!("built twice: {} and {}", first.digest, second.digest));
    first == second
}
