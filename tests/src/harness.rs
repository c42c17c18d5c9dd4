//! What the integration tests share: labs chosen by the environment, and checks that are all run before any is judged.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::agent::AgentOptions;
use crate::demo::{SETTLE, ZTUNNEL};
use crate::lab::Lab;
use crate::scoped::ScopedLab;
use crate::state::Options;
use crate::status::Status;

/// The options that `REDIRECT_BACKEND` and `REDIRECT_TOPOLOGY` ask for; nft and ptp if they do not.
pub fn options(prefix: &str) -> Result<Options> {
    Ok(Options {
        prefix: prefix.to_owned(),
        topology: choice("REDIRECT_TOPOLOGY", "ptp")?,
        backend: choice("REDIRECT_BACKEND", "nft")?,
        rp_filter: 2,
    })
}

fn choice<T: ValueEnum>(name: &str, default: &str) -> Result<T> {
    let value = env::var(name).unwrap_or_else(|_| default.to_owned());
    T::from_str(&value, false).map_err(anyhow::Error::msg).with_context(|| format!("{name}={value}"))
}

/// Agent options that make it look for drift every second.
#[must_use]
pub fn watchful() -> AgentOptions {
    AgentOptions { args: vec!["--resync=1".to_owned()], ..AgentOptions::default() }
}

/// A lab whose agent has settled.
pub fn settled(prefix: &str) -> Result<(ScopedLab, Status)> {
    let mut lab = ScopedLab::up(options(prefix)?)?;
    let status = start(&mut lab, &watchful())?;
    Ok((lab, status))
}

/// Starts the agent and waits until it has settled; in the mode that was asked for, unless it lacks something.
pub fn start(lab: &mut Lab, options: &AgentOptions) -> Result<Status> {
    lab.start_agent(options)?;
    let status = lab.wait_until(SETTLE, "settled", is_settled)?;
    let reason = status.fallback_reason.as_deref().unwrap_or("it does not say why");
    let fell_back = status.mode != lab.mode().to_string();
    ensure!(!fell_back || options.without.is_some(), "the agent is in {} mode: {reason}", status.mode);
    Ok(status)
}

/// Whether the default pods are redirected.
#[must_use]
pub fn is_settled(status: &Status) -> bool {
    status.proxied_by(ZTUNNEL) && status.meshed("app-a") && status.meshed("app-b")
}

/// Repeats `attempt` until it succeeds; its last error on the deadline.
pub fn eventually<T>(deadline: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if start.elapsed() > deadline => {
                return Err(error).with_context(|| format!("still so after {:.1?}", start.elapsed()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
            success => return success,
        }
    }
}

/// Named checks; a failed one does not keep the others from being made.
#[derive(Debug, Default)]
pub struct Checks {
    made: usize,
    failed: Vec<String>,
}

impl Checks {
    /// Makes a check and prints how it went.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        self.made += 1;
        match check() {
            Ok(()) => println!("ok      {name} ({:.1?})", start.elapsed()),
            Err(error) => {
                println!("FAILED  {name} ({:.1?}): {error:#}", start.elapsed());
                self.failed.push(name.to_owned());
            }
        }
    }

    /// A check whose outcome is known: what is wrong, if anything.
    pub fn nothing_wrong(&mut self, name: &str, wrong: &[String]) {
        self.check(name, || {
            ensure!(wrong.is_empty(), "{}", wrong.join("; "));
            Ok(())
        });
    }

    /// An error if any check failed, or none was made.
    pub fn finish(self) -> Result<()> {
        ensure!(self.made > 0, "no check was made");
        ensure!(self.failed.is_empty(), "{} of {} failed: {}", self.failed.len(), self.made, self.failed.join("; "));
        Ok(())
    }
}
