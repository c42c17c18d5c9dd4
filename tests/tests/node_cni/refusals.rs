//! What a runtime must not say, and what others must not say at the socket: each is refused with the specification's error object,
//! or not heard at all, and nothing on the node or in the agent is another afterwards.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use redirect_lab::binaries;
use redirect_lab::cni_bench::chain;
use redirect_lab::demo::ZTUNNEL;
use redirect_lab::harness::{Checks, eventually};
use redirect_lab::lab::Lab;
use redirect_lab::layout::MESH_NAMESPACE;
use redirect_lab::mode::Mode;
use redirect_lab::netns::Netns;
use redirect_lab::pod::Pod;
use redirect_lab::programs::hung_on;
use redirect_lab::runtime::{Chain, PLUGIN, Sandbox, refused, said};
use redirect_lab::snapshot::Snapshot;
use serde_json::{Value, json};

const NOTICE: Duration = Duration::from_secs(30);
/// A user that is not root.
const NOBODY: u32 = 65_534;

/// A container that has its interface, before our plugin is asked.
struct Started<'a> {
    lab: &'a Lab,
    chain: Chain,
    pod: Pod,
    sandbox: Sandbox,
    result: Value,
}

pub(crate) fn all(checks: &mut Checks, lab: &Lab, named: &dyn Fn(&str) -> String) -> Result<()> {
    let pod = Pod::app(MESH_NAMESPACE, "refused")?;
    lab.manifests().put_pod(&pod)?;
    lab.wait_until(NOTICE, "aware of the pod", |status| status.settled && status.pod(&pod.name).is_some())?;
    let sandbox = Sandbox::create(&format!("{}-refused", lab.name()), &pod)?;
    let chain = chain(lab);
    let result = chain.interface("ADD", &sandbox, None)?;
    let started = Started { lab, chain, pod, sandbox, result };
    started.interface_is_noticed()?;
    let before = started.state()?;
    checks.check(&named("inputs that are no configuration"), || started.inputs());
    checks.check(&named("network namespaces that are not the pod's"), || started.namespaces());
    checks.check(&named("addresses and interfaces that are not the pod's"), || started.addresses());
    checks.check(&named("another user at the socket"), || started.another_user());
    checks.check(&named("garbage at the socket, and others are served"), || started.garbage());
    checks.check(&named("nothing was changed by any of it"), || {
        let after = started.state()?;
        let changes = before.0.diff(&after.0).unwrap_or_default();
        ensure!(changes.is_empty(), "{changes}");
        ensure!(before.1 == after.1, "before: {}\nafter: {}", before.1, after.1);
        Ok(())
    });
    checks.check(&named("the same container, as it is"), || {
        started.chain.redirect("ADD", &started.sandbox, &started.result)?;
        ensure!(lab.status()?.meshed(&started.pod.name), "the pod is not meshed");
        started.chain.redirect("CHECK", &started.sandbox, &started.result)?;
        started.chain.del(&started.sandbox, Some(&started.result))
    });
    lab.manifests().remove_pod(&started.pod)
}

impl Started<'_> {
    /// The agent gives the new interface its programs: what it does for any interface is no answer to what follows.
    fn interface_is_noticed(&self) -> Result<()> {
        if self.lab.mode() == Mode::Iptables {
            return Ok(());
        }
        let interfaces = self.result["interfaces"].as_array().context("no interfaces")?;
        let names = interfaces.iter().filter_map(|interface| interface["name"].as_str());
        let veth = names.into_iter().find(|name| name.starts_with("veth")).context("no veth")?.to_owned();
        let (node, veths) = (self.lab.node(), [veth]);
        eventually(NOTICE, || {
            let ours = hung_on(&node, &veths)?.iter().filter(|hung| hung.is_ours()).count();
            ensure!(ours == 2, "{veths:?} has {ours} programs");
            Ok(())
        })
    }

    /// What must not change: the node, and what the agent knows.
    fn state(&self) -> Result<(Snapshot, String)> {
        let settled = |status: &redirect_lab::status::Status| status.settled;
        let status = self.lab.wait_until(NOTICE, "settled", settled)?;
        let node = Snapshot::exact(&self.lab.node())?.without_processes();
        let file = match fs::read_to_string(self.lab.agent_dir().join("attachments.json")) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            other => other?,
        };
        Ok((node, format!("{:?} {:?} {:?} {file}", status.cni.attachments, status.pods, status.problems)))
    }

    fn refuses(&self, what: &str, code: u32, input: impl AsRef<[u8]>, changes: &[(&'static str, &str)]) -> Result<()> {
        let mut environment = self.chain.environment("ADD", &self.sandbox);
        for (name, value) in changes {
            environment.retain(|(given, _)| given != name);
            environment.push((name, (*value).to_owned()));
        }
        let error = refused(said(&self.chain.run(input, &environment)?)).with_context(|| what.to_owned())?;
        ensure!(error.code == code, "{what}: {error}");
        Ok(())
    }

    fn network(&self) -> Value {
        self.chain.network("1.0.0", Some(&self.result))
    }

    fn inputs(&self) -> Result<()> {
        let whole = self.network().to_string();
        let mut long = self.network();
        long["more"] = "x".repeat(10 << 20).into();
        self.refuses("nothing", 6, "", &[])?;
        self.refuses("garbage", 6, vec![0xff; 4096], &[])?;
        self.refuses("zeros", 6, vec![0; 4096], &[])?;
        self.refuses("too deep", 6, "[".repeat(100_000), &[])?;
        self.refuses("too long", 6, long.to_string(), &[])?;
        for at in [1, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            self.refuses(&format!("cut off after {at} bytes"), 6, &whole[..at], &[])?;
        }
        let alone = self.chain.network("1.0.0", None).to_string();
        self.refuses("no result", 7, alone, &[])?;
        self.refuses("no container", 4, &whole, &[("CNI_CONTAINERID", "../x")])
    }

    fn namespaces(&self) -> Result<()> {
        let whole = self.network().to_string();
        let node = self.lab.node().path().display().to_string();
        for path in [node.as_str(), "/proc/1/ns/net", "/proc/self/ns/net", "/etc/passwd", "/run/no-such", "eth0"] {
            self.refuses(path, 4, &whole, &[("CNI_NETNS", path)])?;
        }
        let proxy = self.lab.pod_netns(ZTUNNEL);
        self.others("ztunnel's", &proxy, ZTUNNEL)?;
        self.others("another pod's", &self.lab.pod_netns("app-a"), "plain")
    }

    /// The netns of one pod with the address of another; of ztunnel's even with its own.
    fn others(&self, what: &str, netns: &Netns, address_of: &str) -> Result<()> {
        let mut network = self.network();
        network["prevResult"]["ips"] = json!([{ "address": format!("{}/24", self.lab.pod(address_of)?.ip()?) }]);
        self.refuses(what, 100, network.to_string(), &[("CNI_NETNS", &netns.path().display().to_string())])
    }

    fn addresses(&self) -> Result<()> {
        let app = self.lab.pod("app-a")?.ip()?.to_string();
        for address in [app.as_str(), "172.18.0.2", "127.0.0.1", "192.0.2.1"] {
            let mut network = self.network();
            let mut ips = self.result["ips"].clone();
            let more = json!({ "address": format!("{address}/32") });
            ips.as_array_mut().context("no addresses")?.push(more);
            network["prevResult"]["ips"] = ips;
            self.refuses(address, 100, network.to_string(), &[])?;
        }
        let whole = self.network().to_string();
        self.refuses("another interface", 100, &whole, &[("CNI_IFNAME", "lo")])?;
        self.refuses("no interface", 100, &whole, &[("CNI_IFNAME", "eth7")])
    }

    /// It cannot even connect; and where somebody has opened the way, it is not heard.
    fn another_user(&self) -> Result<()> {
        let as_nobody = || -> Result<String> {
            let mut command = Command::new(binaries::find(PLUGIN)?);
            command.uid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.env("CNI_COMMAND", "STATUS").env("CNI_PATH", "/opt/cni/bin");
            let mut child = command.spawn()?;
            let network = self.chain.network("1.1.0", None).to_string();
            child.stdin.take().context("no pipe")?.write_all(network.as_bytes())?;
            let output = child.wait_with_output()?;
            ensure!(!output.status.success(), "it was heard");
            Ok(String::from_utf8(output.stdout)?)
        };
        let said = as_nobody()?;
        ensure!(said.contains("Permission denied") || said.contains("EACCES"), "{said}");
        let opened = [(self.lab.agent_dir(), 0o755), (self.chain.socket.clone(), 0o666)];
        let mut former = Vec::new();
        for (path, mode) in &opened {
            former.push(fs::metadata(path)?.permissions());
            fs::set_permissions(path, Permissions::from_mode(*mode))?;
        }
        let said = as_nobody();
        for ((path, _), mode) in opened.iter().zip(former) {
            fs::set_permissions(path, mode)?;
        }
        let said = said?;
        ensure!(said.contains("no answer") && !said.contains("denied"), "{said}");
        Ok(())
    }

    fn garbage(&self) -> Result<()> {
        let silent: Vec<_> =
            (0..40).map(|_| UnixStream::connect(&self.chain.socket)).collect::<std::io::Result<_>>()?;
        for garbage in [vec![b'{'; 10 << 20], vec![0xff; 4096], b"{}\n".to_vec(), b"null\n".to_vec(), b"\n".to_vec()] {
            let mut stream = UnixStream::connect(&self.chain.socket)?;
            stream.set_read_timeout(Some(NOTICE))?;
            // What is refused early is not read to its end.
            drop(stream.write_all(&garbage));
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut answer = String::new();
            match stream.read_to_string(&mut answer) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => bail!("not dropped: {error}"),
                _ => ensure!(answer.is_empty(), "answered with {answer}"),
            }
        }
        self.chain.about_all("STATUS", &[])?;
        drop(silent);
        Ok(())
    }
}
