//! One line: the numbers that a program wrote, in words.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use nix::net::if_::if_indextoname;
use redirect_common::maps::{Counter, counter_name};
use redirect_common::packet::{ICMP, TCP, UDP};
use redirect_common::policy::Row;
use redirect_common::trace::At;

/// What a program did with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    at: At,
    device: u32,
    counter: u32,
    mark: u32,
    source: SocketAddrV4,
    destination: SocketAddrV4,
    protocol: u8,
}

/// As `redirect_common::trace` has it; `None` for what no program of this build writes.
pub(super) fn read(text: &str) -> Option<Line> {
    let mut words = text.split_ascii_whitespace();
    let at: u8 = word(&mut words)?;
    let line = Line {
        at: At::ALL.into_iter().find(|known| *known as u8 == at)?,
        device: word(&mut words)?,
        counter: word(&mut words)?,
        mark: word(&mut words)?,
        source: SocketAddrV4::new(word::<Ipv4Addr>(&mut words)?, word(&mut words)?),
        destination: SocketAddrV4::new(word::<Ipv4Addr>(&mut words)?, word(&mut words)?),
        protocol: word(&mut words)?,
    };
    words.next().is_none().then_some(line)
}

fn word<'a, T: FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    words.next()?.parse().ok()
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.at.name(), device(self.device))?;
        if (Counter::of(Row::FromTunnel)..=Counter::of(Row::Rest)).contains(&self.counter) {
            write!(f, "row {} ", self.counter)?;
        }
        write!(f, "{}, mark {:#x}, ", counter_name(self.counter), self.mark)?;
        write!(f, "{} -> {} ", self.source, self.destination)?;
        match self.protocol {
            TCP => f.write_str("TCP"),
            UDP => f.write_str("UDP"),
            ICMP => f.write_str("ICMP"),
            other => write!(f, "protocol {other}"),
        }
    }
}

/// Its name, if it is still there; nix 0.31 gives an empty one where the kernel has none.
fn device(index: u32) -> String {
    match if_indextoname(index) {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        _ => format!("device {index}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_words() {
        let line = read("1 4294967295 9 256 10.244.1.5 40000 10.0.0.9 80 6 ").unwrap();
        let words = "ingress device 4294967295: row 9 outbound, mark 0x100, 10.244.1.5:40000 -> 10.0.0.9:80 TCP";
        assert_eq!(line.to_string(), words);
        let dropped = read("5 4294967295 13 0 10.244.1.5 1 10.0.0.9 2 6").unwrap();
        assert!(dropped.to_string().starts_with("to-pod device 4294967295: bypass-dropped, mark 0x0, "));
        let echo = read("3 4294967295 1 512 10.244.1.5 0 10.0.0.9 0 1").unwrap();
        assert!(echo.to_string().ends_with("10.244.1.5:0 -> 10.0.0.9:0 ICMP"));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in ["", "1 2", "9 1 9 256 10.244.1.5 1 10.0.0.9 2 6", "1 1 9 256 10.244.1.5 1 10.0.0.9 2 6 7", "a"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
