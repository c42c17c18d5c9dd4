//! The plugin as a runtime drives it: the built program, its environment, its input and output, and a stand-in for the agent
//! at its socket. It needs root, to make a network namespace that is not the node's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of it is tests")]

mod agent;
mod runtime;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::{Agent, Netns};
use nix as _;
use redirect_cni::MARK;
use redirect_cni::protocol::{self, Answer, Request};
use runtime::{ARGUMENTS, Call, PREVIOUS};
use serde as _;
use serde_json::{Value, json};
use tempfile as _;
use thiserror as _;

#[test]
fn a_pod_starts_when_the_agent_says_so() {
    let netns = Netns::new();
    for answer in [Answer::Enrolled, Answer::NotMeshed] {
        let agent = Agent::saying(&answer);
        let ran = Call::new("ADD", &netns.path, &agent.socket()).run();
        assert!(ran.ok, "{ran:?}");
        let given: Value = serde_json::from_str(&ran.output).unwrap();
        assert_eq!(given, serde_json::from_str::<Value>(PREVIOUS).unwrap());
        let Request::Add(asked) = agent.asked() else { panic!("another request") };
        assert_eq!((asked.id.network, asked.id.container, asked.id.ifname), ("net".into(), "c1".into(), "eth0".into()));
        assert_eq!(
            (asked.pod.namespace, asked.pod.name, asked.pod.uid),
            ("shop".into(), "cart-0".into(), Some("0c1e".into()))
        );
        assert_eq!(asked.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.5", "fd00::5"]);
        assert_eq!(asked.netns, netns.path);
        let metadata = std::fs::metadata(&netns.path).unwrap();
        assert_eq!((asked.netns_id.dev, asked.netns_id.ino), (metadata.dev(), metadata.ino()));
    }
}

/// The agent replaces and removes no program of this name that has no mark.
#[test]
fn the_program_bears_its_mark_and_says_what_it_is() {
    let program = env!("CARGO_BIN_EXE_redirect-cni");
    let content = std::fs::read(program).unwrap();
    assert!(content.windows(MARK.len()).any(|window| window == MARK.as_bytes()));
    let said = std::process::Command::new(program).arg("--version").env_clear().output().unwrap();
    assert!(!said.status.success() && String::from_utf8(said.stderr).unwrap().starts_with(MARK));
}

#[test]
fn the_result_goes_on_as_it_came() {
    let netns = Netns::new();
    let agent = Agent::saying(&Answer::Enrolled);
    let odd = "{ \"cniVersion\":\"1.1.0\",\"z\":1e400,  \"ips\":[],\n \"a\": 18446744073709551616 }";
    let call = Call::new("ADD", &netns.path, &agent.socket()).without("prevResult");
    let text = call.network.to_string();
    let ran = call.run_on(format!("{}, \"prevResult\": {odd} }}", &text[..text.len() - 1]).into_bytes());
    assert_eq!(ran.output, format!("{odd}\n"));
}

#[test]
fn any_other_answer_holds_the_pod_back() {
    let netns = Netns::new();
    let later = Answer::RetryLater("no ztunnel on this node".into());
    let refused = Answer::Refused("10.244.1.5 is not in the namespace".into());
    for (answer, code, reason) in [
        (protocol::encode_answer(&later).unwrap(), 11, "no ztunnel on this node"),
        (protocol::encode_answer(&refused).unwrap(), 100, "10.244.1.5 is not in the namespace"),
        (protocol::encode_answer(&Answer::Done).unwrap(), 11, "something else"),
        (b"{\"version\":2,\"message\":\"enrolled\"}\n".to_vec(), 11, "version 2"),
        (b"{\"version\":1,\"message\":\"enrolled\"}".to_vec(), 11, "end of file"),
        (b"enrolled\n".to_vec(), 11, "not a message"),
        (vec![b' '; 1 << 20], 11, "more than"),
        (Vec::new(), 11, "timed out"),
    ] {
        let agent = Agent::writing(&answer);
        for command in ["ADD", "CHECK"] {
            let ran = Call::new(command, &netns.path, &agent.socket()).run();
            assert_eq!(ran.code(), code, "{ran:?}");
            assert!(ran.says(reason), "{ran:?} says {reason}");
        }
        let excluded =
            Call::new("ADD", &netns.path, &agent.socket()).env("CNI_ARGS", &ARGUMENTS.replace("shop", "kube-system"));
        assert!(excluded.run().ok);
    }
}

#[test]
fn without_an_agent() {
    let netns = Netns::new();
    let nobody = Path::new("/run/no/such/agent.sock");
    let call = |command| {
        let call = Call::new(command, &netns.path, nobody).key("cni.dev/valid-attachments", json!([]));
        call.key("timeoutSeconds", 1)
    };
    for (command, code) in [("ADD", 11), ("CHECK", 11), ("STATUS", 50)] {
        let ran = call(command).run();
        assert_eq!(ran.code(), code, "{command}");
        assert!(ran.says("agent"), "{ran:?}");
    }
    for command in ["DEL", "DEL", "GC", "GC"] {
        let ran = call(command).run();
        assert!(ran.ok && ran.output.is_empty(), "{command}: {ran:?}");
    }
    for arguments in ["K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns-1", "", "IgnoreUnknown=1"] {
        let ran = call("ADD").env("CNI_ARGS", arguments).run();
        assert!(ran.ok, "{arguments}: {ran:?}");
    }
    // Only the whole name excludes.
    assert_eq!(call("ADD").env("CNI_ARGS", "K8S_POD_NAMESPACE=kube-system2;K8S_POD_NAME=a").run().code(), 11);
}

#[test]
fn what_the_plugin_can_see_for_itself_is_not_asked() {
    let netns = Netns::new();
    let agent = Agent::saying(&Answer::Enrolled);
    let call = |command| Call::new(command, &netns.path, &agent.socket());
    let own = format!("/proc/{}/ns/net", std::process::id());
    for command in ["ADD", "CHECK"] {
        for path in [own.as_str(), "/proc/self/ns/net", "/proc/thread-self/ns/net"] {
            let ran = call(command).env("CNI_NETNS", path).run();
            assert_eq!(ran.code(), 4, "{path}");
            assert!(ran.says("CNI_NETNS") && ran.says("own network namespace"), "{ran:?}");
        }
        for (name, value) in [
            // Where processes of others are hidden, it cannot be looked at, and is refused for that.
            ("CNI_NETNS", "/proc/1/ns/net"),
            ("CNI_NETNS", "/etc/passwd"),
            ("CNI_NETNS", "/run/no/such/netns"),
            ("CNI_NETNS", "run/netns/x"),
            ("CNI_NETNS", ""),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../c1"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "eth0/1"),
            ("CNI_IFNAME", "sixteen-letters-"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=shop"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a;K8S_POD_NAMESPACE=kube-system"),
        ] {
            let ran = call(command).env(name, value).run();
            assert_eq!(ran.code(), 4, "{name}={value}");
            assert!(ran.says(name), "{ran:?}");
        }
        assert_eq!(call(command).without("prevResult").run().code(), 7);
        assert_eq!(call(command).key("prevResult", json!({"ips": [{"address": "x"}]})).run().code(), 7);
        assert_eq!(call(command).key("prevResult", json!({"ips": "x"})).run().code(), 6);
        assert_eq!(call(command).key("name", "").run().code(), 7);
    }
    assert!(agent.was_not_asked());
}

#[test]
fn input_that_is_not_a_configuration() {
    let agent = Agent::saying(&Answer::Enrolled);
    let netns = Netns::new();
    let good = Call::new("ADD", &netns.path, &agent.socket());
    let text = good.network.to_string().into_bytes();
    let deep =
        format!(r#"{{"cniVersion":"1.1.0","name":"net","prevResult":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let mut large = text.clone();
    large.resize(10 << 20, b' ');
    let mut inputs = vec![Vec::new(), b"garbage".to_vec(), vec![0xff; 100], vec![0; 1 << 16], deep.into_bytes(), large];
    inputs.extend((0..text.len()).step_by(37).map(|end| text[..end].to_vec()));
    inputs.extend([vec![b'['; 10 << 20], vec![b'"'; 10 << 20]]);
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let call = good.clone().env("CNI_COMMAND", command);
        for input in &inputs {
            let ran = call.run_on(input.clone());
            assert_eq!(ran.code(), 6, "{command}, {} bytes", input.len());
        }
    }
    assert!(agent.was_not_asked());
}

#[test]
fn versions() {
    let agent = Agent::saying(&Answer::Done);
    let netns = Netns::new();
    let known = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    for version in known.into_iter().chain(["", "0.1.0", "0.2.0", "0.5.0", "1.2.0", "2.0.0", "1.1", "latest"]) {
        let call = |command| {
            let call = Call::new(command, &netns.path, &agent.socket()).key("cniVersion", version);
            call.key("cni.dev/valid-attachments", json!([])).key("prevResult", json!({"ips": []}))
        };
        let at = known.iter().position(|it| *it == version);
        // A container that is no pod, so that the agent has no say.
        let ran = call("ADD").env("CNI_ARGS", "").run();
        match at {
            Some(_) => assert_eq!(ran.output, format!("{{\"cniVersion\":\"{version}\",\"ips\":[]}}\n")),
            None => assert_eq!(ran.code(), 1, "{version}"),
        }
        for (command, since) in [("DEL", 0), ("CHECK", 2), ("GC", 4), ("STATUS", 4)] {
            let ran = call(command).env("CNI_ARGS", "").run();
            if at.is_some_and(|at| at >= since) {
                assert!(ran.ok && ran.output.is_empty(), "{command} {version}: {ran:?}");
            } else {
                assert_eq!(ran.code(), 1, "{command} {version}");
                assert!(ran.says("incompatible CNI version"), "{ran:?}");
                assert!(at.is_none() || ran.says(&format!("\"cniVersion\":\"{version}\"")), "{ran:?}");
            }
        }
    }
    assert_eq!(
        Call::new("ADD", &netns.path, &agent.socket()).key("prevResult", json!({"cniVersion": "0.2.0"})).run().code(),
        1
    );
}

#[test]
fn version_is_answered_whatever_the_input() {
    let agent = Agent::saying(&Answer::Done);
    let call = Call::new("VERSION", "", &agent.socket()).env("CNI_CONTAINERID", "").env("CNI_IFNAME", "");
    let answered = |input: &[u8]| {
        let ran = call.run_on(input.to_vec());
        assert!(ran.ok, "{ran:?}");
        let answer: Value = serde_json::from_str(&ran.output).unwrap();
        assert_eq!(answer["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
        answer["cniVersion"].as_str().unwrap().to_owned()
    };
    assert_eq!(answered(br#"{"cniVersion":"0.4.0"}"#), "0.4.0");
    assert_eq!(answered(br#"{"cniVersion":"3.0.0"}"#), "3.0.0");
    for input in [&b""[..], b"garbage", b"{}", &vec![b'['; 10 << 20]] {
        assert_eq!(answered(input), "1.1.0");
    }
}

#[test]
fn commands_that_are_none() {
    let agent = Agent::saying(&Answer::Done);
    for command in ["", "add", "RUN"] {
        let ran = Call::new(command, "", &agent.socket()).run();
        assert_eq!(ran.code(), 4);
        assert!(ran.says("CNI_COMMAND"), "{ran:?}");
    }
}

#[test]
fn ends_and_leftovers_are_told() {
    let agent = Agent::saying(&Answer::Done);
    let call = |command| Call::new(command, "/run/netns/gone", &agent.socket());
    let valid = json!([{"containerID": "c2", "ifname": "eth0"}]);
    assert!(call("DEL").without("prevResult").run().ok);
    let Request::Del(id) = agent.asked() else { panic!("another request") };
    assert_eq!((id.network.as_str(), id.container.as_str(), id.ifname.as_str()), ("net", "c1", "eth0"));
    assert!(call("GC").key("cni.dev/valid-attachments", valid).run().ok);
    let Request::Gc(valid) = agent.asked() else { panic!("another request") };
    assert_eq!(valid.attachments, [("c2".to_owned(), "eth0".to_owned())]);
    // Not to say what is valid is not to say that nothing is.
    assert!(call("GC").run().ok);
    assert!(agent.was_not_asked());
    assert_eq!(call("DEL").env("CNI_CONTAINERID", "").run().code(), 4);
}

#[test]
fn an_agent_that_cannot_help_does_not_keep_a_pod_from_ending() {
    let begun = Instant::now();
    for answer in [&b"garbage\n"[..], b"", b"{\"version\":1,\"message\":{\"retry-later\":\"x\"}}\n"] {
        let agent = Agent::writing(answer);
        for command in ["DEL", "GC"] {
            let call = Call::new(command, "", &agent.socket()).key("cni.dev/valid-attachments", json!([]));
            let ran = call.run();
            assert!(ran.ok && ran.output.is_empty(), "{ran:?}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn status_waits_for_an_agent_that_is_being_updated() {
    let agent = Agent::saying_late(&Answer::Done, Duration::from_secs(1));
    let call = Call::new("STATUS", "", &agent.socket()).env("CNI_CONTAINERID", "").env("CNI_IFNAME", "");
    let ran = call.key("timeoutSeconds", 30).run();
    assert!(ran.ok && ran.output.is_empty(), "{ran:?}");
    assert_eq!(agent.asked(), Request::Status);
}

#[test]
fn status() {
    for (answer, code) in [
        (Answer::Done, None),
        (Answer::RetryLater("starting".into()), Some(50)),
        (Answer::Limited("no ztunnel".into()), Some(51)),
        (Answer::Enrolled, Some(50)),
    ] {
        let agent = Agent::saying(&answer);
        let call = Call::new("STATUS", "", &agent.socket()).env("CNI_CONTAINERID", "").env("CNI_IFNAME", "");
        let ran = call.key("timeoutSeconds", 1).run();
        match code {
            None => assert!(ran.ok && ran.output.is_empty(), "{ran:?}"),
            Some(code) => assert_eq!(ran.code(), code),
        }
        assert_eq!(agent.asked(), Request::Status);
    }
}
