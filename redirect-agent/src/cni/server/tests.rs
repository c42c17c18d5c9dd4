use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Client;
use std::time::Instant;

use redirect_cni::protocol::{AttachmentId, NetnsId, Pod, Valid};

use super::*;
use crate::cni::book::Book;
use crate::cni::book::tests::attached;
use crate::config::OnProxyLoss;
use crate::enrol::{PodVerdict, State};
use crate::lock;
use crate::sources::Snapshot;
use crate::status::{AttachmentStatus, CniStatus};

const A_WHILE: Duration = Duration::from_millis(50);
const A_LONG_TIME: Duration = Duration::from_mins(1);

struct Agent {
    server: Arc<Server>,
    status: watch::Sender<Status>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
}

fn agent() -> Agent {
    let (status, status_receiver) = watch::channel(Status::default());
    let (snapshots, snapshots_receiver) = watch::channel(Some(Arc::new(Snapshot::default())));
    let server = Server {
        desk: Arc::new(Desk::new(Book::default())),
        doorbell: Arc::new(Doorbell::default()),
        status: status_receiver,
        snapshots: snapshots_receiver,
    };
    Agent { server: Arc::new(server), status, snapshots }
}

impl Agent {
    /// A run of the loop that has seen everything, and judges the one pod so.
    fn run(&self, state: State) {
        let (book, seen) = self.server.desk.look();
        let attachments = book.all().iter().map(|known| AttachmentStatus {
            id: known.id.clone(),
            pod: known.pod.clone(),
            ips: Vec::new(),
            known: true,
        });
        let cni = CniStatus { seen, attachments: attachments.collect(), ..CniStatus::default() };
        let pod = PodVerdict {
            namespace: "mesh".into(),
            name: "a".into(),
            uid: "u".into(),
            ips: Vec::new(),
            ended: false,
            state,
            reason: Some("waits for ztunnel".into()),
            on_proxy_loss: OnProxyLoss::default(),
        };
        self.status.send_replace(Status { ready: true, pods: vec![pod], cni, ..Status::default() });
    }

    fn ticket(&self) -> Ticket {
        self.server.desk.take_in(attached("c1", "a", Some("u"), &["10.0.0.1"])).unwrap()
    }
}

#[tokio::test]
async fn a_pod_waits_for_a_run_that_has_seen_it_and_for_its_datapath() {
    let agent = agent();
    agent.run(State::Meshed);
    let ticket = agent.ticket();
    let server = Arc::clone(&agent.server);
    let waiting = tokio::spawn(async move { server.wait(&ticket, A_LONG_TIME).await });
    tokio::time::sleep(A_WHILE).await;
    assert!(!waiting.is_finished(), "what stood before says nothing of it");
    agent.run(State::Pending);
    tokio::time::sleep(A_WHILE).await;
    assert!(!waiting.is_finished());
    agent.run(State::Meshed);
    assert_eq!(waiting.await.unwrap(), Answer::Enrolled);
}

#[tokio::test]
async fn who_waits_too_long_is_told_why() {
    let agent = agent();
    let ticket = agent.ticket();
    let begun = Instant::now();
    assert!(matches!(agent.server.wait(&ticket, A_WHILE).await, Answer::RetryLater(why) if why.contains("not looked")));
    assert!(begun.elapsed() >= A_WHILE);
    agent.run(State::Pending);
    let later = |answer| matches!(answer, Answer::RetryLater(why) if why == "pod mesh/a: waits for ztunnel");
    assert!(later(agent.server.wait(&ticket, A_WHILE).await));
    agent.snapshots.send_replace(None);
    assert_eq!(agent.server.wait(&ticket, A_WHILE).await, Answer::RetryLater(INCOMPLETE.into()));
}

#[tokio::test]
async fn whether_pods_can_start_does_not_hang_on_ztunnel() {
    let agent = agent();
    agent.run(State::Pending);
    assert_eq!(agent.server.answer(Request::Status).await, Answer::Done);
    agent.snapshots.send_replace(None);
    assert_eq!(agent.server.answer(Request::Status).await, Answer::RetryLater(INCOMPLETE.into()));
}

#[tokio::test]
async fn attachments_that_are_gone_are_forgotten_as_often_as_it_is_said() {
    let agent = agent();
    agent.ticket().keep();
    let id = attached("c1", "a", None, &[]).id;
    for _ in 0..2 {
        assert_eq!(agent.server.answer(Request::Del(id.clone())).await, Answer::Done);
        assert!(agent.server.desk.look().0.all().is_empty());
    }
    agent.ticket().keep();
    let none = Valid { network: "net".into(), attachments: Vec::new() };
    assert_eq!(agent.server.answer(Request::Gc(none)).await, Answer::Done);
    assert!(agent.server.desk.look().0.all().is_empty());
}

#[tokio::test]
async fn the_nodes_namespace_is_refused_and_nothing_is_known_of_it() {
    let agent = agent();
    let attachment = Attachment {
        id: AttachmentId { network: "net".into(), container: "c1".into(), ifname: "eth0".into() },
        pod: Pod { namespace: "mesh".into(), name: "a".into(), uid: None },
        netns: "/proc/self/ns/net".into(),
        netns_id: NetnsId { dev: 0, ino: 0 },
        ips: Vec::new(),
    };
    for request in [Request::Add(attachment.clone()), Request::Check(attachment)] {
        let answer = agent.server.answer(request).await;
        assert!(matches!(&answer, Answer::Refused(why) if why.contains("node's own")), "{answer:?}");
    }
    assert_eq!(agent.server.desk.look(), (Arc::default(), 0));
}

/// Garbage, too much, silence and a hang-up each cost one connection, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_of_use_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let agent = agent();
    let Ok(server) = Arc::try_unwrap(agent.server) else { panic!("it is shared") };
    let mut tasks = JoinSet::new();
    let lock = Arc::new(lock::take(directory.path()).unwrap().unwrap());
    server.listen(&lock, &mut tasks).unwrap();
    let path = directory.path().join(super::super::SOCKET);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let place = path.clone();
    let ask = move |bytes: Vec<u8>| {
        let mut client = Client::connect(&place).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // What is refused early is not read to its end.
        drop(client.write_all(&bytes));
        let mut line = String::new();
        let read = BufReader::new(client).read_line(&mut line);
        (line, read.is_ok())
    };
    let begun = Instant::now();
    let silent: Vec<_> = (0..4 * SPEAKERS).map(|_| Client::connect(&path).unwrap()).collect();
    let outcomes = tokio::task::spawn_blocking(move || {
        for garbage in [b"\n".to_vec(), b"{}\n".to_vec(), vec![b'x'; 10 << 20], vec![0xff; 100_000], b"[".to_vec()] {
            let mut garbage = garbage;
            garbage.push(b'\n');
            assert_eq!(ask(garbage).0, "");
        }
        let long = vec![("c".repeat(200), "eth0".to_owned()); 1000];
        let long = Request::Gc(Valid { network: "net".into(), attachments: long });
        assert!(ask(protocol::encode_request(&long).unwrap()).0.contains("done"));
        ask(protocol::encode_request(&Request::Status).unwrap())
    });
    assert_eq!(protocol::decode_answer(outcomes.await.unwrap().0.as_bytes()).unwrap(), Answer::Done);
    assert!(begun.elapsed() < Duration::from_secs(30));
    drop(silent);
}
