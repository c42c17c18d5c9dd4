//! Reads a guest's kernel log for signs that the guest cannot be trusted any more.

/// What the kernel says when it is broken. A stall that RCU reports is not among them: an emulated processor that gets no
/// time from a busy host looks the same.
const SIGNS: [&str; 8] = [
    "Kernel panic",
    "Oops:",
    "BUG:",
    "kernel BUG at",
    "soft lockup",
    "general protection fault",
    "unable to handle kernel",
    "UBSAN:",
];
const KEPT_LINES: usize = 80;

/// The log so far.
#[derive(Default)]
pub(super) struct Watch {
    lines: Vec<String>,
    partial: Vec<u8>,
    sign: Option<String>,
}

impl Watch {
    /// Takes what came from the console.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else {
                self.partial.push(*byte);
            }
        }
    }

    /// The first line that shows that the kernel is broken.
    pub(super) fn broken(&self) -> Option<&str> {
        self.sign.as_deref()
    }

    /// The last lines.
    pub(super) fn end(&self) -> String {
        self.lines[self.lines.len().saturating_sub(KEPT_LINES)..].join("\n")
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
        self.partial.clear();
        if self.sign.is_none() && is_sign(&line) {
            self.sign = Some(line.clone());
        }
        self.lines.push(line);
    }
}

fn is_sign(line: &str) -> bool {
    SIGNS.iter().any(|sign| line.match_indices(sign).any(|(at, _)| is_word_start(line, at)))
}

/// `DEBUG:` is not a `BUG:`.
fn is_word_start(line: &str, at: usize) -> bool {
    !line[..at].ends_with(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_kernels_are_recognised() {
        for line in [
            "[    1.2] Kernel panic - not syncing: Attempted to kill init!",
            "[    1.2] Oops: 0002 [#1] PREEMPT SMP",
            "[    1.2] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    1.2] watchdog: BUG: soft lockup - CPU#1 stuck for 67s! [ip:123]",
            "[    1.2] BUG: scheduling while atomic: ip/12/0x00000002",
        ] {
            let mut watch = Watch::default();
            watch.take(format!("fine\r\n{line}\r\nmore\r\n").as_bytes());
            assert_eq!(watch.broken(), Some(line));
        }
    }

    #[test]
    fn busy_hosts_are_not_broken_kernels() {
        let mut watch = Watch::default();
        watch.take(
            b"[  9.1] rcu: INFO: rcu_sched self-detected stall on CPU\n[ 9.2] DEBUG: x\n[ 9.3] clocksource: slow\n",
        );
        assert_eq!(watch.broken(), None);
    }

    #[test]
    fn lines_come_in_pieces() {
        let mut watch = Watch::default();
        watch.take(b"Kernel pa");
        assert_eq!(watch.broken(), None);
        watch.take(b"nic\n");
        assert_eq!(watch.broken(), Some("Kernel panic"));
        assert_eq!(watch.end(), "Kernel panic");
    }
}
