//! What is dropped for want of a proxy is counted by why, in status and as a metric; what has nothing to do with it is not.

use anyhow::{Context, Result, ensure};
use redirect_lab::client::probe;
use redirect_lab::command::Cmd;
use redirect_lab::demo::SETTLE;
use redirect_lab::lab::Lab;
use redirect_lab::layout::{NODE, PROXY_NAMESPACE, REMOTE};
use redirect_lab::pod::Pod;
use redirect_lab::status::Status;

use super::is_without;

/// Connections that nobody blocks.
const MANY: u64 = 10;
/// What each of them takes at least: to begin, to say something, and to end, with the other's answers.
const PACKETS: u64 = 8;
const DIRECT: [(&str, &str); 3] = [("plain", REMOTE), (REMOTE, "plain-b"), (NODE, "app-a")];
const BLOCKED: [(&str, &str, &str); 4] = [
    ("app-a", REMOTE, "outbound"),
    ("app-b", "app-a", "outbound"),
    (REMOTE, "app-a", "inbound"),
    ("plain", "app-b", "inbound"),
];

/// ztunnel is `proxy`, and goes; then `next` comes.
pub(super) fn counted(lab: &mut Lab, proxy: &str, next: &str) -> Result<()> {
    let former = lab.pod(proxy)?.ip()?;
    lab.remove_pod(proxy)?;
    lab.wait_until(SETTLE, "without a proxy", is_without)?;
    let before = looked_again(lab)?;
    for (from, to) in DIRECT {
        for _ in 0..MANY {
            probe(&lab.place(from)?, lab.target(to)?, None).with_context(|| format!("{from} to {to}"))?;
        }
    }
    // Whoever spoke with a ztunnel that has gone says it again now and then.
    let more = total(&looked_again(lab)?) - total(&before);
    ensure!(more < MANY * PACKETS, "{more} more packets are counted as blocked");
    // As the kernel does by itself after half a minute, behind a bridge: it asks for ztunnel's MAC address then.
    Cmd::line(&format!("ip neigh flush to {former}")).netns(&lab.node()).run()?;
    for (from, to, why) in BLOCKED {
        let before = count(&looked_again(lab)?, why);
        let seen = probe(&lab.place(from)?, lab.target(to)?, None);
        ensure!(seen.is_err(), "{from} reached {to}: {seen:?}");
        lab.wait_until(SETTLE, &format!("{why} {from} to {to} counted"), |status| count(status, why) > before)?;
    }
    let (said, counts) = (lab.metrics()?, looked_again(lab)?.blocked);
    for why in counts.keys() {
        let name = format!("redirect_blocked_packets_total{{why=\"{why}\"}} ");
        ensure!(said.contains(&name), "no {name}in {said}");
    }
    lab.add_pod(Pod::proxy(PROXY_NAMESPACE, next)?)?;
    lab.wait_until(SETTLE, "programmed", |status| status.proxied_by(next)).map(drop)
}

/// The status when all that counts has been looked at after this was asked.
fn looked_again(lab: &Lab) -> Result<Status> {
    let enough = lab.status()?.reconciles + 2;
    lab.wait_until(SETTLE, "looked at again", |status| status.settled && status.reconciles >= enough)
}

fn count(status: &Status, why: &str) -> u64 {
    status.blocked.get(why).copied().unwrap_or_default()
}

fn total(status: &Status) -> u64 {
    status.blocked.values().sum()
}
