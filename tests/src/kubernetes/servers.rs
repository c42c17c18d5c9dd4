//! The servers' command lines.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::control_plane::Options;
use super::ports::Ports;
use super::{certificates, programs};

pub(super) const ETCD: &str = "etcd";
pub(super) const API_SERVER: &str = "kube-apiserver";
pub(super) const CONTROLLERS: &str = "kube-controller-manager";
pub(super) const SCHEDULER: &str = "kube-scheduler";
/// File of the users who are known by a token that never changes.
pub(super) const TOKENS: &str = "tokens.csv";
const SERVICES: &str = "10.96.0.0/16";
/// The API server's own address among the services.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// What that service leads to when the server is on a loopback address, which it refuses to tell. Nothing is there (RFC 5737).
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What the servers have to themselves.
pub(super) struct Place<'a> {
    pub(super) dir: &'a Path,
    pub(super) ports: Ports,
}

impl Place<'_> {
    /// Where etcd's clients find it.
    pub(super) fn etcd(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.etcd)
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

pub(super) fn etcd(place: &Place<'_>) -> Result<Command> {
    let (clients, peers) = (place.etcd(), format!("http://127.0.0.1:{}", place.ports.etcd_peers));
    command(
        ETCD,
        &[
            ("data-dir", place.file("etcd")),
            ("logger", "zap".to_owned()),
            ("log-level", "warn".to_owned()),
            ("listen-client-urls", clients.clone()),
            ("advertise-client-urls", clients),
            ("listen-peer-urls", peers.clone()),
            ("initial-advertise-peer-urls", peers.clone()),
            ("initial-cluster", format!("default={peers}")),
        ],
    )
}

pub(super) fn api_server(place: &Place<'_>, options: &Options) -> Result<Command> {
    let address = options.address;
    let own = if address.is_loopback() { NOWHERE } else { address };
    let advertised = options.seen_at.unwrap_or(own);
    let mut command = command(
        API_SERVER,
        &[
            ("etcd-servers", place.etcd()),
            // History goes when a test says so.
            ("etcd-compaction-interval", "0".to_owned()),
            ("bind-address", address.to_string()),
            ("secure-port", place.ports.api_server.to_string()),
            ("advertise-address", advertised.to_string()),
            ("service-cluster-ip-range", SERVICES.to_owned()),
            ("tls-cert-file", place.file(certificates::SERVER)),
            ("tls-private-key-file", place.file(certificates::SERVER_KEY)),
            ("token-auth-file", place.file(TOKENS)),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("allow-privileged", "true".to_owned()),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", place.file(certificates::TOKENS_KEY)),
            ("service-account-signing-key-file", place.file(certificates::TOKENS_KEY)),
        ],
    )?;
    if !options.controllers {
        command.arg("--disable-admission-plugins=ServiceAccount");
    }
    command.args(&options.flags);
    Ok(command)
}

/// Every controller, each with an account of its own, as kubeadm sets it.
pub(super) fn controllers(place: &Place<'_>, kubeconfig: &Path) -> Result<Command> {
    command(
        CONTROLLERS,
        &[
            ("kubeconfig", kubeconfig.display().to_string()),
            ("root-ca-file", place.file(certificates::AUTHORITY)),
            ("service-account-private-key-file", place.file(certificates::TOKENS_KEY)),
            ("use-service-account-credentials", "true".to_owned()),
            // A kubelet in an emulated machine can be late for minutes.
            ("node-monitor-grace-period", "5m".to_owned()),
            ("leader-elect", "false".to_owned()),
            ("port", "0".to_owned()),
            ("secure-port", "0".to_owned()),
        ],
    )
}

pub(super) fn scheduler(kubeconfig: &Path) -> Result<Command> {
    command(
        SCHEDULER,
        &[
            ("kubeconfig", kubeconfig.display().to_string()),
            ("leader-elect", "false".to_owned()),
            ("port", "0".to_owned()),
            ("secure-port", "0".to_owned()),
        ],
    )
}

fn command(program: &str, flags: &[(&str, String)]) -> Result<Command> {
    let mut command = Command::new(programs::find(program)?);
    command.args(flags.iter().map(|(name, value)| format!("--{name}={value}")));
    Ok(command)
}
