//! The proxy's log: one JSON object per connection, and the way to read it back.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Which way a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a meshed pod.
    Outbound,
    /// To a meshed pod.
    Inbound,
    /// To the proxy itself; it goes nowhere.
    Direct,
}

/// One connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Which way it goes.
    pub direction: Direction,
    /// Port of the listener that took it.
    pub listener: u16,
    /// The client, as the proxy sees it.
    pub client: SocketAddr,
    /// Where the client wanted to go, as the proxy sees it.
    pub original_dst: SocketAddr,
    /// Source address of the connection onward.
    pub onward_source: Option<SocketAddr>,
    /// Why there is none.
    pub error: Option<String>,
}

/// A log to write to.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// Opens `path`; what is there stays.
    pub fn append_to(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot write {}", path.display()))?))
    }

    /// Adds a record, whole or not at all for whoever reads.
    pub fn write(&self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        (&self.0).write_all(&line).context("cannot write the proxy log")
    }
}

/// The records in `path` from byte `offset` on, and the offset after them. No file is an empty log.
pub fn read(path: &Path, offset: usize) -> Result<(Vec<Record>, usize)> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let new = text.get(offset..).unwrap_or_default();
    let whole = &new[..new.rfind('\n').map_or(0, |end| end + 1)];
    let records = whole.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not a record: {line}")));
    Ok((records.collect::<Result<_>>()?, offset + whole.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_reads_as_documented() -> Result<()> {
        let line = r#"{"direction":"outbound","listener":15001,"client":"10.244.1.5:4711","original_dst":"10.96.0.10:80","onward_source":null,"error":"refused"}"#;
        let record: Record = serde_json::from_str(line)?;
        assert_eq!(record.direction, Direction::Outbound);
        assert_eq!(serde_json::to_string(&record)?, line);
        Ok(())
    }
}
