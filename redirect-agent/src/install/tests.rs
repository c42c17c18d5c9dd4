//! The plugin put in, kept and taken out, by files in folders of our own.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redirect_cni::MARK;
use redirect_cni::protocol::{Answer, encode_answer};
use tempfile::TempDir;

use super::pass::Passed;
use super::{Install, Places, Plugin, SOCKET, State, keep, places};

const LIST: &str =
    "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"net\",\n  \"plugins\": [\n    {\"type\": \"ptp\"}\n  ]\n}\n";
const SINGLE: &str = "{\"cniVersion\": \"0.3.1\", \"name\": \"net\", \"type\": \"ptp\"}\n";

/// A node's folders.
struct Node(TempDir);

impl Node {
    fn new(file: &str, content: &str) -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        for folder in ["bin", "conf", "state"] {
            fs::create_dir(node.path(folder)).unwrap();
        }
        fs::write(node.path("source"), format!("#!/bin/false {MARK}, version 1")).unwrap();
        fs::write(node.path("bin/ptp"), "another plugin").unwrap();
        fs::write(node.path("conf").join(file), content).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn install(&self) -> Install {
        let places = Places { bin: self.path("bin"), conf: self.path("conf") };
        let plugin = Plugin { source: self.path("source"), exclude_namespaces: vec!["kube-system".to_owned()] };
        Install::new(Some(plugin), places, &self.path("state"), "istio-system").unwrap()
    }

    /// Everything in the two folders: names, contents, modes.
    fn snapshot(&self) -> Vec<(String, Vec<u8>, u32)> {
        let mut all = Vec::new();
        for folder in ["bin", "conf"] {
            for entry in fs::read_dir(self.path(folder)).unwrap() {
                let path = entry.unwrap().path();
                let mode = fs::symlink_metadata(&path).unwrap().mode();
                all.push((path.display().to_string(), fs::read(&path).unwrap_or_default(), mode));
            }
        }
        all.sort();
        all
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn in_twice_and_out_leaves_the_same_bytes() {
    for (file, content) in [("10-net.conflist", LIST), ("10-net.conf", SINGLE)] {
        let node = Node::new(file, content);
        fs::set_permissions(node.path("conf").join(file), fs::Permissions::from_mode(0o640)).unwrap();
        let before = node.snapshot();
        let install = node.install();
        assert_eq!(install.pass(), Passed::Put);
        assert_eq!(fs::metadata(node.path("bin/redirect-cni")).unwrap().mode() & 0o7777, 0o755);
        let list = node.text("conf/10-net.conflist");
        assert!(list.contains("\"istio-system\"") && list.contains("\"kube-system\""), "{list}");
        assert!(list.contains(&node.path("state/cni.sock").display().to_string()), "{list}");
        assert_eq!(install.pass(), Passed::Whole);
        // A new agent finds everything as it should be and writes nothing.
        let inodes = ["bin/redirect-cni", "conf/10-net.conflist"].map(|name| inode(&node.path(name)));
        let next = node.install();
        assert_eq!(next.pass(), Passed::Whole);
        assert_eq!(["bin/redirect-cni", "conf/10-net.conflist"].map(|name| inode(&node.path(name))), inodes);
        let (status, problem) = next.status();
        assert_eq!((status.unwrap().state, problem), (State::Installed, None));
        let removed = next.remove();
        assert!(removed.problems.is_empty() && removed.writes == 2, "{removed:?}");
        assert_eq!(node.snapshot(), before, "{file}");
        assert_eq!(next.pass(), Passed::Over, "out is out");
        assert_eq!(node.snapshot(), before);
        assert!(places::known(&node.path("state")).unwrap().is_empty());
    }
}

#[test]
fn what_was_left_half_written_goes() {
    let node = Node::new("10-net.conflist", LIST);
    let before = node.snapshot();
    for leave in [Install::sweep, |install: &Install| drop(install.remove())] {
        for folder in ["bin", "conf"] {
            fs::write(node.path(folder).join(".redirect-cni.00ff.tmp"), "{").unwrap();
        }
        leave(&node.install());
        assert_eq!(node.snapshot(), before);
    }
}

#[test]
fn a_new_version_replaces_the_old_and_old_ones_are_removed_too() {
    let node = Node::new("10-net.conflist", LIST);
    let before = node.snapshot();
    node.install().pass();
    fs::write(node.path("source"), format!("{MARK}, version 2")).unwrap();
    let install = node.install();
    assert_eq!(install.pass(), Passed::Put);
    assert!(node.text("bin/redirect-cni").ends_with("version 2"));
    fs::write(node.path("source"), format!("{MARK}, version 3")).unwrap();
    assert!(node.install().remove().problems.is_empty());
    assert_eq!(node.snapshot(), before);
}

#[test]
fn what_is_anothers_stays_and_is_told() {
    let node = Node::new("10-net.conflist", LIST);
    fs::write(node.path("bin/redirect-cni"), "somebody else's program of this name").unwrap();
    let before = node.snapshot();
    let install = node.install();
    assert_eq!(install.pass(), Passed::Failed);
    let (status, problem) = install.status();
    assert_eq!(status.unwrap().state, State::Pending);
    assert!(problem.unwrap().message.contains("another's"));
    assert_eq!(node.snapshot(), before, "nor may the list name it");
    assert!(install.remove().problems.is_empty());
    assert_eq!(node.snapshot(), before);
    fs::remove_file(node.path("bin/redirect-cni")).unwrap();
    symlink(node.path("bin/ptp"), node.path("bin/redirect-cni")).unwrap();
    assert_eq!(node.install().pass(), Passed::Failed);
    assert_eq!(node.text("bin/ptp"), "another plugin");
}

#[test]
fn what_failed_meanwhile_is_a_repair_all_the_same() {
    let node = Node::new("10-net.conflist", LIST);
    let install = node.install();
    assert_eq!(install.pass(), Passed::Put);
    // Seen half-written.
    fs::write(node.path("conf/10-net.conflist"), "{").unwrap();
    assert_eq!(install.pass(), Passed::Failed);
    fs::write(node.path("conf/10-net.conflist"), LIST).unwrap();
    assert_eq!(install.pass(), Passed::Repaired);
    assert_eq!(install.status().0.unwrap().repairs, 1);
}

#[test]
fn what_is_no_plugin_is_not_installed() {
    let node = Node::new("10-net.conflist", LIST);
    let before = node.snapshot();
    fs::write(node.path("source"), "not it").unwrap();
    assert_eq!(node.install().pass(), Passed::Failed);
    fs::remove_file(node.path("source")).unwrap();
    assert_eq!(node.install().pass(), Passed::Failed);
    assert_eq!(node.snapshot(), before);
}

#[test]
fn the_program_stays_where_a_list_may_still_name_it() {
    let node = Node::new("10-net.conflist", LIST);
    let install = node.install();
    install.pass();
    fs::write(node.path("conf/10-net.conflist"), "{ \"redirect-cni\"").unwrap();
    let removed = install.remove();
    assert!(removed.problems[0].1.contains("10-net.conflist"), "{removed:?}");
    assert!(node.path("bin/redirect-cni").exists());
    fs::write(node.path("conf/10-net.conflist"), LIST).unwrap();
    assert!(node.install().remove().problems.is_empty(), "again, when the reason is gone");
    assert!(!node.path("bin/redirect-cni").exists());
}

#[test]
fn a_cleanup_that_is_told_other_folders_finds_it() {
    let node = Node::new("10-net.conflist", LIST);
    let before = node.snapshot();
    node.install().pass();
    let elsewhere = places::Places { bin: node.path("no"), conf: node.path("no") };
    assert!(Install::to_remove(elsewhere, &node.path("state")).remove().problems.is_empty());
    assert_eq!(node.snapshot(), before);
    // The node's agent was in a container, where its folders have other names.
    node.install().pass();
    places::forget(&node.path("state")).unwrap();
    places::note(&node.path("state"), &places::Places { bin: node.path("host/bin"), conf: node.path("host/conf") })
        .unwrap();
    let here = places::Places { bin: node.path("bin"), conf: node.path("conf") };
    assert!(Install::to_remove(here, &node.path("state")).remove().problems.is_empty());
    assert_eq!(node.snapshot(), before);
}

/// Answers the plugin as an agent does.
fn agent(state: &Path) {
    let listener = UnixListener::bind(state.join(SOCKET)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            stream.read_line(&mut String::new()).unwrap();
            let answer = encode_answer(&Answer::RetryLater("no ztunnel".into())).unwrap();
            stream.get_mut().write_all(&answer).unwrap();
        }
    });
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn it_goes_in_when_the_agent_answers_and_is_kept_in() {
    let node = Node::new("10-net.conflist", LIST);
    let before = node.snapshot();
    let install = Arc::new(node.install());
    let keeper = tokio::spawn(keep(Arc::clone(&install)));
    until("told that nobody answers", || install.status().1.is_some()).await;
    assert_eq!(node.snapshot(), before, "nothing before the agent answers");
    agent(&node.path("state"));
    let state = || install.status().0.unwrap();
    until("installed", || state().state == State::Installed).await;
    let good = node.snapshot();
    // Another component writes its file as it was, removes the program, writes a list that comes first.
    fs::write(node.path("conf/10-net.conflist"), LIST).unwrap();
    until("repaired", || state().repairs == 1 && node.snapshot() == good).await;
    fs::remove_file(node.path("bin/redirect-cni")).unwrap();
    until("repaired again", || state().repairs == 2 && node.snapshot() == good).await;
    fs::write(node.path("conf/05-other.conflist"), LIST).unwrap();
    until("in the new primary", || state().list == Some(node.path("conf/05-other.conflist"))).await;
    assert!(node.text("conf/05-other.conflist").contains("redirect-cni"));
    fs::remove_file(node.path("conf/05-other.conflist")).unwrap();
    assert!(install.remove().problems.is_empty());
    assert_eq!(node.snapshot(), before);
    fs::write(node.path("conf/10-net.conflist"), LIST).unwrap();
    assert_eq!(install.pass(), Passed::Over);
    assert_eq!(node.snapshot(), before, "out is out");
    assert!(!keeper.is_finished(), "the agent takes the end of a task for a failure");
    keeper.abort();
}

/// Somebody who writes the file as often as he can costs us a few writes, not a race.
#[tokio::test]
async fn a_fight_is_slowed_down_and_told() {
    let node = Node::new("10-net.conflist", LIST);
    let install = Arc::new(node.install());
    agent(&node.path("state"));
    let keeper = tokio::spawn(keep(Arc::clone(&install)));
    until("installed", || install.status().0.unwrap().state == State::Installed).await;
    let (begun, repairs) = (Instant::now(), || install.status().0.unwrap().repairs);
    while repairs() < 4 && begun.elapsed() < Duration::from_secs(30) {
        fs::write(node.path("conf/10-net.conflist"), LIST).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(repairs() >= 4, "{} repairs in {:.0?}", repairs(), begun.elapsed());
    // Pauses of 0.4, 0.8 and 1 s before the last three, each at least half as long; on a busy machine they are longer.
    assert!(begun.elapsed() >= Duration::from_millis(600), "{} repairs in {:.1?}", repairs(), begun.elapsed());
    assert!(install.status().1.unwrap().message.contains("again and again"));
    keeper.abort();
}
