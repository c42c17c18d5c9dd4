//! What names may be made of.

/// "Parameters": container IDs, and networks' names.
pub(super) fn is_identifier(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(plain)
}

/// As the kernel has it: `dev_valid_name` in net/core/dev.c; its `isspace` takes 0xa0 for a space, too.
pub(super) fn is_interface(name: &str) -> bool {
    let bad = |byte: u8| matches!(byte, 0 | b'/' | b':' | b' ' | b'\t'..=b'\r' | 0xa0);
    !name.is_empty() && name.len() < nix::libc::IFNAMSIZ && name != "." && name != ".." && !name.bytes().any(bad)
}

/// A namespace: RFC 1123's label.
pub(super) fn is_label(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-') && !name.ends_with('-')
}

/// A pod: labels with dots between them.
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// A UID: a UUID, or a hash for pods from a node's files.
pub(super) fn is_uid(name: &str) -> bool {
    name.len() <= 253 && is_identifier(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for good in ["a", "0", "k8s_pod.1-x", &"f".repeat(64)] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", "-a", ".a", "_a", "a/b", "a b", "ä", "a\n", "..", "a\0"] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }

    #[test]
    fn interfaces() {
        for good in ["eth0", "a", "fifteen-letters", "...", "net1.5@x"] {
            assert!(is_interface(good), "{good}");
        }
        for bad in ["", ".", "..", "sixteen-letters!", "a/b", "a:b", "a b", "a\tb", "a\u{b}", "a\u{a0}", "a\n"] {
            assert!(!is_interface(bad), "{bad:?}");
        }
    }

    #[test]
    fn pods() {
        assert!(is_label("kube-system") && is_subdomain("cart-0.v2") && is_uid("0cc175b9c0f1b6a831c399e269772661"));
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "a..b", &"a".repeat(64)] {
            assert!(!is_label(bad) && !is_subdomain(bad), "{bad}");
        }
        assert!(!is_label("a.b"));
    }
}
