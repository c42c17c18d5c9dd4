//! `redirect-lab proxy-log` and `capture`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::demo::ZTUNNEL;
use crate::lab::Lab;
use crate::layout::{POD_LINK, REMOTE, UPLINK};
use crate::netns::Netns;
use crate::process::ended;
use crate::proxy::{Record, read};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Args, Debug)]
pub(super) struct ProxyLogArgs {
    /// The pod whose proxy is meant
    #[arg(long, default_value = ZTUNNEL)]
    pod: String,
    /// Go on showing connections as they come
    #[arg(long, short)]
    follow: bool,
    /// How to print a connection
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn proxy_log(lab: &Lab, args: &ProxyLogArgs) -> Result<()> {
    let log = lab.proxy_log(&lab.pod(&args.pod)?.name);
    // Watched before it is read: what is written between the two is not missed.
    let watch = args.follow.then(|| watch(&log)).transpose()?;
    let mut offset = 0;
    loop {
        let (records, end) = read(&log, offset)?;
        offset = end;
        for record in records {
            println!("{}", if args.output == Format::Json { serde_json::to_string(&record)? } else { text(&record) });
        }
        match &watch {
            Some(watch) => drop(watch.read_events()?),
            None => return Ok(()),
        }
    }
}

fn watch(log: &Path) -> Result<Inotify> {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
    watch.add_watch(log, AddWatchFlags::IN_MODIFY).with_context(|| format!("no log {}", log.display()))?;
    Ok(watch)
}

fn text(record: &Record) -> String {
    let end = match (&record.onward_source, &record.error) {
        (Some(source), _) => format!("onward as {source}"),
        (None, Some(error)) => error.clone(),
        (None, None) => "not forwarded".to_owned(),
    };
    let Record { direction, listener, client, original_dst, .. } = record;
    format!("{direction:?} on {listener}: {client} to {original_dst}, {end}")
}

#[derive(Args, Debug)]
pub(super) struct CaptureArgs {
    /// A link of the node (`istioin`, `eth0`, `any`), a pod, or `remote`
    #[arg(long)]
    on: String,
    /// End after this many packets
    #[arg(long)]
    count: Option<u32>,
    /// End after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// What to show, in tcpdump's words: `tcp port 80`
    filter: Vec<String>,
}

pub(super) fn capture(lab: &Lab, args: &CaptureArgs) -> Result<()> {
    let (netns, link) = if args.on == REMOTE {
        (lab.remote(), UPLINK)
    } else if lab.pods().iter().any(|pod| pod.name == args.on) {
        (lab.pod_netns(&args.on), POD_LINK)
    } else {
        (lab.node(), args.on.as_str())
    };
    let mut command = Command::new("tcpdump");
    command.args(["-n", "-l", "-i", link]);
    if let Some(count) = args.count {
        command.args(["-c", &count.to_string()]);
    }
    command.args(&args.filter);
    run(&mut command, &netns, args.seconds.map(Duration::from_secs))
}

fn run(command: &mut Command, netns: &Netns, limit: Option<Duration>) -> Result<()> {
    let mut child = netns.run(|| command.spawn())?.context("cannot run tcpdump")?;
    if let Some(limit) = limit {
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        if !ended(&pidfd, limit)? {
            pidfd_send_signal(&pidfd, Signal::INT)?;
        }
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { bail!("tcpdump: {status}") }
}
