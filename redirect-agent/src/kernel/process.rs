//! Running the tools that own a kernel interface without a stable binary form (iptables, ipset, nft): input from memory,
//! output bounded, a deadline, and the exit status as the only judge of success.

use std::io::{Read, Write};
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

use super::fault::{self, Way};

/// Longer than the xtables lock is waited for, so that the tool itself can say what it waited on.
const DEADLINE: Duration = Duration::from_mins(1);
/// Enough for the rules of a node with tens of thousands of services.
const OUTPUT_LIMIT: u64 = 64 << 20;
/// How much of a tool's complaint goes into a message.
const STDERR_LIMIT: usize = 2000;
/// Tools run so far: each costs milliseconds, so their number says what the agent costs its node.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// The one that is running.
static RUNNING: Mutex<Option<String>> = Mutex::new(None);

/// The tool that is being waited for.
pub(crate) fn running() -> Option<String> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// How many tools have been run since the agent began.
pub(crate) fn started() -> u64 {
    STARTED.load(Ordering::Relaxed)
}

/// Has `program` look at something, and returns what it printed; see [`run`].
pub(crate) fn read(program: &str, args: &[&str]) -> anyhow::Result<String> {
    run(program, args, Task::Look)
}

/// Looks of a tool, side by side, that go on while something else is done.
pub(crate) struct Looks {
    program: String,
    looks: Vec<JoinHandle<anyhow::Result<String>>>,
}

/// Has `program` begin to look at several things, each with arguments of its own, in the calling thread's network namespace; see [`run`]. They
/// may outlive the agent, as they change nothing.
pub(crate) fn look<const N: usize>(program: &str, each: &[[&str; N]]) -> Looks {
    let looks = each.iter().map(|args| {
        let (child, program, args) = (start(program, args, Task::Look), program.to_owned(), args.map(str::to_owned));
        thread::spawn(move || attend(&mut child?, &program, &args.each_ref().map(String::as_str), Task::Look))
    });
    Looks { program: program.to_owned(), looks: looks.collect() }
}

impl Looks {
    /// Waits for them: what each has printed, or why it has not, as [`read`] says it.
    pub(crate) fn outcomes(self) -> Vec<anyhow::Result<String>> {
        let Self { program, looks } = self;
        let panicked = |_| Err(anyhow!("{program}: attending to it failed"));
        waiting_for(&program, || looks.into_iter().map(|look| look.join().unwrap_or_else(panicked)).collect())
    }
}

/// Has `program` change something, as `args` and `input` say; see [`run`].
pub(crate) fn write(program: &str, args: &[&str], input: &str) -> anyhow::Result<()> {
    fault::write(
        Way::Batch,
        || format!("{program} {}", args.join(" ")),
        || run(program, args, Task::Change(input)).map(drop),
    )
}

/// What a tool is run for.
#[derive(Clone, Copy)]
enum Task<'a> {
    Look,
    /// To change something, as the text says that it reads.
    Change(&'a str),
}

/// Runs `program` with `args` in the calling thread's network namespace, and returns what it printed.
///
/// # Errors
/// The program is missing, exits with a status other than 0, prints too much, or runs past the deadline.
fn run(program: &str, args: &[&str], task: Task<'_>) -> anyhow::Result<String> {
    let mut child = start(program, args, task)?;
    waiting_for(program, || attend(&mut child, program, args, task))
}

fn waiting_for<T>(program: &str, wait: impl FnOnce() -> T) -> T {
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(program.to_owned());
    let outcome = wait();
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    outcome
}

fn attend(child: &mut Child, program: &str, args: &[&str], task: Task<'_>) -> anyhow::Result<String> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let out = thread::scope(|scope| {
        if let (Some(mut pipe), Task::Change(input)) = (stdin, task) {
            scope.spawn(move || pipe.write_all(input.as_bytes()));
        }
        let stdout = scope.spawn(move || drain(stdout));
        let stderr = scope.spawn(move || drain(stderr));
        let status = wait(child);
        (status, stdout.join(), stderr.join())
    });
    let (Ok(stdout), Ok(stderr)) = (out.1, out.2) else { bail!("{program}: reading its output failed") };
    let status = out.0.with_context(|| format!("{program} {}", args.join(" ")))?;
    if !status.success() {
        let stderr = stderr.unwrap_or_default();
        let shown: String = stderr.trim().chars().take(STDERR_LIMIT).collect();
        bail!("{program} {}: {status}: {shown}", args.join(" "));
    }
    stdout.with_context(|| format!("{program}: output"))
}

/// Whether `error` of [`run`] says that there is no such program.
pub(crate) fn is_missing(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::NotFound)
}

fn start(program: &str, args: &[&str], task: Task<'_>) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    // The C locale keeps messages parseable; a group of its own keeps a terminal's Ctrl-C from ending it half-way.
    command.args(args).env("LC_ALL", "C").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Task::Change(_) = task {
        command.stdin(Stdio::piped());
        end_with_us(&mut command);
    }
    let child = command.spawn().with_context(|| format!("start {program} (is its package installed?)"))?;
    STARTED.fetch_add(1, Ordering::Relaxed);
    Ok(child)
}

/// The kernel ends the tool with the agent. One that outlived it, waiting for the xtables lock, would write after the next agent
/// has read back, or after a cleanup. One that only looks may: it is not worth what this costs, a fork that copies the agent's page tables
/// where the standard library would otherwise share its memory until exec.
///
/// To the kernel the parent is the thread that forks (`forget_original_parent`, `kernel/exit.c`): that is the one in [`run`],
/// which waits there for the tool's end.
fn end_with_us(command: &mut Command) {
    let parent = getpid();
    let in_child = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The agent may have ended before this was known.
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec there are two system calls, which take no lock and no memory.
    unsafe { command.pre_exec(in_child) };
}

/// Waits for the child's end; kills it at the deadline.
fn wait(child: &mut Child) -> anyhow::Result<std::process::ExitStatus> {
    let fd = pidfd(Pid::from_raw(i32::try_from(child.id())?))?;
    if !ends_within(&fd, DEADLINE)? {
        child.kill()?;
        child.wait()?;
        bail!("did not end within {} s and was killed", DEADLINE.as_secs());
    }
    Ok(child.wait()?)
}

/// Whether the process of a [`pidfd`] ends before `time` has passed.
pub(crate) fn ends_within(process: &OwnedFd, time: Duration) -> anyhow::Result<bool> {
    let end = Instant::now() + time;
    loop {
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()))?;
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// A descriptor that becomes readable when the process ends (`pidfd_open(2)`, Linux 5.3).
pub(crate) fn pidfd(pid: Pid) -> anyhow::Result<OwnedFd> {
    // SAFETY: a system call without pointers; the result is checked before use.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(fd)?;
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("pidfd_open");
    }
    // SAFETY: the kernel has just handed this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Everything the pipe gives, up to the limit.
fn drain(pipe: Option<impl Read>) -> anyhow::Result<String> {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT_LIMIT + 1).read_to_end(&mut text)?;
    }
    if text.len() as u64 > OUTPUT_LIMIT {
        bail!("more than {} MiB", OUTPUT_LIMIT >> 20);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::thread;

    use super::{Task, is_missing, look, read, run, start, wait};

    #[test]
    fn a_tool_ends_with_who_runs_it() {
        let mut tool = thread::spawn(|| start("sleep", &["30"], Task::Change("")).unwrap()).join().unwrap();
        assert_eq!(wait(&mut tool).unwrap().signal(), Some(9));
    }

    #[test]
    fn input_output_and_status() {
        assert_eq!(run("cat", &[], Task::Change("hello")).unwrap(), "hello");
        assert_eq!(read("sh", &["-c", "echo beware >&2"]).unwrap(), "", "what a tool warns of is no failure");
        let error = read("sh", &["-c", "echo no >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no"), "{error}");
        let error = read("/no/such/tool", &[]).unwrap_err();
        assert!(error.to_string().contains("package") && is_missing(&error));
        assert!(!is_missing(&read("false", &[]).unwrap_err()));
    }

    #[test]
    fn side_by_side_each_has_its_own_outcome() {
        let looks = look("sh", &[["-c", "echo one"], ["-c", "echo no >&2; exit 3"], ["-c", "echo two"]]);
        let [first, second, third] = looks.outcomes().try_into().unwrap();
        assert_eq!((first.unwrap().as_str(), third.unwrap().as_str()), ("one\n", "two\n"));
        assert!(second.unwrap_err().to_string().contains("exit status: 3"));
        assert!(look("/no/such/tool", &[[]]).outcomes().remove(0).is_err_and(|error| is_missing(&error)));
    }
}
