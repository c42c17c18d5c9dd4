//! The demonstration: a node, the agent, the table, and what an operator would look at.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::agent::AgentOptions;
use crate::image;
use crate::mode::Mode;
use crate::operator::{Facts, look};
use crate::scoped::ScopedLab;
use crate::state::Options;
use crate::status::Status;
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
    show_mode(&status, lab.mode(), agent.without.is_some())?;

    if let Some(root) = &agent.image_root {
        image::is_of(lab.agent().context("no agent was started")?, root)?;
        println!("the agent is {} of the image in {}", image::AGENT, root.display());
    }

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

/// What marks packets, and if that is not what was asked for, why; an error if it need not be so, or should be.
fn show_mode(status: &Status, asked: Mode, must_fall_back: bool) -> Result<()> {
    let attach = status.tc_attach.as_ref().map(|attach| format!(", attached by {attach}")).unwrap_or_default();
    println!("mode in force: {}{attach}", status.mode);
    if status.mode == asked.to_string() {
        ensure!(asked == Mode::Iptables || !must_fall_back, "the agent cannot be in {asked} mode here, and says it is");
        return Ok(());
    }
    let reason = status.fallback_reason.as_deref().context("the agent does not say why it is in another mode")?;
    println!("fallback_reason: {reason}");
    ensure!(must_fall_back, "{asked} mode was asked for, and is {}: {reason}", status.mode);
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}
