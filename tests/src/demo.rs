//! The demonstration: a node, the agent, the table, and what an operator would look at.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::agent::AgentOptions;
use crate::operator::{Facts, look};
use crate::scoped::ScopedLab;
use crate::state::Options;
use crate::table::{render, run};

/// How long the agent may take until the datapath is in place.
pub const SETTLE: Duration = Duration::from_mins(1);
/// The lab's default node proxy.
pub const ZTUNNEL: &str = "ztunnel";

/// Shows one node; an error if anything is not as it must be. Afterwards the lab is gone.
pub fn demo(options: Options, agent: &AgentOptions) -> Result<()> {
    heading(&format!("a node: topology {}, iptables backend {}", options.topology, options.backend));
    let mut lab = ScopedLab::up(options)?;
    for pod in lab.pods() {
        println!("pod {:<22} {}", pod.object(), pod.ip()?);
    }
    lab.start_agent(agent)?;
    let status = lab.wait_until(SETTLE, "settled", |status| {
        status.proxied_by(ZTUNNEL) && status.meshed("app-a") && status.meshed("app-b")
    })?;
    println!("the agent has settled after {} changes to the kernel", status.total_writes());

    heading("connections");
    let rows = run(&lab, ZTUNNEL)?;
    print!("{}", render(&rows));

    let views = look(&lab, &Facts::of(&lab, ZTUNNEL, &["app-a", "app-b"])?)?;
    for view in &views {
        heading(&format!("node# {}", view.command));
        println!("{}", view.text.trim_end());
        for wrong in &view.wrong {
            println!("WRONG: {wrong}");
        }
    }
    let wrong_rows = rows.iter().filter(|row| !row.wrong.is_empty()).count();
    let wrong_views = views.iter().filter(|view| !view.wrong.is_empty()).count();
    if wrong_rows + wrong_views > 0 {
        bail!("{wrong_rows} of {} connections and {wrong_views} of {} views are wrong", rows.len(), views.len());
    }
    println!("\nall {} connections and {} views are as they must be", rows.len(), views.len());
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}
