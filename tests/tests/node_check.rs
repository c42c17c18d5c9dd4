//! What would stand against the redirection is named before anything is installed, and the agent's own rules are not.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::fs;

use anyhow::{Result, ensure};
use redirect_lab::command::Cmd;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::node::ip_batch;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::snapshot::Snapshot;

const POLICY_RULE: &str = "rule add fwmark 0x200/0xf00 lookup 2004 priority 9";
/// A chain as Calico's, in the raw table.
const CALICO: &str = "cali-PREROUTING";
/// In the mangle and raw tables; the last is in Calico's chain.
const RULES: [(&str, &str); 4] = [
    ("mangle", "PREROUTING -i eth9 -j MARK --set-xmark 0x100/0xf00"),
    ("mangle", "PREROUTING -i eth9 -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80"),
    ("raw", "PREROUTING -i eth9 -m rpfilter --invert -j DROP"),
    ("raw", "cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP"),
];

#[test]
fn neighbours_in_the_way_are_named() -> Result<()> {
    let mut lab = ScopedLab::up(options("check")?)?;
    let mut checks = Checks::default();
    checks.check("a node with kube-proxy is fine", || is_fine(&lab));
    ip_batch(&lab.node(), &[POLICY_RULE])?;
    iptables(&lab, "raw", "-N", CALICO)?;
    for (table, rule) in RULES {
        iptables(&lab, table, "-A", rule)?;
    }
    let before = Snapshot::exact(&lab.node())?;
    checks.check("bits of ours, and filters of the reverse path", || {
        let (good, said) = lab.check_node()?;
        ensure!(!good, "it would break: {said}");
        let lines: Vec<_> = said.lines().collect();
        ensure!(lines.len() == 4, "{said}");
        for (line, words) in lines.iter().zip([
            ["problem: ip rule 9: fwmark 0x200/0xf00", "0x300 of the mark"],
            ["problem: iptables-", "--set-xmark 0x100/0xf00"],
            ["rpfilter --invert", "leave out ztunnel's veth"],
            ["rpfilter --validmark", "set workloadSourceSpoofing to Any"],
        ]) {
            ensure!(words.iter().all(|word| line.contains(word)), "{line} has not {words:?}");
        }
        Ok(())
    });
    checks.check("an agent that starts says so too", || {
        start(&mut lab, &watchful())?;
        let log = fs::read_to_string(lab.agent_log())?;
        ensure!(log.contains("fwmark 0x200/0xf00"), "it does not");
        lab.cleanup_agent().map(drop)
    });
    checks.check("nothing was changed by looking", || {
        let changes = before.diff(&Snapshot::exact(&lab.node())?).unwrap_or_default();
        ensure!(changes.is_empty(), "{changes}");
        Ok(())
    });
    ip_batch(&lab.node(), &[&POLICY_RULE.replace(" add ", " del ")])?;
    for (table, rule) in RULES {
        iptables(&lab, table, "-D", rule)?;
    }
    iptables(&lab, "raw", "-X", CALICO)?;
    checks.check("a node with the agent is fine", || {
        start(&mut lab, &watchful())?;
        is_fine(&lab)?;
        lab.cleanup_agent().map(drop)
    });
    checks.finish()
}

fn is_fine(lab: &Lab) -> Result<()> {
    let (good, said) = lab.check_node()?;
    ensure!(good && said == "nothing was found that stands against it\n", "{said}");
    Ok(())
}

fn iptables(lab: &Lab, table: &str, command: &str, rule: &str) -> Result<()> {
    let program = lab.options().backend.iptables();
    Cmd::line(&format!("{program} --wait 10 -t {table} {command} {rule}")).netns(&lab.node()).run().map(drop)
}
