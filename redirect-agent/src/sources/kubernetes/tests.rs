//! The whole source against a scripted API server: what no unit shows is that the pieces, put together, never take a pod away
//! that is there, and never go silent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::start_with;
use crate::config::OnProxyLoss;
use crate::enrol::{PodVerdict, State};
use crate::sources::{Health, Source};
use crate::status::Status;

const PATIENCE: Duration = Duration::from_mins(1);

/// What the server holds and how it behaves.
#[derive(Clone)]
struct Server {
    objects: Arc<Mutex<BTreeMap<&'static str, Vec<Value>>>>,
    /// Status codes instead of answers, by verb and resource.
    refused: Arc<Mutex<BTreeMap<(&'static str, &'static str), u16>>>,
    /// Lines for everybody who watches the resource; an empty one ends the watch.
    events: broadcast::Sender<(&'static str, String)>,
    requests: mpsc::UnboundedSender<(String, Value)>,
    address: std::net::SocketAddr,
}

impl Server {
    async fn new() -> (Self, JoinSet<()>, mpsc::UnboundedReceiver<(String, Value)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (requests, received) = mpsc::unbounded_channel();
        let objects = BTreeMap::from([("pods", Vec::new()), ("namespaces", Vec::new())]);
        let server = Self {
            objects: Arc::new(Mutex::new(objects)),
            refused: Arc::default(),
            events: broadcast::channel(64).0,
            requests,
            address: listener.local_addr().unwrap(),
        };
        let mut tasks = JoinSet::new();
        server.clone().listen(listener, &mut tasks);
        (server, tasks, received)
    }

    /// Serves until `tasks` are dropped, and every connection with them.
    fn listen(self, listener: TcpListener, tasks: &mut JoinSet<()>) {
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = self.clone();
                connections.spawn(async move { server.serve(stream).await.unwrap_or_default() });
            }
        });
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let begun = head.len();
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
            if let Some(value) = head[begun..].to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let resource = if path.contains("/pods") { "pods" } else { "namespaces" };
        let verb = match path.contains("watch=true") {
            _ if head.starts_with("PATCH") => "patch",
            true => "watch",
            false => "list",
        };
        let refused = self.refused.lock().unwrap().get(&(verb, resource)).copied();
        let events = self.events.subscribe();
        self.requests.send((format!("{verb} {path}"), serde_json::from_slice(&body).unwrap_or_default())).unwrap();
        let stream = stream.get_mut();
        match (refused, verb) {
            (Some(code), _) => {
                let reason = if code == 403 { "Forbidden" } else { "" };
                answer(stream, code, &json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason }))
                    .await
            }
            (None, "watch") => follow(stream, resource, events).await,
            (None, "list") => {
                let items = self.objects.lock().unwrap()[resource].clone();
                answer(stream, 200, &json!({ "metadata": { "resourceVersion": "1" }, "items": items })).await
            }
            (None, _) => answer(stream, 200, &json!({ "kind": "PartialObjectMetadata", "metadata": {} })).await,
        }
    }

    fn set(&self, resource: &'static str, objects: &[Value]) {
        self.objects.lock().unwrap().insert(resource, objects.to_vec());
    }

    fn refuse(&self, verb: &'static str, resource: &'static str, code: Option<u16>) {
        let mut refused = self.refused.lock().unwrap();
        match code {
            Some(code) => drop(refused.insert((verb, resource), code)),
            None => drop(refused.remove(&(verb, resource))),
        }
    }

    fn tell(&self, kind: &str, object: &Value) {
        self.events.send(("pods", format!("{}\n", json!({ "type": kind, "object": object })))).unwrap();
    }

    fn start(&self, tasks: &mut JoinSet<()>) -> (Source, watch::Sender<Status>) {
        let (sender, status) = watch::channel(Status::default());
        let config = Config::new(format!("http://{}", self.address).parse().unwrap());
        (start_with(config, "n1", status, tasks).unwrap(), sender)
    }
}

async fn answer(stream: &mut TcpStream, code: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {code} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
}

async fn follow(
    stream: &mut TcpStream,
    resource: &str,
    mut events: broadcast::Receiver<(&'static str, String)>,
) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    while let Ok((of, line)) = events.recv().await {
        if of == resource {
            stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
            if line.is_empty() {
                break;
            }
        }
    }
    Ok(())
}

fn namespace() -> Value {
    json!({ "metadata": { "name": "mesh", "uid": "ns", "resourceVersion": "1", "labels": { "istio.io/dataplane-mode": "ambient" } } })
}

fn pod(uid: &str, version: &str, redirection: Option<&str>) -> Value {
    let annotations = redirection.map(|value| json!({ "ambient.istio.io/redirection": value }));
    json!({ "metadata": { "name": "a", "namespace": "mesh", "uid": uid, "resourceVersion": version,
        "annotations": annotations, "managedFields": [{ "manager": "kubelet" }] },
        "spec": { "nodeName": "n1" }, "status": { "podIP": "10.0.0.1" } })
}

fn verdict(uid: &str, state: State) -> PodVerdict {
    let (namespace, name) = ("mesh".to_owned(), "a".to_owned());
    let on_proxy_loss = OnProxyLoss::default();
    PodVerdict { namespace, name, uid: uid.into(), ips: Vec::new(), ended: false, state, reason: None, on_proxy_loss }
}

async fn pods_are(source: &Source, uids: &[&str]) {
    let mut snapshots = source.snapshots.clone();
    let reached = snapshots.wait_for(|snapshot| {
        snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.pods.iter().map(|pod| pod.uid.as_str()).eq(uids.iter().copied()))
    });
    timeout(PATIENCE, reached).await.expect("the snapshot does not come").unwrap();
}

async fn health_is(source: &Source, what: impl FnMut(&Health) -> bool) -> Health {
    let mut health = source.health.clone();
    timeout(PATIENCE, health.wait_for(what)).await.expect("the source does not fare so").unwrap().clone()
}

async fn request(requests: &mut mpsc::UnboundedReceiver<(String, Value)>, start: &str) -> (String, Value) {
    let next = async {
        loop {
            let request = requests.recv().await.unwrap();
            if request.0.starts_with(start) {
                return request;
            }
        }
    };
    timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("nobody asks to {start}"))
}

#[tokio::test]
async fn nothing_is_said_before_both_lists_and_a_missing_verb_is_named() {
    let (server, _serving, mut requests) = Server::new().await;
    let mut tasks = JoinSet::new();
    server.set("pods", &[pod("u1", "1", None)]);
    server.refuse("list", "namespaces", Some(403));
    let (source, _status) = server.start(&mut tasks);
    let (listed, _) = request(&mut requests, "list /api/v1/pods").await;
    assert!(listed.contains("fieldSelector=spec.nodeName%3Dn1"), "{listed}");
    request(&mut requests, "watch /api/v1/pods").await;
    let health = health_is(&source, |health| health.stale_since.is_some()).await;
    assert!(health.problems[0].message.contains("must allow verb list on namespaces"), "{health:?}");
    assert!(source.snapshots.borrow().is_none());
    server.refuse("list", "namespaces", None);
    pods_are(&source, &["u1"]).await;
    health_is(&source, |health| *health == Health::default()).await;
}

#[tokio::test]
async fn a_forgotten_version_and_a_server_that_is_away_leave_what_was_known() {
    let (server, mut serving, mut requests) = Server::new().await;
    let mut tasks = JoinSet::new();
    server.set("namespaces", &[namespace()]);
    server.set("pods", &[pod("u1", "1", None)]);
    let (source, _status) = server.start(&mut tasks);
    pods_are(&source, &["u1"]).await;
    request(&mut requests, "watch /api/v1/pods").await;
    health_is(&source, |health| *health == Health::default()).await;
    // What happens while the watch is lost is in the next list.
    server.refuse("list", "pods", Some(500));
    server.tell("ERROR", &json!({ "kind": "Status", "code": 410, "reason": "Expired" }));
    health_is(&source, |health| health.problems.iter().any(|problem| problem.message.contains("500"))).await;
    pods_are(&source, &["u1"]).await;
    server.set("pods", &[pod("u2", "7", None)]);
    server.refuse("list", "pods", None);
    pods_are(&source, &["u2"]).await;
    // A server that is stopped, and one that comes back with nothing to tell.
    request(&mut requests, "watch /api/v1/pods").await;
    serving.shutdown().await;
    let since = health_is(&source, |health| health.problems.len() == 2).await.stale_since;
    assert!(since.is_some());
    pods_are(&source, &["u2"]).await;
    server.clone().listen(TcpListener::bind(server.address).await.unwrap(), &mut serving);
    health_is(&source, |health| *health == Health::default()).await;
    pods_are(&source, &["u2"]).await;
    assert!(tasks.try_join_next().is_none(), "every task goes on");
}

#[tokio::test]
async fn the_annotation_is_written_once_after_the_datapath_stands_and_taken_away_when_it_does_not() {
    let (server, _serving, mut requests) = Server::new().await;
    let mut tasks = JoinSet::new();
    server.set("namespaces", &[namespace()]);
    server.set("pods", &[pod("u1", "1", None)]);
    server.refuse("patch", "pods", Some(403));
    let (source, status) = server.start(&mut tasks);
    pods_are(&source, &["u1"]).await;
    request(&mut requests, "watch /api/v1/pods").await;
    status.send_modify(|status| status.pods = vec![verdict("u1", State::Meshed)]);
    let (asked, patch) = request(&mut requests, "patch").await;
    assert!(asked.starts_with("patch /api/v1/namespaces/mesh/pods/a?"), "{asked}");
    assert_eq!(patch["metadata"]["annotations"]["ambient.istio.io/redirection"], "enabled");
    assert_eq!((&patch["metadata"]["uid"], &patch["metadata"]["resourceVersion"]), (&json!("u1"), &json!("1")));
    let health = health_is(&source, |health| !health.problems.is_empty()).await;
    assert!(health.problems[0].message.contains("must allow verb patch on pods"), "{health:?}");
    assert_eq!(health.stale_since, None, "what is known is as fresh as ever");
    server.refuse("patch", "pods", None);
    health_is(&source, |health| health.problems.is_empty()).await;
    while requests.try_recv().is_ok() {}
    // Its echo wakes neither the reconciler nor another patch: the next is the removal.
    let mut snapshots = source.snapshots.clone();
    snapshots.mark_unchanged();
    server.tell("MODIFIED", &pod("u1", "2", Some("enabled")));
    status.send_modify(|status| status.pods = vec![verdict("u1", State::Pending)]);
    status.send_modify(|status| status.pods = vec![verdict("u1", State::Meshed)]);
    status.send_modify(|status| status.pods = vec![verdict("u1", State::NotMeshed)]);
    let (_, removal) = request(&mut requests, "patch").await;
    assert_eq!(removal["metadata"]["annotations"], json!({ "ambient.istio.io/redirection": null }));
    assert_eq!(removal["metadata"]["resourceVersion"], "2");
    assert!(!snapshots.has_changed().unwrap());
    let annotations = source.annotations.clone().unwrap();
    assert!(timeout(Duration::from_millis(50), annotations.removed()).await.is_err(), "it is still there");
    // The reconciler ends, and the cleanup is waited for.
    drop(status);
    server.tell("MODIFIED", &pod("u1", "3", None));
    timeout(PATIENCE, annotations.removed()).await.unwrap();
    assert!(tasks.try_join_next().is_none(), "every task goes on");
}
