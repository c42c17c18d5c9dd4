//! The command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use redirect_common::names;

use crate::config::{Mode, OnProxyLoss, TcAttach};
use crate::install::{Places, Plugin};
use crate::resources::chain::backend::Backend;
use crate::trace::Target;

/// Sends the TCP traffic of an ambient mesh's pods on this node to the node's ztunnel.
///
/// Run it in the node's network namespace, as root. It builds the GENEVE links istioin and istioout, routing tables 100 to
/// 102 and policy rules 100 to 103 (tables 103 and 104 and rules 97 and 98 too while one ztunnel follows another), in
/// iptables mode the chains ztunnel-* and the set ztunnel-pods-ips, keeps them as they must be, and follows pods and ztunnel
/// as they come and go. Ending it changes no packet's fate; `redirect-agent cleanup` takes everything away.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the agent until it is told to stop (SIGTERM, SIGINT); the datapath stays.
    Run(Run),
    /// Show what the running agent does: ztunnel, pods, writes, repairs, problems.
    Status(Status),
    /// Print the running agent's numbers as `OpenMetrics` text, for a collector that reads files or runs programs.
    Metrics(Metrics),
    /// In ebpf mode: have the running agent log what the programs decide about a meshed pod's packets, or no more.
    Trace(Trace),
    /// Look for what on this node would stand against the redirection (others' use of the same mark bits, filters of
    /// the reverse path), before the agent is run or after; nothing is changed. Exit status 1 if something would break.
    Check(Check),
    /// Return the node to what it was before `run`; a running agent does it and ends.
    Cleanup(Cleanup),
    /// Print the node's iptables rules as an input of `iptables-restore --noflush`; nothing is changed.
    #[command(hide = true)]
    Rules(Rules),
}

/// Where the agent keeps its record and attachments, its lock and its sockets.
#[derive(Args, Clone, Debug)]
pub(crate) struct StateDir {
    /// Directory of the agent's record, attachments, lock and sockets; on tmpfs, as a reboot ends what it describes.
    #[arg(long, value_name = "DIR", default_value = "/run/redirect")]
    pub(crate) state_dir: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// How packets are marked.
    #[arg(long, value_enum, default_value_t = Mode::Ebpf)]
    pub(crate) mode: Mode,
    /// In ebpf mode: how the programs are attached.
    #[arg(long, value_enum, default_value_t = TcAttach::Auto)]
    pub(crate) tc_attach: TcAttach,
    /// In ebpf mode: end with the reason where BPF cannot be used, instead of going on in iptables mode.
    #[arg(long)]
    pub(crate) no_fallback: bool,
    /// In ebpf mode: how many TCP flows are remembered, and as many of UDP; the longest unused is given up.
    #[arg(long, value_name = "FLOWS", default_value_t = redirect_common::maps::DEFAULT_FLOWS, value_parser = clap::value_parser!(u32).range(128..=16_777_216))]
    pub(crate) flows: u32,
    #[command(flatten)]
    pub(crate) bpf: BpfDir,
    /// Name of this node, as in the pods' spec.nodeName.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: String,
    /// Where to learn of pods: `kubernetes` follows the API server, `manifests:DIR` watches a folder of Kubernetes YAML
    /// (Namespaces, Pods with status) [default: kubernetes in a cluster or with --kubeconfig]
    #[arg(long, value_name = "SOURCE")]
    pub(crate) pods: Option<PodSource>,
    /// How to reach the API server [default: $KUBECONFIG, else the service account of the agent's pod]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Address of this node that ztunnel's tunnels end at [default: status.hostIP of ztunnel's pod]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<Ipv4Addr>,
    /// Namespace where ztunnel runs; a pod labelled app=ztunnel elsewhere is not the node proxy.
    #[arg(long, value_name = "NAMESPACE", default_value = names::PROXY_NAMESPACE)]
    pub(crate) proxy_namespace: String,
    /// Which iptables to use.
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub(crate) iptables_backend: BackendChoice,
    /// What becomes of meshed pods' TCP while no ztunnel on this node is Ready. Namespaces may say otherwise for their pods, by
    /// annotation ambient.redirect.dev/on-proxy-loss; an agent that starts, an API server that is away, or a ztunnel that is Ready and
    /// cannot be connected, is no such loss.
    #[arg(long, value_enum, default_value_t = OnProxyLoss::Block)]
    pub(crate) on_proxy_loss: OnProxyLoss,
    /// Seconds for which connections stay with the ztunnel that they were begun with when another follows it; they end with it, and
    /// sooner when a third one comes.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) drain_timeout: u64,
    /// Seconds between two read-backs of everything; events of the kernel are acted on at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) resync: u64,
    #[command(flatten)]
    pub(crate) cni: CniArgs,
    #[command(flatten)]
    pub(crate) state: StateDir,
}

/// Where the container runtime has its network plugins.
#[derive(Args, Clone, Debug)]
pub(crate) struct CniDirs {
    /// Directory of the runtime's CNI plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Directory of the runtime's CNI configuration.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
}

impl CniDirs {
    pub(crate) fn places(&self) -> Places {
        Places { bin: self.cni_bin_dir.clone(), conf: self.cni_conf_dir.clone() }
    }
}

/// The CNI plugin.
#[derive(Args, Clone, Debug)]
pub(crate) struct CniArgs {
    /// The program redirect-cni: copied into the runtime's directory and kept in its primary configuration until `cleanup`;
    /// without it nothing is installed, and nothing is taken out.
    #[arg(long, value_name = "PATH")]
    cni_plugin: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dirs: CniDirs,
    /// Namespaces whose pods start whatever the agent says; ztunnel's is always one of them.
    #[arg(long, value_name = "NAMESPACE,…", value_delimiter = ',', default_value = "kube-system")]
    cni_exclude_namespaces: Vec<String>,
}

impl CniArgs {
    /// What is to be installed, if anything is.
    pub(crate) fn plugin(&self) -> Option<Plugin> {
        let exclude_namespaces = self.cni_exclude_namespaces.clone();
        self.cni_plugin.clone().map(|source| Plugin { source, exclude_namespaces })
    }
}

/// Where maps and programs are pinned.
#[derive(Args, Clone, Debug)]
pub(crate) struct BpfDir {
    /// Directory of the pinned programs and maps, on a bpf file system and not the whole of one.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/redirect")]
    pub(crate) bpf_dir: PathBuf,
}

/// Which iptables to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum BackendChoice {
    /// The one that the host uses: where kubelet and kube-proxy have their chains, else where most rules are.
    Auto,
    Legacy,
    Nft,
}

impl BackendChoice {
    /// `None` is to be found out.
    pub(crate) fn fixed(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Legacy => Some(Backend::Legacy),
            Self::Nft => Some(Backend::Nft),
        }
    }
}

/// Where the agent learns of pods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PodSource {
    /// The API server.
    Kubernetes,
    /// A folder of manifests.
    Manifests(PathBuf),
}

impl PodSource {
    /// As `status` names it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Manifests(_) => "manifests",
        }
    }
}

impl FromStr for PodSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            Some(("manifests", directory)) if !directory.is_empty() => Ok(Self::Manifests(directory.into())),
            _ => Err("expected kubernetes or manifests:DIR".into()),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) state: StateDir,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Fail unless the agent's last run ended with everything as planned.
    #[arg(long)]
    pub(crate) ready: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Metrics {
    #[command(flatten)]
    pub(crate) state: StateDir,
}

#[derive(Args, Debug)]
pub(crate) struct Trace {
    /// The pod; it takes the place of another that is traced.
    #[arg(value_name = "NAMESPACE/POD", required_unless_present = "off", conflicts_with = "off")]
    pub(crate) pod: Option<Target>,
    /// Trace no pod.
    #[arg(long)]
    pub(crate) off: bool,
    #[command(flatten)]
    pub(crate) state: StateDir,
}

#[derive(Args, Debug)]
pub(crate) struct Cleanup {
    #[command(flatten)]
    pub(crate) state: StateDir,
    #[command(flatten)]
    pub(crate) bpf: BpfDir,
    /// Where no agent runs: take the annotation off the pods of this node as well, in a cluster or with --kubeconfig.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// How to reach the API server [default: in a cluster $KUBECONFIG, else the service account of the pod that this runs in]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cni: CniDirs,
    /// How to print what was done.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// How to print.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct Rules {
    /// ztunnel's address; given twice, that of the one beside it too.
    #[arg(long, required = true)]
    pub(crate) proxy_ip: Vec<std::net::IpAddr>,
    /// ztunnel's veth, or the bridge it is a port of; as many as addresses.
    #[arg(long, required = true)]
    pub(crate) proxy_veth: Vec<String>,
    /// ztunnel's MAC address, when `--proxy-veth` is a bridge; as many as addresses, or none.
    #[arg(long, value_parser = parse_mac)]
    pub(crate) proxy_mac: Vec<[u8; 6]>,
    /// UDP port of the tunnels.
    #[arg(long, default_value_t = names::TUNNEL_PORT)]
    pub(crate) tunnel_port: u16,
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| format!("{text:?} is not a MAC address"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sources() {
        assert_eq!("manifests:/x".parse(), Ok(PodSource::Manifests("/x".into())));
        assert!("manifests:".parse::<PodSource>().is_err());
        assert_eq!("kubernetes".parse(), Ok(PodSource::Kubernetes));
        assert!("kubernetes:x".parse::<PodSource>().is_err());
    }

    #[test]
    fn mac_addresses() {
        assert_eq!(parse_mac("02:00:00:00:00:0a"), Ok([2, 0, 0, 0, 0, 10]));
        for bad in ["", "02:00", "02:00:00:00:00:00:00", "zz:00:00:00:00:00"] {
            assert!(parse_mac(bad).is_err());
        }
    }
}
