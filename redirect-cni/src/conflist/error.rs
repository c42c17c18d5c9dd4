//! What can be wrong with a node's CNI configuration.

use std::io;
use std::path::PathBuf;

use crate::spec::Version;

/// Why a configuration is not changed.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// It cannot be parsed, or is not what its name says.
    #[error("not a CNI configuration: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Our plugin would be called in a version that it does not speak.
    #[error("it is of CNI version {0}; redirect-cni speaks {all}", all = Version::names())]
    Version(String),
    /// Ours cannot be the only plugin.
    #[error("it names no plugin that makes an interface")]
    NoOther,
    /// A single plugin's configuration has no network name, without which there is no list.
    #[error("it has no name")]
    NoName,
    /// There is no configuration yet.
    #[error("no CNI configuration in {0}")]
    None(PathBuf),
    /// Larger than runtimes take.
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    /// Not a file that can be replaced.
    #[error("it is not a regular file")]
    NotAFile,
    /// Somebody else wrote it between our reading and our writing.
    #[error("it has just been changed by another; to be tried again")]
    Changed,
    /// The list that a single configuration would become exists.
    #[error("{0} is there already and is not redirect-cni's")]
    Taken(PathBuf),
    /// Reading or writing.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// One of these, and where.
    #[error("{0}: {1}")]
    At(PathBuf, #[source] Box<Self>),
}

impl ConflistError {
    /// With the file's name.
    #[must_use]
    pub fn at(self, path: impl Into<PathBuf>) -> Self {
        match self {
            named @ (Self::At(..) | Self::None(_)) => named,
            other => Self::At(path.into(), Box::new(other)),
        }
    }
}
