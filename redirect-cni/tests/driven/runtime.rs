//! A runtime's call of the plugin, and what came of it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

/// What a run of the plugin left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) ok: bool,
    pub(crate) output: String,
}

impl Ran {
    /// The error object's code; the object must be all there is.
    pub(crate) fn code(&self) -> u64 {
        assert!(!self.ok, "{self:?}");
        let object: Value = serde_json::from_str(&self.output).unwrap();
        assert!(object["cniVersion"].is_string() && object["msg"].is_string(), "{object}");
        assert!(object["details"].is_string(), "{object}");
        object["code"].as_u64().unwrap()
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.output.contains(text)
    }
}

/// A call of a runtime, to be changed before it is made.
#[derive(Clone)]
pub(crate) struct Call {
    environment: Vec<(&'static str, String)>,
    pub(crate) network: Value,
}

pub(crate) const ARGUMENTS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=0c1e";
pub(crate) const PREVIOUS: &str = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.244.1.5/24","interface":1},{"address":"fd00::5/64","interface":1}],"dns":{}}"#;

impl Call {
    pub(crate) fn new(command: &str, netns: &str, socket: &Path) -> Self {
        let environment = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", "c1".to_owned()),
            ("CNI_NETNS", netns.to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", ARGUMENTS.to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ];
        let network = json!({
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "redirect-cni",
            "socket": socket,
            "timeoutSeconds": 1,
            "excludeNamespaces": ["kube-system"],
            "prevResult": serde_json::from_str::<Value>(PREVIOUS).unwrap(),
        });
        Self { environment, network }
    }

    pub(crate) fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.retain(|(given, _)| *given != name);
        self.environment.push((name, value.to_owned()));
        self
    }

    pub(crate) fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.network[key] = value.into();
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.network.as_object_mut().unwrap().remove(key);
        self
    }

    pub(crate) fn run(&self) -> Ran {
        self.run_on(self.network.to_string().into_bytes())
    }

    pub(crate) fn run_on(&self, input: Vec<u8>) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_redirect-cni"))
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // What is refused early is not read to its end.
        let writer: JoinHandle<()> = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.code().is_some_and(|code| code < 2), "{}", output.status);
        Ran { ok: output.status.success(), output: String::from_utf8(output.stdout).unwrap() }
    }
}
