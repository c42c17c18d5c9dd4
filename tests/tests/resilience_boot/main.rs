//! The node's machine goes down and up again. Nothing of the datapath is left. Pods whose sandboxes are made anew wait until they are enrolled;
//! one that is restored past the plugins is blocked as soon as an agent knows of it, and until ztunnel is there. Statuses without
//! addresses, and a source that says nothing at all, take nobody out of the mesh.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod disk;
mod phases;

use anyhow::Result;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, options, start};
use redirect_lab::neighbours::Neighbours;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::table;

use disk::Disk;

#[test]
fn a_node_comes_up_again() -> Result<()> {
    let mut lab = ScopedLab::up(options("boot")?)?;
    let disk = Disk::new(&lab)?;
    start(&mut lab, &disk.agent()?)?;
    disk::is_complete(&lab)?;
    phases::reboot(&mut lab)?;
    let chain = disk.chain(&lab)?;
    let mut checks = Checks::default();
    checks.check("the plugin is still there, and of the datapath nothing", || phases::is_bare(&lab));
    checks.check("without an agent only ztunnel starts", || phases::without_agent(&mut lab, &chain));
    checks.check("a pod that is restored meanwhile escapes", || phases::escapes(&mut lab));
    let neighbours = Neighbours::move_in(&lab)?;
    checks.check("an agent that hears of no pods changes nothing", || phases::hears_nothing(&mut lab, &disk));
    checks.check("with an agent nothing escapes, and who starts is enrolled", || {
        phases::comes_up(&mut lab, &disk, &chain)
    });
    checks.check("the next agent takes nobody out, whatever it hears of", || phases::starts_again(&mut lab, &disk));
    checks.check("the table, when statuses say what is so", || {
        phases::statuses_are_written(&mut lab)?;
        table::check(&lab, ZTUNNEL)
    });
    checks.check("a cleanup leaves nothing, and of others everything", || {
        neighbours.outlive_cleanup(&mut lab)?;
        disk.is_as_before()
    });
    checks.finish()
}
