//! Writes archives in the kernel's initramfs format (`Documentation/driver-api/early-userspace/buffer-format.rst`, "newc").
//! Archives can be put one after another in one file: that is how a run's own files are laid over the cached base.

use std::io::{self, Write};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const TYPE_FILE: u32 = 0o100_000;
const TYPE_DIR: u32 = 0o040_000;
const TYPE_SYMLINK: u32 = 0o120_000;

/// An archive that is being written. Everything in it belongs to root.
pub(crate) struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds a folder. Its parent must have been added before, as for the other entries.
    pub(crate) fn dir(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, TYPE_DIR | 0o755, &[])
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, executable: bool, content: &[u8]) -> io::Result<()> {
        self.entry(path, TYPE_FILE | if executable { 0o755 } else { 0o644 }, content)
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, TYPE_SYMLINK | 0o777, target.as_bytes())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        let size = u32::try_from(content.len()).map_err(|_| io::Error::other(format!("{path} is larger than 4 GB")))?;
        self.inode += 1;
        let links = 1;
        let name_size = u32::try_from(name.len()).map_err(io::Error::other)? + 1;
        write!(self.out, "{MAGIC}")?;
        // In order: inode, mode, uid, gid, links, mtime, size, major and minor of the device, then of a node, name, check.
        for field in [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.dir("/bin").unwrap();
        archive.file("/bin/a", true, b"hello").unwrap();
        archive.symlink("/bin/b", "a").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn entries_are_aligned() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes.windows(6).filter(|window| *window == MAGIC.as_bytes()).count(), 4);
    }

    #[test]
    fn header_reads_as_the_format_says() {
        let bytes = sample();
        let text = String::from_utf8_lossy(&bytes[..110]).into_owned();
        assert_eq!(&text[14..22], "000041ed", "mode of a folder");
        assert_eq!(&text[94..102], "00000004", "size of the name `bin` with its end");
        assert_eq!(&bytes[110..114], b"bin\0");
    }
}
