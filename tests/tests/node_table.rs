//! Every kind of connection, on a node that redirects, goes the way of the table; and the node reads as designed.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use anyhow::Result;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, settled};
use redirect_lab::operator::{Facts, look};
use redirect_lab::table::{render, run};

#[test]
fn every_row_is_right_and_so_is_what_an_operator_sees() -> Result<()> {
    let (lab, _) = settled("table")?;
    let rows = run(&lab, ZTUNNEL)?;
    print!("{}", render(&rows));
    let mut checks = Checks::default();
    for row in &rows {
        checks.nothing_wrong(row.case.name, &row.wrong);
    }
    for view in look(&lab, &Facts::of(&lab, ZTUNNEL, &["app-a", "app-b"])?)? {
        println!("{}", view.text);
        checks.nothing_wrong(&view.command, &view.wrong);
    }
    checks.finish()
}
