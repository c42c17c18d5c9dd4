//! Agents come and go, over and over, and every time in the middle of something, while connections are made and go on and a judge watches:
//! none fails, none is reset, nothing escapes. And in the end a cleanup leaves nothing, and of others everything.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

mod judged;
mod rivals;
mod stuck;
mod turns;
mod versions;

use anyhow::Result;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::neighbours::Neighbours;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::share::often;
use redirect_lab::table;
use rustix::process::Signal;

#[test]
fn agents_come_and_go() -> Result<()> {
    let mut lab = ScopedLab::up(options("agents")?)?;
    let neighbours = Neighbours::move_in(&lab)?;
    start(&mut lab, &watchful())?;
    let mut checks = Checks::default();
    for (signal, what, few) in [(Signal::KILL, "killed", 3), (Signal::TERM, "told to end", 1)] {
        let times = often(few, 100);
        checks.check(&format!("{what}, {times} times"), || turns::ended_by(&mut lab, signal, times));
    }
    let times = often(1, 20);
    checks.check(&format!("upgraded and downgraded, {times} times each"), || versions::change(&mut lab, times));
    checks.check("a loop that hangs is seen", || stuck::is_seen(&mut lab));
    let times = often(1, 20);
    checks.check(&format!("one takes over from another, {times} times"), || rivals::take_over(&mut lab, times));
    checks.check("the table, after all of it", || table::check(&lab, ZTUNNEL));
    checks.check("a cleanup leaves nothing, and of others everything", || neighbours.outlive_cleanup(&mut lab));
    checks.finish()
}
