//! What the agent costs while nothing happens to its pods: the share of a processor that it takes with all the tools that it runs, beside few
//! rules of others and beside those of thousands of services, while nobody writes into these and while kube-proxy does.
//!
//! On a kernel without GENEVE the lab has no ztunnel; what is looked at in ztunnel's namespace is not measured then.

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::agent::AgentOptions;
use crate::backend::Backend;
use crate::command::Cmd;
use crate::enrolment::{self, MODES};
use crate::lab::Lab;
use crate::netns::Netns;

/// How many services kube-proxy has rules for.
const SERVICES: [usize; 2] = [0, 5000];
/// Between two changes of kube-proxy's (its `--iptables-min-sync-period` is a second).
const SYNC: Duration = Duration::from_secs(1);

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Whether there was a ztunnel.
    pub tunnels: bool,
    /// How long each was measured.
    pub seconds: u16,
    /// One for each mode and number of services.
    pub shares: Vec<Share>,
}

/// Of one processor, in percent.
#[derive(Debug, Serialize)]
pub struct Share {
    mode: String,
    services: usize,
    /// Nobody writes.
    quiet: f64,
    /// kube-proxy writes every second.
    written: f64,
}

/// Measures each for so many seconds.
pub fn measure(seconds: u16) -> Result<Figures> {
    let (tunnels, time) = (enrolment::has_geneve(), Duration::from_secs(seconds.into()));
    let mut shares = Vec::new();
    for (services, mode) in SERVICES.into_iter().flat_map(|services| MODES.map(|mode| (services, mode))) {
        let mut lab = enrolment::lab(tunnels)?;
        services_of(&lab.node(), services)?;
        lab.start_agent(&AgentOptions::default().in_mode(mode).arg("--no-fallback"))?;
        enrolment::settle(&lab)?;
        let quiet = share(&lab, time)?;
        let written = while_written(&lab.node(), || share(&lab, time))?;
        shares.push(Share { mode: mode.to_string(), services, quiet, written });
    }
    Ok(Figures { tunnels, seconds, shares })
}

/// As kube-proxy writes them, in iptables mode.
fn services_of(node: &Netns, services: usize) -> Result<()> {
    let mut text = "*nat\n:KUBE-SERVICES - [0:0]\n".to_owned();
    for number in 0..services {
        writeln!(text, ":KUBE-SVC-{number} - [0:0]\n:KUBE-SEP-{number} - [0:0]")?;
    }
    for number in 0..services {
        let ip = format!("10.97.{}.{}", number / 250, number % 250 + 1);
        writeln!(text, "-A KUBE-SERVICES -d {ip}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{number}")?;
        write!(text, "{}", service(number))?;
    }
    restore(node, &(text + "COMMIT\n"))
}

fn service(number: usize) -> String {
    format!(
        "-A KUBE-SVC-{number} -m comment --comment endpoint -j KUBE-SEP-{number}\n\
         -A KUBE-SEP-{number} -s 10.244.0.9/32 -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-SEP-{number} -p tcp -m tcp -j DNAT --to-destination 10.244.0.9:80\n"
    )
}

fn restore(node: &Netns, text: &str) -> Result<()> {
    Cmd::line(Backend::Nft.restore()).args(["--noflush"]).netns(node).stdin(text).run().map(drop)
}

/// Meanwhile a service's endpoint changes again and again.
fn while_written<T>(node: &Netns, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let text = format!("*nat\n:KUBE-SVC-0 - [0:0]\n:KUBE-SEP-0 - [0:0]\n{}COMMIT\n", service(0));
            while !over.load(Ordering::Relaxed) {
                restore(node, &text)?;
                thread::sleep(SYNC);
            }
            Ok::<_, anyhow::Error>(())
        });
        let outcome = work();
        over.store(true, Ordering::Relaxed);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(outcome)
    })
}

/// The agent's, with that of the tools that have ended.
fn share(lab: &Lab, time: Duration) -> Result<f64> {
    let (begun, before) = (Instant::now(), ticks(lab)?);
    thread::sleep(time);
    let took = ticks(lab)? - before;
    let second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    #[expect(clippy::cast_precision_loss, reason = "nobody waits for that long")]
    Ok(took as f64 / second as f64 / begun.elapsed().as_secs_f64() * 100.0)
}

/// `utime`, `stime`, `cutime` and `cstime` of `proc_pid_stat(5)`.
fn ticks(lab: &Lab) -> Result<u64> {
    let path = format!("/proc/{}/stat", lab.agent().context("there is no agent")?.pid);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // Behind the name, which may have spaces in it, the third field is the first.
    let (_, fields) = text.rsplit_once(") ").context("no name")?;
    let times = fields.split(' ').skip(11).take(4);
    times.map(|time| time.parse::<u64>().with_context(|| format!("{path}: {text:?}"))).sum()
}

/// A table for people.
#[must_use]
pub fn render(figures: &Figures) -> String {
    let Figures { tunnels, seconds, shares } = figures;
    let tunnels = if *tunnels { "with" } else { "without" };
    let mut text = format!("{tunnels} tunnels, {seconds} s each\n\nat rest      services    quiet %  written to %\n");
    for Share { mode, services, quiet, written } in shares {
        let _ = writeln!(text, "{mode:<12}{services:>9}{quiet:>11.1}{written:>14.1}");
    }
    text
}
