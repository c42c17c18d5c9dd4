//! Waiting for what others bring about: the API server's objects are asked for until they are as they shall be.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Worker;

/// For anything that a cluster does by itself, on an emulated node that shares its processors.
pub(super) const PATIENCE: Duration = Duration::from_mins(3);
/// Between two questions. Each costs the node a process and a TLS handshake.
const PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// Repeats `attempt` until it succeeds, as long as the node's programs run; says how long it took.
    pub fn eventually<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let since = Instant::now();
        loop {
            match attempt() {
                Ok(value) => {
                    println!("{what} after {:.1?}", since.elapsed());
                    return Ok(value);
                }
                Err(error) if since.elapsed() > PATIENCE => {
                    return Err(error).with_context(|| format!("not so after {:.0?}: {what}", since.elapsed()));
                }
                Err(_) => self.is_alive()?,
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The pods with these labels, without those that are ending.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
        let list = self.api().get(&path)?.good()?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect())
    }

    /// Waits until this number of pods with these labels is Ready, and no other is there.
    pub fn await_pods(&self, namespace: &str, selector: &str, count: usize) -> Result<Vec<Value>> {
        self.eventually(&format!("{count} pods {namespace}/{selector} are Ready"), || {
            let pods = self.pods(namespace, selector)?;
            let ready = pods.iter().filter(|pod| condition(pod, "Ready")).count();
            ensure!(ready == count && pods.len() == count, "{}", pods.iter().map(state).collect::<String>());
            Ok(pods)
        })
    }
}

/// Whether a condition of an object is true.
pub(super) fn condition(object: &Value, kind: &str) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// A line about a pod that is not as it shall be.
fn state(pod: &Value) -> String {
    let status = &pod["status"];
    format!("\n{}: {} {}", pod["metadata"]["name"], status["phase"], status["containerStatuses"])
}
