//! Suites that break, restart and replace things under traffic, while a judge watches for escapes: those named `resilience_*`. They are run
//! by themselves, in guests only, because each takes minutes.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Arguments;
use super::matrix::{self, Equipment, Job};
use super::report;
use super::suites::{self, Breadth, Program, SHORT_STEP};
use super::totals::Totals;
use crate::kernels::MATRIX;
use crate::programs;
use crate::workspace::Workspace;

/// Tells a suite to do all that is asked of it, or its share (`2/4`).
const LONG: &str = "REDIRECT_LONG";
/// For one suite, and for one guest, in the long form.
const LONG_SECONDS: u32 = 3 * 3600;
const LONG_DEADLINE: Duration = Duration::from_hours(8);

/// Runs them all: each in both modes on every kernel that is wanted; in the short form in one mode on one of two kernels.
pub(super) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<Totals> {
    // First: the other one, which is put in the same place, is not the one to stay there.
    let other = programs::build_other(workspace)?;
    let built = programs::build(workspace)?;
    let tests = suites::build(workspace, suites::RESILIENCE)?.into_iter().filter(Program::is_for_resilience);
    let tests: Vec<Program> = tests.filter(|program| program.is_like(&arguments.suite)).collect();
    let job = |place: usize| Job {
        series: MATRIX[place],
        suites: arguments.suites(&tests, breadth(arguments, place)),
        equipment: equipment(long(arguments, place), &other),
    };
    let jobs: Vec<Job> = places(arguments).into_iter().map(job).collect();
    let totals = matrix::run(workspace, &built, &jobs)?;
    if arguments.report {
        report::write(workspace, &jobs, form(arguments))?;
    }
    Ok(totals)
}

/// Who asks for a mode or a kernel gets all of it.
fn breadth(arguments: &Arguments, place: usize) -> Breadth {
    let is_short = !arguments.long && arguments.kernel.is_empty() && arguments.mode.is_none();
    if is_short { Breadth::Share(place) } else { Breadth::Matrix(place) }
}

fn places(arguments: &Arguments) -> Vec<usize> {
    let wanted = |place: &usize| match arguments.kernel.as_slice() {
        [] => arguments.long || place.is_multiple_of(SHORT_STEP),
        kernels => kernels.contains(&MATRIX[*place]),
    };
    (0..MATRIX.len()).filter(wanted).collect()
}

/// What the report calls it.
fn form(arguments: &Arguments) -> &'static str {
    match (arguments.long, arguments.shared) {
        (false, _) => "short",
        (true, true) => "long, shared",
        (true, false) => "long",
    }
}

/// What the kernel at this place of the matrix does of the long form; which it is does not hang on what others are asked for.
fn long(arguments: &Arguments, place: usize) -> Option<String> {
    let share = if arguments.shared { format!("{}/{}", place + 1, MATRIX.len()) } else { "all".to_owned() };
    arguments.long.then_some(share)
}

fn equipment(long: Option<String>, other: &Path) -> Equipment {
    let usual = Equipment { log: "resilience".to_owned(), copies: vec![other.to_owned()], ..Equipment::default() };
    match long {
        Some(share) => Equipment {
            variables: vec![(LONG, share)],
            seconds: LONG_SECONDS,
            deadline: LONG_DEADLINE,
            alone: true,
            ..usual
        },
        None => usual,
    }
}
