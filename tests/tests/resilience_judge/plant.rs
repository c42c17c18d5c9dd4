//! Ways out of the mesh, made by taking away what the agent made. Each checks that it was there, and is gone.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use redirect_common::names::RULE_INBOUND;
use redirect_lab::command::Cmd;
use redirect_lab::lab::Lab;
use redirect_lab::mode::{Attach, Mode};
use redirect_lab::programs::{Hook, Hung, hung_on};

/// What `app-a` sends is not judged any more.
pub(crate) fn outbound(lab: &Lab) -> Result<()> {
    match lab.mode() {
        Mode::Iptables => no_jump(lab, "mangle", "PREROUTING"),
        Mode::Ebpf => no_program(lab, Hook::Ingress),
    }
}

/// What is for meshed pods is routed as for any other pod.
pub(crate) fn no_rule_inbound(lab: &Lab) -> Result<()> {
    let priority = RULE_INBOUND.0;
    Cmd::line(&format!("ip rule del priority {priority}")).netns(&lab.node()).run()?;
    let rules = Cmd::line("ip rule list").netns(&lab.node()).run()?;
    ensure!(!rules.contains(&format!("{priority}:")), "it is still there:\n{rules}");
    Ok(())
}

/// What came to `app-a` past the proxy is not dropped any more.
pub(crate) fn no_drop_inbound(lab: &Lab) -> Result<()> {
    match lab.mode() {
        Mode::Iptables => no_jump(lab, "filter", "FORWARD"),
        Mode::Ebpf => no_program(lab, Hook::Egress),
    }
}

fn no_jump(lab: &Lab, table: &str, hook: &str) -> Result<()> {
    let iptables = format!("{} --wait 10 -t {table}", lab.options().backend.iptables());
    Cmd::line(&format!("{iptables} -D {hook} -j ztunnel-{hook}")).netns(&lab.node()).run()?;
    let rules = Cmd::line(&format!("{iptables} -S {hook}")).netns(&lab.node()).run()?;
    ensure!(!rules.contains("-j ztunnel-"), "it is still there:\n{rules}");
    Ok(())
}

/// The kernel names our programs; with its pin goes a link, a filter by its place.
fn no_program(lab: &Lab, hook: Hook) -> Result<()> {
    let (node, pod) = (lab.node(), lab.pod("app-a")?);
    let veth = pod.host_link.clone().context("app-a is not plumbed")?;
    let ours = || {
        let all = hung_on(&node, std::slice::from_ref(&veth))?;
        Ok::<_, anyhow::Error>(
            all.into_iter().filter(|hung| hung.is_ours() && hung.hook == hook).collect::<Vec<Hung>>(),
        )
    };
    let found = ours()?;
    let [program] = &found[..] else { anyhow::bail!("on {veth} there are {found:?}") };
    let name = match hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
    };
    match program.attach {
        Attach::Tcx => {
            let index = node.run(|| if_nametoindex(veth.as_str()))??;
            let pin = lab.bpf_dir().join("links").join(format!("{index}-{name}"));
            fs::remove_file(&pin).with_context(|| format!("no pin {}", pin.display()))?;
        }
        Attach::Clsact => {
            let priority = program.priority.context("a filter without a priority")?;
            let remove = format!("tc filter del dev {veth} {name} pref {priority}");
            Cmd::line(&remove).netns(&node).run()?;
        }
    }
    ensure!(ours()?.is_empty(), "it is still there: {program}");
    Ok(())
}
