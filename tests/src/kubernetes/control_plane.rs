//! etcd and the API server, and controllers if they are wanted: started, awaited, stopped, started again on the same ports and
//! data, and ended with the value.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::api::Api;
use super::ports::Ports;
use super::servers::{self, Place};
use super::{certificates, programs, users};
use crate::command::Cmd;
use crate::netns::Netns;
use crate::process::Process;

/// How long the API server may take until it is ready; 5 s on an idle machine, and minutes in an emulated one.
const READY: Duration = Duration::from_mins(5);
/// Between two questions whether it is.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the kernel may take to end a process that was killed.
const KILLED: Duration = Duration::from_secs(10);

/// How the control plane is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where; the host's own netns if nothing is said.
    pub netns: Option<Netns>,
    /// Where the API server listens.
    pub address: Ipv4Addr,
    /// Where nodes find the API server, if that is another address: what the service `kubernetes` leads to.
    pub seen_at: Option<Ipv4Addr>,
    /// Whether controllers and a scheduler run. They make service accounts and their secrets, which pods then need.
    pub controllers: bool,
    /// More flags for the API server.
    pub flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { netns: None, address: Ipv4Addr::LOCALHOST, seen_at: None, controllers: false, flags: Vec::new() }
    }
}

/// A running control plane; when the value goes, its processes and its folder do too.
#[derive(Debug)]
pub struct ControlPlane {
    options: Options,
    dir: TempDir,
    ports: Ports,
    etcd: Option<Process>,
    api_server: Option<Process>,
    controllers: Vec<Process>,
}

impl ControlPlane {
    /// Starts it and waits until the API server is ready.
    pub fn start(options: Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("redirect-control-plane-").tempdir()?;
        let known = [options.address, Ipv4Addr::LOCALHOST, servers::SERVICE];
        let known: Vec<_> = known.into_iter().chain(options.seen_at).collect();
        certificates::make(dir.path(), &known)?;
        fs::write(dir.path().join(servers::TOKENS), users::table())?;
        let ports = match &options.netns {
            Some(netns) => netns.run(Ports::free)??,
            None => Ports::free()?,
        };
        let mut control_plane = Self { options, dir, ports, etcd: None, api_server: None, controllers: Vec::new() };
        control_plane.etcd = Some(control_plane.start_process(servers::ETCD, servers::etcd(&control_plane.place())?)?);
        control_plane.start_api_server()?;
        if control_plane.options.controllers {
            control_plane.start_controllers()?;
        }
        Ok(control_plane)
    }

    /// Where its files are: logs, keys, and what tests put there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The API as its administrator sees it.
    #[must_use]
    pub fn admin(&self) -> Api {
        self.user(users::ADMIN.token)
    }

    /// The API as the bearer of this token sees it.
    #[must_use]
    pub fn user(&self, token: &str) -> Api {
        Api {
            server: SocketAddrV4::new(self.options.address, self.ports.api_server),
            authority: self.dir().join(certificates::AUTHORITY),
            token: token.to_owned(),
            netns: self.options.netns.clone(),
        }
    }

    /// kubectl as the user of this file.
    pub fn kubectl(&self, kubeconfig: &Path) -> Result<Cmd> {
        let kubectl = Cmd::new(programs::find("kubectl")?).env("HOME", self.dir()).env("KUBECONFIG", kubeconfig);
        Ok(self.placed(kubectl))
    }

    /// The running API server's process, to be frozen and thawed.
    pub fn api_server(&self) -> Result<&Process> {
        self.api_server.as_ref().context("the API server is stopped")
    }

    /// Kills the API server: connections break at once, and nothing listens. (Told to end, it waits for open watches.)
    pub fn stop_api_server(&mut self) -> Result<()> {
        kill(&mut self.api_server)
    }

    /// Starts the API server, where it was and with what it had, and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        ensure!(self.api_server.is_none(), "the API server runs already");
        self.api_server =
            Some(self.start_process(servers::API_SERVER, servers::api_server(&self.place(), &self.options)?)?);
        self.await_ready()
    }

    fn start_controllers(&mut self) -> Result<()> {
        let kubeconfig = |user: &users::User| self.kubeconfig(&format!("{}.json", user.name), &self.user(user.token));
        let controllers = servers::controllers(&self.place(), &kubeconfig(&users::CONTROLLERS)?)?;
        let scheduler = servers::scheduler(&kubeconfig(&users::SCHEDULER)?)?;
        for (name, command) in [(servers::CONTROLLERS, controllers), (servers::SCHEDULER, scheduler)] {
            let process = self.start_process(name, command)?;
            self.controllers.push(process);
        }
        Ok(())
    }

    /// Forgets the history of all objects up to now: who asks for changes since an earlier resource version learns that it has
    /// expired. Returns the current one. The server's cache of watches has a history of its own, of what it has seen itself;
    /// `--watch-cache=false` turns it off. (A restart empties it, which comes to the same.)
    pub fn compact(&self) -> Result<String> {
        let list = self.admin().get("/api/v1/namespaces")?.good()?;
        let now = list["metadata"]["resourceVersion"].as_str().context("the list has no version")?;
        let etcdctl = Cmd::new(programs::find("etcdctl")?).args(["--endpoints", &self.place().etcd()]);
        self.placed(etcdctl.args(["compaction", "--physical", now])).run()?;
        Ok(now.to_owned())
    }

    /// Has time pass while the API server is stopped: when it is started again, its history begins after any version that
    /// anyone has heard of.
    pub fn pass_time(&self) -> Result<()> {
        ensure!(self.api_server.is_none(), "the API server runs");
        let etcdctl = Cmd::new(programs::find("etcdctl")?).args(["--endpoints", &self.place().etcd()]);
        self.placed(etcdctl.args(["put", "/redirect-lab", "time passes"])).run().map(drop)
    }

    fn placed(&self, command: Cmd) -> Cmd {
        match &self.options.netns {
            Some(netns) => command.netns(netns),
            None => command,
        }
    }

    fn place(&self) -> Place<'_> {
        Place { dir: self.dir(), ports: self.ports }
    }

    fn start_process(&self, name: &str, mut command: Command) -> Result<Process> {
        command.stdout(Stdio::null());
        let (process, _child) = Process::start(name, &mut command, self.options.netns.as_ref(), &self.log(name))?;
        Ok(process)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    fn await_ready(&self) -> Result<()> {
        let (since, admin) = (Instant::now(), self.admin());
        loop {
            let answer = admin.get("/readyz");
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            ensure!(
                since.elapsed() < READY,
                "the API server is not ready: {answer:?}\n{}",
                self.said(servers::API_SERVER)
            );
            for process in [&self.etcd, &self.api_server].into_iter().flatten() {
                ensure!(!process.wait(PAUSE)?, "{} has ended\n{}", process.role, self.said(&process.role));
            }
        }
    }

    /// The end of a log.
    fn said(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let controllers = self.controllers.drain(..).map(Some);
        for mut process in controllers.chain([self.api_server.take(), self.etcd.take()]) {
            if let Err(error) = kill(&mut process) {
                eprintln!("{error:#}");
            }
        }
    }
}

fn kill(process: &mut Option<Process>) -> Result<()> {
    let Some(process) = process.take() else { return Ok(()) };
    process.signal(Signal::KILL)?;
    ensure!(process.wait(KILLED)?, "{} (pid {}) does not end", process.role, process.pid);
    Ok(())
}
