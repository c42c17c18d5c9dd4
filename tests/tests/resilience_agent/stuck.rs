//! The loop hangs in a write: it can be seen, and in what; the datapath stands, and when the write ends, all is well again. If it does
//! not end, kubelet is told to start the agent anew (in the long form: that takes minutes).

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use redirect_lab::backend::Backend;
use redirect_lab::command::Cmd;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{eventually, is_settled};
use redirect_lab::lab::Lab;
use redirect_lab::share::Share;
use redirect_lab::status::Status;
use redirect_lab::traffic::Traffic;

use crate::judged::{SETTLE, nothing_happens};

/// Who holds it keeps legacy iptables waiting, for 45 seconds as the agent calls it.
const LOCK: &str = "/run/xtables.lock";

/// Somebody holds the lock of iptables, where there is one; else a write hangs because a test wants it.
pub(crate) fn is_seen(lab: &mut Lab) -> Result<()> {
    nothing_happens("the agent hangs", 1, lab, |lab, traffic, _| {
        if lab.options().backend == Backend::Legacy {
            let file = File::create(LOCK).context(LOCK)?;
            let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context(LOCK)?;
            hangs(lab, traffic, "iptables-legacy-restore")?;
            drop(held);
        } else {
            lab.want_hang(0)?;
            hangs(lab, traffic, "chain in ztunnel's namespace")?;
            if Share::wanted().is_some() {
                is_given_up(lab)?;
            }
            lab.end_faults()?;
        }
        let status = lab.wait_until(SETTLE, "settled again", |status| is_settled(status) && status.ready)?;
        ensure!(status.stuck.is_none(), "it still hangs: {:?}", status.stuck);
        ensure!(!chain(lab)?.contains(STRANGE), "the chain is not put right");
        traffic.wait_for_more(1)
    })
}

/// Three minutes, and some for a slow machine.
const GIVEN_UP: Duration = Duration::from_mins(4);
/// What the agent finds in its chain and takes out again.
const STRANGE: &str = "-s 198.51.100.9/32";

fn hangs(lab: &Lab, traffic: &Traffic, at: &str) -> Result<()> {
    let iptables = lab.options().backend.iptables();
    let add = format!("{iptables} -t mangle -A ztunnel-PREROUTING {STRANGE} -j RETURN");
    // This one asks for another lock; with the same it would wait too.
    let other = lab.dir().join("xtables.lock");
    Cmd::line(&add).env("XTABLES_LOCKFILE", other).netns(&lab.pod_netns(ZTUNNEL)).run()?;
    let hangs = |status: &Status| status.stuck.as_ref().is_some_and(|stuck| stuck.at.contains(at));
    let status = lab.wait_until(SETTLE, "seen to hang", hangs)?;
    ensure!(!status.ready, "it calls itself ready");
    ensure!(status.complains("reconcile loop", "under way"), "it has no word for it: {:?}", status.problems);
    println!("        {:?}", status.stuck);
    traffic.wait_for_more(2)
}

/// A liveness probe succeeds for a while, and then no more.
fn is_given_up(lab: &Lab) -> Result<()> {
    ensure!(lab.agent_is_alive()?, "it is given up at once");
    eventually(GIVEN_UP, || {
        ensure!(!lab.agent_is_alive()?, "a liveness probe still succeeds");
        Ok(())
    })
}

fn chain(lab: &Lab) -> Result<String> {
    let list = format!("{} -t mangle -S ztunnel-PREROUTING", lab.options().backend.iptables());
    Cmd::line(&list).netns(&lab.pod_netns(ZTUNNEL)).run()
}
