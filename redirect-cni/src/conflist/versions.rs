//! Would a runtime call our plugin, out of this file, in a version that it speaks ("Version considerations")?

use std::cmp::Ordering;

use serde::Deserialize;

use super::ConflistError;
use crate::json::object;
use crate::spec::Version;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
}

/// Runtimes take the highest, those from before 1.1.0 the one that stands alone: both have to do.
pub(super) fn check(text: &str) -> Result<(), ConflistError> {
    let Versions { cni_version: alone, cni_versions: listed } = object(text)?;
    let highest = listed.iter().chain(&alone).max_by(|a, b| compare(a, b)).map_or("", String::as_str);
    let alone = alone.as_deref().unwrap_or(highest);
    match [highest, alone].into_iter().find(|version| Version::named(version).is_none()) {
        Some(unknown) => Err(ConflistError::Version(format!("{unknown:?}"))),
        None => Ok(()),
    }
}

fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |version: &str| version.split('.').map(|it| it.parse().unwrap_or(u64::MAX)).collect::<Vec<_>>();
    numbers(a).cmp(&numbers(b))
}
