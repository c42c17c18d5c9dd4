//! The agent puts its CNI plugin among the runtime's, keeps it there, leaves it there when it ends, and takes exactly it out on
//! cleanup. The folders are the lab's; the program that is called is the one that was installed, with the entry that was written.
#![allow(unused_crate_dependencies, reason = "they are the library's")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::binaries;
use redirect_lab::command::Cmd;
use redirect_lab::harness::{Checks, options, start, watchful};
use redirect_lab::lab::Lab;
use redirect_lab::runtime::PLUGIN;
use redirect_lab::scoped::ScopedLab;
use redirect_lab::status::CniPlugin;
use rustix::process::Signal;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);
const LIST: &str =
    "{\n  \"cniVersion\": \"1.1.0\",\n  \"name\": \"net\",\n  \"plugins\": [\n    {\"type\": \"ptp\"}\n  ]\n}\n";
const SINGLE: &str = "{ \"cniVersion\": \"1.1.0\", \"name\": \"net\", \"type\": \"ptp\" }\n";

/// The runtime's folders.
struct Node {
    bin: PathBuf,
    conf: PathBuf,
}

#[test]
fn the_plugin_comes_stays_and_goes() -> Result<()> {
    let mut lab = ScopedLab::up(options("inst")?)?;
    let mut checks = Checks::default();
    for (file, content) in [("10-net.conflist", LIST), ("10-net.conf", SINGLE)] {
        let named = |text: &str| format!("{file}: {text}");
        let node = Node::new(&lab, file, content)?;
        let before = node.snapshot()?;
        checks.check(&named("comes when the agent answers, and works"), || comes(&mut lab, &node, file));
        checks.check(&named("is put back"), || put_back(&lab, &node, file, content));
        checks.check(&named("stays when the agent is killed, and a new one writes nothing"), || stays(&mut lab, &node));
        checks.check(&named("an agent takes out exactly it"), || {
            lab.cleanup_agent()?;
            same(&before, &node.snapshot()?)
        });
        checks.check(&named("is taken out without an agent"), || {
            start(&mut lab, &node.agent()?)?;
            installed(&lab)?;
            lab.stop_agent(Signal::KILL)?;
            lab.cleanup_agent()?;
            same(&before, &node.snapshot()?)
        });
        fs::remove_dir_all(node.conf.parent().context("a folder is in another")?)?;
    }
    checks.finish()
}

fn comes(lab: &mut Lab, node: &Node, file: &str) -> Result<()> {
    start(lab, &node.agent()?)?;
    let list = installed(lab)?.list.context("status names no list")?;
    ensure!(list == node.list(), "status says that it is in {}", list.display());
    ensure!(file.ends_with("list") || !node.conf.join(file).exists(), "{file} is still there, and comes first");
    ensure!(node.plugin_status(lab)?.is_none(), "a pod could start, and the plugin says no");
    Ok(())
}

/// Another component writes its file as it was, and removes the program.
fn put_back(lab: &Lab, node: &Node, file: &str, content: &str) -> Result<()> {
    let good = node.snapshot()?;
    fs::write(node.conf.join(file), content)?;
    repaired(lab, 1)?;
    ensure!(node.entry()?["excludeNamespaces"] == json!(["istio-system", "kube-system"]), "{}", node.entry()?);
    fs::remove_file(node.bin.join(PLUGIN))?;
    repaired(lab, 2)?;
    same(&good, &node.snapshot()?)
}

fn stays(lab: &mut Lab, node: &Node) -> Result<()> {
    let inodes = || -> Result<_> {
        Ok([node.list(), node.bin.join(PLUGIN)].map(|path| fs::metadata(path).map(|it| it.ino()).ok()))
    };
    installed(lab)?;
    let (good, before) = (node.snapshot()?, inodes()?);
    lab.stop_agent(Signal::KILL)?;
    same(&good, &node.snapshot()?)?;
    let refusal = node.plugin_status(lab)?.context("nobody answers, and a pod could start")?;
    ensure!(refusal["code"] == 50, "{refusal}");
    start(lab, &node.agent()?)?;
    installed(lab)?;
    ensure!(inodes()? == before, "written again");
    same(&good, &node.snapshot()?)
}

fn installed(lab: &Lab) -> Result<CniPlugin> {
    let is = |plugin: &CniPlugin| plugin.state == "installed";
    let status = lab.wait_until(DEADLINE, "installed", |status| status.cni_plugin.as_ref().is_some_and(is))?;
    status.cni_plugin.context("status has no plugin")
}

fn repaired(lab: &Lab, times: u64) -> Result<()> {
    let is = |plugin: &CniPlugin| plugin.repairs >= times && plugin.state == "installed";
    let status = lab.wait_until(DEADLINE, "repaired", |status| status.cni_plugin.as_ref().is_some_and(is))?;
    let repairs = status.cni_plugin.map(|plugin| plugin.repairs);
    ensure!(repairs == Some(times), "{repairs:?} repairs of {times}");
    Ok(())
}

impl Node {
    fn new(lab: &Lab, file: &str, content: &str) -> Result<Self> {
        let folder = lab.dir().join("runtime");
        let node = Self { bin: folder.join("bin"), conf: folder.join("net.d") };
        for folder in [&node.bin, &node.conf] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(node.bin.join("ptp"), "another plugin")?;
        fs::write(node.conf.join(file), content)?;
        fs::write(node.conf.join("99-other.conflist"), LIST)?;
        Ok(node)
    }

    fn agent(&self) -> Result<AgentOptions> {
        let plugin = binaries::find(PLUGIN)?;
        Ok(watchful()
            .arg(&format!("--cni-plugin={}", plugin.display()))
            .arg(&format!("--cni-bin-dir={}", self.bin.display()))
            .arg(&format!("--cni-conf-dir={}", self.conf.display())))
    }

    fn list(&self) -> PathBuf {
        self.conf.join("10-net.conflist")
    }

    /// Our entry in the list.
    fn entry(&self) -> Result<Value> {
        let list: Value = serde_json::from_str(&fs::read_to_string(self.list())?)?;
        let plugins = list["plugins"].as_array().context("a list has plugins")?;
        plugins.iter().find(|plugin| plugin["type"] == PLUGIN).cloned().context("our entry is not in the list")
    }

    /// What the installed program says to STATUS, with the entry as a runtime gives it on: nothing is good.
    fn plugin_status(&self, lab: &Lab) -> Result<Option<Value>> {
        let mut network = self.entry()?;
        network["cniVersion"] = json!("1.1.0");
        network["name"] = json!("net");
        let call = Cmd::new(self.bin.join(PLUGIN)).netns(&lab.node()).stdin(network.to_string());
        let output = call.env("CNI_COMMAND", "STATUS").env("CNI_PATH", &self.bin).output()?;
        if output.status.success() { Ok(None) } else { Ok(Some(serde_json::from_str(&output.stdout)?)) }
    }

    /// Everything in both folders: content and mode.
    fn snapshot(&self) -> Result<BTreeMap<PathBuf, (String, u32)>> {
        let mut all = BTreeMap::new();
        for folder in [&self.bin, &self.conf] {
            for file in fs::read_dir(folder)? {
                let path = file?.path();
                let content = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
                all.insert(path.clone(), (content, fs::metadata(&path)?.mode()));
            }
        }
        Ok(all)
    }
}

fn same(before: &BTreeMap<PathBuf, (String, u32)>, after: &BTreeMap<PathBuf, (String, u32)>) -> Result<()> {
    let differs = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let wrong: Vec<&Path> = before.keys().chain(after.keys()).filter(differs).map(PathBuf::as_path).collect();
    if wrong.is_empty() { Ok(()) } else { bail!("not as before: {wrong:?}") }
}
