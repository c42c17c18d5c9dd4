//! The command line of `redirect-lab`.

mod bpf;
mod cluster;
mod connect;
mod enrolment;
mod pods;
mod rest;
mod starts;
mod watch;

use std::ffi::OsString;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use rustix::process::Signal;

use crate::agent::AgentOptions;
use crate::backend::Backend;
use crate::cni::Topology;
use crate::demo::{SETTLE, ZTUNNEL, demo};
use crate::lab::Lab;
use crate::lack::Lack;
use crate::layout::DEFAULT_PREFIX;
use crate::mode::{ATTACH_VARIABLE, Attach, MODE_VARIABLE, Mode};
use crate::state::Options;
use crate::{image, proxy, serve, table};

/// A Kubernetes node made of network namespaces, to see and test traffic redirection on.
///
/// A lab is a node (netns PREFIX-node), a second node (PREFIX-remote) and pods (PREFIX-pod-NAME) plumbed by real CNI
/// plugins: app-a and app-b are in the mesh, plain and plain-b are not, and ztunnel runs a transparent proxy that writes
/// down what it sees. Services: svc-remote is 10.96.0.10:80, svc-app-b is 10.96.0.20:80.
///
/// A first walk:
///
///   redirect-lab up                                  a node, with the agent running on it
///   redirect-lab connect --from app-a --to remote    one connection: who answered, as whom, and by which listener
///   redirect-lab table                               every kind of connection, and whether each went the right way
///   redirect-lab capture --on istioout               packets on their way to ztunnel
///   redirect-lab pods label app-a istio.io/dataplane-mode=none
///   ip netns exec rl-node ip rule list               any command, on the node
///   redirect-lab down
#[derive(Parser, Debug)]
#[command(name = "redirect-lab", version, verbatim_doc_comment)]
struct Cli {
    /// The lab's name; several can stand at a time.
    #[arg(long, global = true, default_value = DEFAULT_PREFIX)]
    prefix: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a lab and start the agent on its node
    Up {
        #[command(flatten)]
        node: NodeArgs,
        /// Do not start the agent
        #[arg(long)]
        no_agent: bool,
    },
    /// Remove the lab, also one that was left half-made
    Down,
    /// List pods, add and remove them, change their labels
    Pods {
        #[command(subcommand)]
        command: Option<pods::PodsCommand>,
    },
    /// Make connections between any two places and show what became of them
    Connect(connect::ConnectArgs),
    /// Show the connections that the proxy has seen
    ProxyLog(watch::ProxyLogArgs),
    /// Show packets on a link of the node, or in a pod
    Capture(watch::CaptureArgs),
    /// Run the table of all kinds of connections on the lab that stands
    Table,
    /// Start or end the agent on the node
    Agent {
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Make a lab, show redirection on it, remove it; fails if anything is not as it must be
    Demo {
        #[command(flatten)]
        node: NodeArgs,
        /// Show every topology with every backend
        #[arg(long)]
        all: bool,
    },
    /// Figures about the programs in the kernel (`cargo xtask` asks for them)
    #[command(hide = true)]
    Bpf {
        #[command(subcommand)]
        command: bpf::BpfCommand,
    },
    /// What it costs to enrol pods (`cargo xtask bench` asks for it)
    #[command(hide = true)]
    Enrolment(enrolment::EnrolmentArgs),
    /// What our CNI plugin adds to the start of a pod (`cargo xtask bench` asks for it)
    #[command(hide = true)]
    Starts(starts::StartsArgs),
    /// What the agent costs while nothing happens (`cargo xtask bench` asks for it)
    #[command(hide = true)]
    Rest(rest::RestArgs),
    /// Run a program where bpf(2) fails with EPERM (the lab starts agents so)
    #[command(name = Lack::Bpf.subcommand(), hide = true)]
    WithoutBpf {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a program where nothing is mounted at /sys/fs/bpf (the lab starts agents so)
    #[command(name = Lack::Bpffs.subcommand(), hide = true)]
    WithoutBpffs {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a program in an unpacked image, with the node's /dev, /proc, /run and /sys (the lab starts agents so)
    #[command(name = image::SUBCOMMAND, hide = true)]
    InImage {
        /// The image's root
        #[arg(long)]
        root: PathBuf,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// The transparent proxy of the ztunnel pod (the lab starts it)
    Proxy {
        /// Where to write one JSON object per connection
        #[arg(long)]
        log: PathBuf,
    },
    /// The servers of a real cluster, for as long as standard input is open (`cargo xtask test cluster` starts them)
    #[command(hide = true)]
    ControlPlane {
        /// Where to write what a node needs
        #[arg(long, value_name = "DIR")]
        node_files: PathBuf,
    },
    /// Do nothing until told to end: the first process of each pod of a real cluster
    #[command(hide = true)]
    Pause,
    /// Make one connection at once, and say whom it reached (for pods of a real cluster)
    #[command(hide = true)]
    Dial {
        /// Whom to reach
        to: SocketAddrV4,
    },
    /// The echo server of a pod (the lab starts it)
    Serve {
        /// What the server calls itself
        #[arg(long)]
        name: String,
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// Where it answers HTTP, to say that it is well
        #[arg(long)]
        health: Option<SocketAddr>,
    },
}

#[derive(Subcommand, Debug)]
enum AgentCommand {
    /// Start it, with the arguments of `up` or these
    Start {
        /// How it marks packets; as before if not given
        #[arg(long, value_enum)]
        mode: Option<Mode>,
        /// More arguments of `redirect-agent run`
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        args: Vec<String>,
    },
    /// End it by SIGTERM; the datapath stays
    Stop,
    /// End it by SIGKILL; the datapath stays
    Kill,
    /// Undo everything that it made, and end it
    Cleanup,
}

#[derive(Args, Debug)]
struct NodeArgs {
    /// How pods hang on the node
    #[arg(long, value_enum, default_value_t = Topology::Ptp, env = "REDIRECT_TOPOLOGY")]
    topology: Topology,
    /// Whose rules kube-proxy's are, and the agent's must be
    #[arg(long, value_enum, default_value_t = Backend::Nft, env = "REDIRECT_BACKEND")]
    backend: Backend,
    /// Reverse path filter of new links on the node
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=2))]
    rp_filter: u8,
    /// How the agent marks packets
    #[arg(long, value_enum, default_value_t = Mode::Ebpf, env = MODE_VARIABLE)]
    mode: Mode,
    /// How the agent attaches programs in ebpf mode [default: its own choice]
    #[arg(long, value_enum, env = ATTACH_VARIABLE)]
    tc_attach: Option<Attach>,
    /// Run the agent where bpf(2) fails with EPERM, to see it fall back
    #[arg(long)]
    without_bpf: bool,
    /// Run the agent, and what it runs, of the image that is unpacked here
    #[arg(long, value_name = "DIR", conflicts_with = "without_bpf")]
    image_root: Option<PathBuf>,
    /// More arguments of `redirect-agent run`, in one string
    #[arg(long, allow_hyphen_values = true, default_value = "", hide_default_value = true)]
    agent_args: String,
}

impl NodeArgs {
    fn options(&self, prefix: &str) -> Options {
        let Self { topology, backend, rp_filter, .. } = *self;
        Options { prefix: prefix.to_owned(), topology, backend, rp_filter }
    }

    fn agent(&self) -> AgentOptions {
        AgentOptions {
            args: self.agent_args.split_whitespace().map(str::to_owned).collect(),
            mode: Some(self.mode),
            tc_attach: self.tc_attach,
            without: self.without_bpf.then_some(Lack::Bpf),
            image_root: self.image_root.clone(),
            other: false,
            kubeconfig: None,
        }
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redirect-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let prefix = cli.prefix.as_str();
    match cli.command {
        Command::Up { node, no_agent } => up(prefix, &node, no_agent),
        Command::Down => {
            let was = Lab::down(prefix)?;
            println!("{}", if was { format!("lab {prefix} is gone") } else { format!("there is no lab {prefix}") });
            Ok(())
        }
        Command::Pods { command } => pods::run(&mut Lab::open(prefix)?, command),
        Command::Connect(args) => connect::run(&Lab::open(prefix)?, &args),
        Command::ProxyLog(args) => watch::proxy_log(&Lab::open(prefix)?, &args),
        Command::Capture(args) => watch::capture(&Lab::open(prefix)?, &args),
        Command::Table => show_table(&Lab::open(prefix)?),
        Command::Agent { command } => agent(&mut Lab::open(prefix)?, command),
        Command::Demo { node, all } => demos(prefix, &node, all),
        Command::Bpf { command } => bpf::run(&command),
        Command::Enrolment(args) => enrolment::run(args),
        Command::Starts(args) => starts::run(args),
        Command::Rest(args) => rest::run(args),
        Command::WithoutBpf { command } => Lack::Bpf.exec(&command).map(|never| match never {}),
        Command::WithoutBpffs { command } => Lack::Bpffs.exec(&command).map(|never| match never {}),
        Command::InImage { root, command } => image::exec(&root, &command).map(|never| match never {}),
        Command::ControlPlane { node_files } => cluster::control_plane(&node_files),
        Command::Pause => cluster::pause(),
        Command::Dial { to } => cluster::dial(to),
        Command::Proxy { log } => block_on(proxy::run(&log)),
        Command::Serve { name, listen, health } => block_on(serve::serve(name, listen, health)),
    }
}

fn up(prefix: &str, node: &NodeArgs, no_agent: bool) -> Result<()> {
    let mut lab = Lab::up(node.options(prefix))?;
    if !no_agent {
        lab.start_agent(&node.agent())?;
        let status = lab.wait_until(SETTLE, "settled", |status| status.proxied_by(ZTUNNEL))?;
        println!("the agent has settled after {} changes to the kernel", status.total_writes());
    }
    println!("lab {prefix} stands in {}; on its node: ip netns exec {} bash", lab.dir().display(), lab.node().name());
    pods::list(&lab);
    Ok(())
}

fn show_table(lab: &Lab) -> Result<()> {
    let rows = table::run(lab, ZTUNNEL)?;
    print!("{}", table::render(&rows));
    match rows.iter().filter(|row| !row.wrong.is_empty()).count() {
        0 => Ok(()),
        wrong => bail!("{wrong} of {} connections are wrong", rows.len()),
    }
}

fn agent(lab: &mut Lab, command: AgentCommand) -> Result<()> {
    match command {
        AgentCommand::Start { args, mode } => {
            let last = lab.state.agent.clone().unwrap_or_default();
            let args = if args.is_empty() { last.args } else { args };
            lab.start_agent(&AgentOptions { args, mode: mode.or(last.mode), ..last })
        }
        AgentCommand::Stop => lab.stop_agent(Signal::TERM),
        AgentCommand::Kill => lab.stop_agent(Signal::KILL),
        AgentCommand::Cleanup => lab.cleanup_agent().map(|said| print!("{said}")),
    }
}

fn demos(prefix: &str, node: &NodeArgs, all: bool) -> Result<()> {
    if !all {
        return demo(node.options(prefix), &node.agent());
    }
    let mut failed = Vec::new();
    for topology in Topology::ALL {
        for backend in Backend::ALL {
            let options = Options { topology, backend, ..node.options(prefix) };
            if let Err(error) = demo(options, &node.agent()) {
                println!("WRONG: {error:#}");
                failed.push(format!("{topology} with {backend}"));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("wrong: {}", failed.join(", ")) }
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
