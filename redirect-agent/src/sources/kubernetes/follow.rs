//! Follows one kind of object: a complete list, then a watch from where the list ended, for as long as the agent runs.
//!
//! It is the list and watch of `kube`'s own runtime with one difference for which it is written anew: it is known at any time
//! whether the API server answers. A watcher that resumes says nothing until an object changes, so nobody could tell a
//! quiet cluster from one that is not heard any more.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::shared::Shared;
use crate::backoff::{Backoff, random};

/// An object that is followed.
pub(super) trait Object: Clone + DeserializeOwned + Send + Sync + 'static {
    /// What RBAC calls it.
    const RESOURCE: &'static str;

    /// Where the API server has them all.
    const PATH: &'static str;

    /// `metadata.resourceVersion`.
    fn version(&self) -> &str;

    /// Takes a change in.
    fn store(shared: &Shared, change: Change<Self>);
}

/// What became of objects.
#[derive(Clone, Debug)]
pub(super) enum Change<T> {
    /// These are all there are.
    Listed(Vec<T>),
    /// It is there, as it is now.
    Applied(T),
    /// It is gone.
    Deleted(T),
}

/// Objects of one page of a list: few enough to be held as text beside what is kept of them.
const PAGE: u32 = 250;
/// The API server's own limit for such a request is one minute (`--request-timeout`).
const LIST_LIMIT: Duration = Duration::from_mins(1);
/// A watch begins at once or not at all.
const WATCH_LIMIT: Duration = Duration::from_secs(20);
/// Bookmarks come about once a minute. A watch that is silent for longer may be that of a server that is gone without a word:
/// it is begun anew, which the server, if it is there, notices little of.
const SILENCE: Duration = Duration::from_secs(90);
/// A watch is ended by the server after about this long, so that many are spread over its replicas. client-go's are 5 to 10
/// minutes.
const WATCH_SECONDS: u32 = 290;
/// A watch that ends sooner by itself, and has told nothing, did not work.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// Follows objects, `fields` selecting among them. Does not end.
pub(super) async fn follow<T: Object>(client: Client, fields: Option<String>, shared: Arc<Shared>) {
    let mut version = None;
    let mut backoff = Backoff::default();
    loop {
        let outcome = match &mut version {
            None => list::<T>(&client, fields.clone()).await.map(|(objects, at)| {
                tracing::info!(count = objects.len(), "listed all {}", T::RESOURCE);
                T::store(&shared, Change::Listed(objects));
                shared.well(T::RESOURCE);
                version = Some(at);
            }),
            Some(at) => watch::<T>(&client, fields.clone(), &shared, at).await,
        };
        if let Err(failure) = outcome {
            if failure.expired {
                version = None;
            }
            shared.trouble(T::RESOURCE, failure.message);
            sleep(backoff.after_failure(Instant::now())).await;
        }
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct List<T> {
    metadata: ListMetadata,
    // A server may write an empty list as null.
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    token: Option<String>,
}

/// All objects, as the majority of etcd has them. A list from a server's cache would do for less, but may be older than what
/// the agent has seen before, and would take pods out of the mesh that belong to it.
pub(super) async fn list<T: Object>(client: &Client, fields: Option<String>) -> Result<(Vec<T>, String), Failure> {
    let mut params = ListParams { field_selector: fields, limit: Some(PAGE), ..ListParams::default() };
    let mut objects = Vec::new();
    loop {
        let fail = |error| Failure::of(&error, "list", T::RESOURCE);
        let request = Request::new(T::PATH).list(&params).map_err(|error| fail(kube::Error::BuildRequest(error)))?;
        let answer = timeout(LIST_LIMIT, client.request::<List<T>>(request)).await;
        let page = answer.map_err(|_| Failure::timeout("list", T::RESOURCE, LIST_LIMIT))?.map_err(fail)?;
        objects.extend(page.items.into_iter().flatten());
        params.continue_token = page.metadata.token.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            let version = page.metadata.resource_version.filter(|version| !version.is_empty());
            let version = version.ok_or_else(|| Failure::new(format!("the list of {} has no version", T::RESOURCE)))?;
            return Ok((objects, version));
        }
    }
}

/// Takes changes in from `version` on, and moves it along, until the server ends the watch or nothing is heard any more.
async fn watch<T: Object>(
    client: &Client,
    fields: Option<String>,
    shared: &Shared,
    version: &mut String,
) -> Result<(), Failure> {
    let fail = |error| Failure::of(&error, "watch", T::RESOURCE);
    // Spread, so that agents that began together do not come back together.
    let seconds = WATCH_SECONDS - random() % (WATCH_SECONDS / 4);
    let params =
        WatchParams { field_selector: fields, timeout: Some(seconds), bookmarks: true, ..WatchParams::default() };
    let request =
        Request::new(T::PATH).watch(&params, version).map_err(|error| fail(kube::Error::BuildRequest(error)))?;
    let answer = timeout(WATCH_LIMIT, client.request_events::<T>(request)).await;
    let events = answer.map_err(|_| Failure::timeout("watch", T::RESOURCE, WATCH_LIMIT))?.map_err(fail)?;
    let mut events = pin!(events);
    let mut stands = false;
    loop {
        let limit = if stands { SILENCE } else { TOO_SHORT };
        match timeout(limit, events.try_next()).await {
            Ok(event) => match event.map_err(fail)? {
                Some(event) => take(event, shared, version)?,
                None if stands => return Ok(()),
                None => return Err(Failure::new(format!("the API server ended the watch of {} at once", T::RESOURCE))),
            },
            Err(_) if stands => return Ok(()),
            Err(_) => {}
        }
        stands = true;
        shared.well(T::RESOURCE);
    }
}

/// Whether a version is older than one that was there before. They are decimal numbers of one sequence; what is none says nothing.
fn goes_back(before: &str, next: &str) -> bool {
    match (before.parse::<u64>(), next.parse::<u64>()) {
        (Ok(before), Ok(next)) => next < before,
        _ => false,
    }
}

fn take<T: Object>(event: WatchEvent<T>, shared: &Shared, version: &mut String) -> Result<(), Failure> {
    let (next, change) = match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
            (object.version().to_owned(), Some(Change::Applied(object)))
        }
        WatchEvent::Deleted(object) => (object.version().to_owned(), Some(Change::Deleted(object))),
        WatchEvent::Bookmark(bookmark) => (bookmark.metadata.resource_version, None),
        WatchEvent::Error(status) => return Err(Failure::answered(&status, "watch", T::RESOURCE)),
    };
    if next.is_empty() {
        let message = format!("the API server told of {} without a version; listing them anew", T::RESOURCE);
        return Err(Failure { message, expired: true });
    }
    if goes_back(version, &next) {
        let message =
            format!("the API server's versions of {} go back, as after a restore; listing them anew", T::RESOURCE);
        return Err(Failure { message, expired: true });
    }
    if let Some(change) = change {
        T::store(shared, change);
    }
    *version = next;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_go_back() {
        assert!(goes_back("10", "9") && !goes_back("9", "10") && !goes_back("9", "9"));
        assert!(!goes_back("b", "a") && !goes_back("10", "a"));
    }
}
