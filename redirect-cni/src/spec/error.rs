//! Errors as a runtime is told them ("Error").

use serde_json::json;

use super::Version;

/// What kind of error. Below 100 the specification says what each means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Code {
    /// The version is not spoken, or does not have the command.
    IncompatibleVersion = 1,
    /// The environment's variables, which the message names.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// It cannot be parsed.
    Decoding = 6,
    /// It can, and makes no sense.
    InvalidConfiguration = 7,
    /// A runtime may try again.
    TryAgainLater = 11,
    /// STATUS: no ADD would succeed.
    NotAvailable = 50,
    /// STATUS: the same, and what runs may not reach everything.
    LimitedConnectivity = 51,
    /// Ours: the agent does not believe what it was told.
    Refused = 100,
}

/// An error.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}: {details}")]
pub struct Error {
    /// What kind.
    pub code: Code,
    /// In short.
    pub message: String,
    /// In full.
    pub details: String,
}

impl Error {
    /// An error.
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    /// As it is written to standard output.
    #[must_use]
    pub fn object(&self, version: Version) -> String {
        json!({
            "cniVersion": version.name(),
            "code": self.code as u32,
            "msg": self.message,
            "details": self.details,
        })
        .to_string()
    }
}
