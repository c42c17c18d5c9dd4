//! Whether the kernel counts an address among the meshed pods'.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redirect_common::names::SET_PODS;

use crate::command::Cmd;
use crate::lab::Lab;
use crate::mode::Mode;
use crate::pinned;

/// Between two questions to a map; a question to a set takes a process, which is longer.
const PAUSE: Duration = Duration::from_micros(50);
/// How long a pod may take.
const DEADLINE: Duration = Duration::from_mins(3);

/// Waits until the address is in (or out), and says how long after `since` it was.
pub(super) fn wait(lab: &Lab, mode: Mode, ip: Ipv4Addr, is_in: bool, since: Instant) -> Result<Duration> {
    let mut map = None;
    loop {
        let answer = match mode {
            // Until the agent has made it there is no map.
            Mode::Ebpf => match &map {
                None => {
                    map = pinned::Pods::open(lab).ok();
                    false
                }
                Some(map) => map.contains(ip)? == is_in,
            },
            Mode::Iptables => {
                let asked = Cmd::new("ipset").args(["test", SET_PODS, &ip.to_string()]).netns(&lab.node()).output()?;
                asked.status.success() == is_in
            }
        };
        let took = since.elapsed();
        if answer {
            return Ok(took);
        }
        ensure!(took < DEADLINE, "{ip} is not {} after {took:.1?}", if is_in { "in" } else { "out" });
        thread::sleep(PAUSE);
    }
}

/// How many there are.
pub(super) fn count(lab: &Lab, mode: Mode) -> Result<usize> {
    Ok(match mode {
        Mode::Ebpf => pinned::pods(lab)?.len(),
        Mode::Iptables => {
            let set = Cmd::new("ipset").args(["save", SET_PODS]).netns(&lab.node()).run()?;
            set.lines().filter(|line| line.starts_with("add ")).count()
        }
    })
}
