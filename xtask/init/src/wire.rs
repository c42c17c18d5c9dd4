//! Frames from the guest to the host: a kind, a length, bytes. The host answers only the last one, with [`ACKNOWLEDGE`],
//! so that the guest does not go away before everything has been read.

use std::io::{self, Read, Write};

/// What the host writes when it has read how the command ended.
pub const ACKNOWLEDGE: u8 = b'.';

/// Longest payload: a frame is read into memory at once.
const LONGEST: u32 = 1 << 20;

/// What a guest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// The guest is prepared; the command is about to start.
    Ready,
    /// The command wrote this.
    Output(Vec<u8>),
    /// The command ended; as a shell gives it, 128 and more for a signal.
    Exit(i32),
    /// The guest could not be prepared.
    Failed(String),
}

impl Frame {
    /// Writes a frame, at once.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Ready => (b'r', Vec::new()),
            Self::Output(bytes) => (b'o', bytes.clone()),
            Self::Exit(status) => (b'x', status.to_be_bytes().to_vec()),
            Self::Failed(text) => (b'f', text.as_bytes().to_vec()),
        };
        let length = u32::try_from(payload.len()).ok().filter(|length| *length <= LONGEST);
        let length = length.ok_or_else(|| io::Error::other("frame too long"))?;
        let mut frame = vec![kind];
        frame.extend(length.to_be_bytes());
        frame.extend(payload);
        to.write_all(&frame)
    }

    /// Reads a frame; `None` when the other end has closed between frames.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if from.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > LONGEST {
            return Err(io::Error::other(format!("frame of {length} bytes")));
        }
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload)?;
        Self::decode(kind[0], payload).map(Some)
    }

    fn decode(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        match kind {
            b'r' => Ok(Self::Ready),
            b'o' => Ok(Self::Output(payload)),
            b'x' => <[u8; 4]>::try_from(payload).map(|status| Self::Exit(i32::from_be_bytes(status))),
            b'f' => Ok(Self::Failed(String::from_utf8_lossy(&payload).into_owned())),
            _ => return Err(io::Error::other(format!("frame of unknown kind {kind:#x}"))),
        }
        .map_err(|_| io::Error::other("frame of the wrong length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let frames = [Frame::Ready, Frame::Output(b"a\0b".to_vec()), Frame::Exit(-3), Frame::Failed("why".to_owned())];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in [&b"x\0\0\0\x01a"[..], b"?\0\0\0\0", b"o\xff\xff\xff\xff", b"o\0\0\0\x05ab"] {
            assert!(Frame::read(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
