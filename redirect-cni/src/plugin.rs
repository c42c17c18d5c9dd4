//! The commands: from environment and standard input to standard output.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{self, AskError};
use crate::deadline::Deadline;
use crate::input::{self, InputError};
use crate::netns;
use crate::protocol::{Answer, Attachment, AttachmentId, Request, Valid};
use crate::spec::{self, Code, Command, Environment, Error, Network, Previous, Version};

/// A runtime writes at once.
const INPUT_PATIENCE: Duration = Duration::from_secs(5);
/// For what succeeds whatever the agent says, and for a question about it. It is not worth holding a runtime up.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// Between two questions to an agent that is not there.
const AGAIN: Duration = Duration::from_millis(200);

/// What is written to standard output, for a command that failed as well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: Error,
    /// The version in which to say so.
    pub version: Version,
}

/// Does what the environment says; the answer is what goes to standard output.
pub fn run(lookup: impl Fn(&str) -> Option<OsString>, stdin: impl Read + AsFd) -> Result<String, Failure> {
    let mut version = Version::NEWEST;
    execute(lookup, stdin, &mut version).map_err(|error| Failure { error, version })
}

fn execute(
    lookup: impl Fn(&str) -> Option<OsString>,
    stdin: impl Read + AsFd,
    version: &mut Version,
) -> Result<String, Error> {
    let environment = Environment::read(lookup)?;
    let input = input::read(stdin, Deadline::after(INPUT_PATIENCE));
    if environment.command == Command::Version {
        // It is how a runtime finds out whether anything can be understood at all, so nothing in the input makes it fail.
        return Ok(versions(&input.unwrap_or_default()));
    }
    let text = input.map_err(|error| unreadable(&error))?;
    *version = spec::version(&text)?;
    spec::available(environment.command, *version)?;
    let network = spec::network(&text)?;
    match environment.command {
        Command::Add => add(&environment, &network, *version),
        Command::Check => check(&environment, &network).map(|()| String::new()),
        Command::Del => Ok(del(environment, &network)),
        Command::Gc => Ok(collect(network)),
        Command::Status => status(&network).map(|()| String::new()),
        Command::Version => Ok(versions(&text)),
    }
}

fn versions(text: &str) -> String {
    let offered = spec::offered(text).unwrap_or_else(|| Version::NEWEST.to_string());
    json!({ "cniVersion": offered, "supportedVersions": Version::ALL.map(Version::name) }).to_string()
}

/// A pod starts. Its namespace is looked at before anything is asked: excluded ones are never held up.
fn add(environment: &Environment, network: &Network<'_>, version: Version) -> Result<String, Error> {
    let previous = Previous::of(network)?;
    let Some(attachment) = attachment(environment, network, &previous)? else {
        return Ok(previous.given_on(version));
    };
    let excluded = network.exclude_namespaces.contains(&attachment.pod.namespace);
    let patience = if excluded { network.timeout().min(SHORT_PATIENCE) } else { network.timeout() };
    match judge(ask(network, &Request::Add(attachment), patience)) {
        Err(error) if excluded => note(&format!("its namespace is excluded, so it starts though {error}")),
        outcome => outcome?,
    }
    Ok(previous.given_on(version))
}

fn check(environment: &Environment, network: &Network<'_>) -> Result<(), Error> {
    let previous = Previous::of(network)?;
    let Some(attachment) = attachment(environment, network, &previous)? else {
        return Ok(());
    };
    let excluded = network.exclude_namespaces.contains(&attachment.pod.namespace);
    match judge(ask(network, &Request::Check(attachment), network.timeout().min(SHORT_PATIENCE))) {
        Err(_) if excluded => Ok(()),
        outcome => outcome,
    }
}

/// Best effort, as the specification wants it: the agent learns of the pod's end from Kubernetes as well.
fn del(environment: Environment, network: &Network<'_>) -> String {
    let id =
        AttachmentId { network: network.name.clone(), container: environment.container, ifname: environment.ifname };
    try_telling(network, &Request::Del(id));
    String::new()
}

/// Best effort. A runtime that does not say what is valid says nothing of what is stale.
fn collect(mut network: Network<'_>) -> String {
    if let Some(valid) = network.valid_attachments.take() {
        let attachments = valid.into_iter().map(|it| (it.container, it.ifname)).collect();
        try_telling(&network, &Request::Gc(Valid { network: network.name.clone(), attachments }));
    }
    String::new()
}

/// The datapath outlives the agent: without it no pod can start, and those that run are as they were. One that is being updated is back within
/// seconds, and is waited for: runtimes have this answer make the node not ready, and Services leave out its pods then.
fn status(network: &Network<'_>) -> Result<(), Error> {
    let unavailable = |code, reason: String| Err(Error::new(code, "redirect-cni is not available", reason));
    let patience = Instant::now() + network.timeout();
    let answer = loop {
        let deadline = Deadline::after(network.timeout().min(SHORT_PATIENCE));
        let answer = client::ask(&network.socket, &Request::Status, deadline);
        let may_change = matches!(answer, Err(_) | Ok(Answer::RetryLater(_)));
        if !may_change || Instant::now() + AGAIN >= patience {
            break answer;
        }
        thread::sleep(AGAIN);
    };
    match answer {
        Ok(Answer::Done) => Ok(()),
        Ok(Answer::Limited(reason)) => unavailable(Code::LimitedConnectivity, reason),
        Ok(Answer::RetryLater(reason) | Answer::Refused(reason)) => unavailable(Code::NotAvailable, reason),
        Ok(answer @ (Answer::Enrolled | Answer::NotMeshed)) => {
            unavailable(Code::NotAvailable, format!("the agent answered {answer:?}"))
        }
        Err(error) => unavailable(Code::NotAvailable, absence(network, &error)),
    }
}

/// What the agent is told of a pod; nothing for a container that is none.
fn attachment(
    environment: &Environment,
    network: &Network<'_>,
    previous: &Previous<'_>,
) -> Result<Option<Attachment>, Error> {
    let Some(pod) = spec::pod(&environment.arguments)? else {
        return Ok(None);
    };
    let netns_id = netns::check(&environment.netns).map_err(|error| {
        Error::new(Code::InvalidEnvironment, "CNI_NETNS is not a pod's network namespace", error.to_string())
    })?;
    Ok(Some(Attachment {
        id: AttachmentId {
            network: network.name.clone(),
            container: environment.container.clone(),
            ifname: environment.ifname.clone(),
        },
        pod,
        netns: environment.netns.clone(),
        netns_id,
        ips: previous.addresses()?,
    }))
}

fn ask(network: &Network<'_>, request: &Request, patience: Duration) -> Result<Answer, AskError> {
    client::ask(&network.socket, request, Deadline::after(patience)).inspect_err(|error| note(&absence(network, error)))
}

/// What an answer about a pod means. One that is no answer to the question is no leave to start.
fn judge(answer: Result<Answer, AskError>) -> Result<(), Error> {
    let later = |reason: String| Err(Error::new(Code::TryAgainLater, "the pod cannot be enrolled yet", reason));
    match answer {
        Ok(Answer::Enrolled | Answer::NotMeshed) => Ok(()),
        Ok(Answer::Refused(reason)) => Err(Error::new(Code::Refused, "the agent refuses the pod", reason)),
        Ok(Answer::RetryLater(reason) | Answer::Limited(reason)) => later(reason),
        Ok(Answer::Done) => later("the agent answered something else".into()),
        Err(error) => later(format!("the node agent cannot be asked: {error}")),
    }
}

fn try_telling(network: &Network<'_>, request: &Request) {
    match ask(network, request, network.timeout().min(SHORT_PATIENCE)) {
        Ok(Answer::Done) | Err(_) => {}
        Ok(answer) => note(&format!("the agent answered {answer:?}")),
    }
}

fn absence(network: &Network<'_>, error: &AskError) -> String {
    format!("the node agent cannot be asked at {}: {error}", network.socket.display())
}

fn unreadable(error: &InputError) -> Error {
    let code = if matches!(error, InputError::Read(_)) { Code::Io } else { Code::Decoding };
    Error::new(code, "cannot read the network configuration", error.to_string())
}

/// Runtimes log what plugins write to standard error.
fn note(text: &str) {
    use std::io::Write as _;
    // There may be nobody to tell.
    drop(writeln!(std::io::stderr(), "{}: {text}", crate::PLUGIN));
}
