//! The socket that the CNI plugin asks: one request a connection, one answer. Only root may ask. Clients are bounded, those that
//! say much are few at a time, and nobody is waited for without end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use redirect_cni::protocol::{self, Answer, Attachment, REQUEST_LIMIT, Request};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::ReadHalf;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{answer, answer_now};
use super::book::Attached;
use super::desk::{Desk, Ticket};
use super::inspect;
use crate::kernel::netns::NetnsId;
use crate::lock::Lock;
use crate::reconcile::cause::Cause;
use crate::reconcile::doorbell::Doorbell;
use crate::socket::Listener;
use crate::sources::Snapshots;
use crate::status::Status;

/// As many pods may be starting at once: more than kubelet lets a node have.
const CLIENTS: usize = 256;
/// As many may say more than a short request, which is what all but the list of a whole node's attachments are.
const SPEAKERS: usize = 8;
/// Bytes of a short request.
const SHORT: u64 = 16 * 1024;
/// For a request to come, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a pod may wait. Less than the plugin waits ([`redirect_cni::spec`]: 10 s), so that it is told why.
const ENROLMENT: Duration = Duration::from_secs(8);

const INCOMPLETE: &str = "the agent has not heard of all pods yet";

/// What clients are served with.
pub(crate) struct Server {
    pub(crate) desk: Arc<Desk>,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) snapshots: Snapshots,
}

impl Server {
    /// Answers until the task is aborted.
    pub(crate) fn listen(self, lock: &Arc<Lock>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
        let listener = Listener::bind(lock, super::SOCKET)?;
        tasks.spawn(Arc::new(self).accept(listener));
        Ok(())
    }

    async fn accept(self: Arc<Self>, mut listener: Listener) {
        let (places, speakers) = (Arc::new(Semaphore::new(CLIENTS)), Arc::new(Semaphore::new(SPEAKERS)));
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let stream = listener.accept().await;
            let (server, speakers) = (Arc::clone(&self), Arc::clone(&speakers));
            tokio::spawn(async move {
                if let Err(error) = server.serve(stream, &speakers).await {
                    tracing::debug!(error = format!("{error:#}"), "a client of the CNI socket was dropped");
                }
                drop(place);
            });
        }
    }

    async fn serve(&self, mut stream: UnixStream, speakers: &Semaphore) -> anyhow::Result<()> {
        let peer = stream.peer_cred()?.uid();
        if peer != 0 {
            bail!("uid {peer} is not root");
        }
        let (mut reader, mut writer) = stream.split();
        let request = read(&mut reader, speakers).await?;
        let answer = tokio::select! {
            answer = self.answer(request.clone()) => answer,
            () = hung_up(&mut reader) => bail!("nobody waits for the answer any more"),
        };
        self.desk.count(&request, &answer);
        note(&request, &answer);
        let line = protocol::encode_answer(&answer)?;
        timeout(PATIENCE, writer.write_all(&line)).await.context("the answer was not taken")??;
        Ok(())
    }

    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Add(attachment) => self.add(attachment).await.unwrap_or_else(|answer| answer),
            Request::Check(attachment) => self.check(attachment).await.unwrap_or_else(|answer| answer),
            Request::Del(id) => {
                self.desk.detach(&id);
                self.doorbell.hurry();
                Answer::Done
            }
            Request::Gc(valid) => {
                self.desk.keep_valid(&valid);
                self.doorbell.hurry();
                Answer::Done
            }
            Request::Status => self.ready(),
        }
    }

    /// Takes the attachment in and waits until its pod is enrolled, or does not have to be. One who does not get leave to start
    /// leaves nothing behind.
    async fn add(&self, attachment: Attachment) -> Result<Answer, Answer> {
        let attached = self.inspected(attachment).await?;
        let ticket = self.desk.take_in(attached).map_err(Answer::RetryLater)?;
        self.doorbell.hurry();
        let answer = self.wait(&ticket, ENROLMENT).await;
        let look_again = if matches!(answer, Answer::Enrolled | Answer::NotMeshed) {
            ticket.keep()
        } else {
            ticket.withdraw();
            true
        };
        if look_again {
            self.doorbell.ring(Cause::WANTED);
        }
        Ok(answer)
    }

    async fn wait(&self, ticket: &Ticket, patience: Duration) -> Answer {
        let mut status = self.status.clone();
        let found = |status: &Status| answer(status, &ticket.id, ticket.generation).is_ok();
        // Either way the last status says it: the answer, or why there is none.
        drop(timeout(patience, status.wait_for(found)).await);
        if self.snapshots.borrow().is_none() {
            return Answer::RetryLater(INCOMPLETE.to_owned());
        }
        answer(&status.borrow(), &ticket.id, ticket.generation).unwrap_or_else(Answer::RetryLater)
    }

    /// As things are now, without a wait and without a change.
    async fn check(&self, attachment: Attachment) -> Result<Answer, Answer> {
        let attached = self.inspected(attachment).await?;
        let (book, _) = self.desk.look();
        let known = book.get(&attached.id).ok_or_else(|| Answer::RetryLater("the attachment is not known".into()))?;
        if known.netns != attached.netns || known.ips != attached.ips {
            return Err(Answer::Refused("its addresses or its network namespace are others than at its start".into()));
        }
        answer_now(&self.status.borrow(), &attached.id).map_err(Answer::RetryLater)
    }

    /// A look into the namespace belongs to a thread, and may wait for the kernel's, or for a file system.
    async fn inspected(&self, attachment: Attachment) -> Result<Attached, Answer> {
        let look = tokio::task::spawn_blocking(move || inspect::inspect(&attachment).map(|()| attachment));
        let late = |_| Answer::RetryLater("the look at the network namespace takes too long".into());
        let looked = timeout(PATIENCE, look).await.map_err(late)?;
        let failed = |error| Answer::RetryLater(format!("the look at the network namespace failed: {error}"));
        let attached = Attached::new(looked.map_err(failed)??).map_err(Answer::Refused)?;
        let status = self.status.borrow();
        let (proxy, pod) = (&status.proxy, &attached.pod);
        let is_proxy = (proxy.namespace.as_ref(), proxy.name.as_ref()) == (Some(&pod.namespace), Some(&pod.name));
        if proxy.netns == Some(NetnsId::told(attached.netns)) && !is_proxy {
            return Err(Answer::Refused("its network namespace is ztunnel's".into()));
        }
        Ok(attached)
    }

    /// Whether pods can start at all. That there is no ztunnel, or that something is wrong with the node, is no answer here:
    /// runtimes pass it on as the node's network being down, and then kubelet starts no pod, ztunnel's neither.
    fn ready(&self) -> Answer {
        match self.snapshots.borrow().as_deref() {
            Some(_) => Answer::Done,
            None => Answer::RetryLater(INCOMPLETE.to_owned()),
        }
    }
}

/// What is held of a request that has not come to its end is little for most, and bounded for all.
async fn read(reader: &mut ReadHalf<'_>, speakers: &Semaphore) -> anyhow::Result<Request> {
    let limit = u64::try_from(REQUEST_LIMIT)? + 1;
    let mut reader = BufReader::new(reader.take(limit));
    let mut line = Vec::new();
    let mut short = (&mut reader).take(SHORT);
    timeout(PATIENCE, short.read_until(b'\n', &mut line)).await.context("no request came")??;
    if u64::try_from(line.len())? == SHORT && line.last() != Some(&b'\n') {
        let _speaks = speakers.acquire().await?;
        timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await.context("no whole request came")??;
    }
    if line.last() != Some(&b'\n') && line.len() <= REQUEST_LIMIT {
        bail!("the request has no end");
    }
    Ok(protocol::decode_request(&line)?)
}

/// The plugin keeps its end open for as long as it waits.
async fn hung_up(reader: &mut ReadHalf<'_>) {
    let mut rest = [0; 64];
    while reader.read(&mut rest).await.is_ok_and(|length| length > 0) {}
}

/// What keeps a pod from starting is in the log as well.
fn note(request: &Request, answer: &Answer) {
    let (Request::Add(attachment) | Request::Check(attachment)) = request else { return };
    let pod = format!("{}/{}", attachment.pod.namespace, attachment.pod.name);
    match answer {
        Answer::RetryLater(reason) => tracing::warn!(pod, reason, "the pod cannot start yet"),
        Answer::Refused(reason) => tracing::warn!(pod, reason, "the pod is refused"),
        _ => tracing::debug!(pod, ?answer, "the pod may start"),
    }
}

#[cfg(test)]
mod tests;
