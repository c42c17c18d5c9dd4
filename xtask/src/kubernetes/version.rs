//! Versions of Debian's package and of what is in it.

/// What upstream calls `1.20.5+really1.20.2-1.1+deb12u1`: 1.20.2. (Debian went back to an older one, and a package's version
/// can only grow.)
pub(super) fn upstream(debian: &str) -> &str {
    let without_revision = debian.rsplit_once('-').map_or(debian, |(upstream, _)| upstream);
    without_revision.rsplit_once("+really").map_or(without_revision, |(_, really)| really)
}

/// Tells the linker what the servers shall call themselves: without it, Debian's tree has placeholders for git's answers,
/// which are no version to those who compare.
pub(super) fn linker_flags(debian: &str) -> String {
    let version = upstream(debian);
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    // As the project's own hack/lib/version.sh does.
    let packages = ["client-go/pkg/version", "component-base/version"];
    let values =
        [("gitVersion", format!("v{version}")), ("gitMajor", major.to_owned()), ("gitMinor", minor.to_owned())];
    let flag = |package: &str, name: &str, value: &str| {
        format!(" -X k8s.io/kubernetes/vendor/k8s.io/{package}.{name}={value}")
    };
    let flags = packages.iter().flat_map(|package| values.iter().map(move |(name, value)| flag(package, name, value)));
    // Without symbols the servers have two thirds of the size.
    format!("-s -w{}", flags.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_is_what_debian_packed() {
        assert_eq!(upstream("1.20.5+really1.20.2-1.1+deb12u1"), "1.20.2");
        assert_eq!(upstream("1.31.0+ds-1"), "1.31.0+ds");
        assert_eq!(upstream("1.20.2"), "1.20.2");
    }

    #[test]
    fn the_servers_are_told_their_version() {
        let flags = linker_flags("1.20.5+really1.20.2-1.1");
        assert!(flags.contains("/component-base/version.gitVersion=v1.20.2 "), "{flags}");
        assert!(flags.contains("/client-go/pkg/version.gitMinor=20"), "{flags}");
    }
}
