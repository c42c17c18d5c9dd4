//! The result of the plugins before ("ADD Success"): looked at for the pod's addresses, and given on as it was written.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Code, Error, Network, Version};
use crate::json::object;

/// More than any pod has; each is looked for by the agent.
const ADDRESSES: usize = 64;

/// The result.
#[derive(Debug)]
pub struct Previous<'a> {
    text: &'a str,
    parsed: Parsed,
}

#[derive(Debug, Deserialize)]
struct Parsed {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    // A Go plugin may write an empty list as null.
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Address>>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Address {
    address: String,
    interface: Option<i64>,
}

impl<'a> Previous<'a> {
    /// That of `network`, which must have one: this plugin makes no interface.
    pub fn of(network: &Network<'a>) -> Result<Self, Error> {
        let raw: &RawValue = network
            .prev_result
            .ok_or_else(|| invalid("no prevResult", "this plugin must come after one that makes the interface"))?;
        let parsed: Parsed = object(raw.get())
            .map_err(|error| Error::new(Code::Decoding, "cannot decode prevResult", error.to_string()))?;
        if let Some(version) = parsed.version.as_deref().filter(|version| Version::named(version).is_none()) {
            let details = format!("prevResult is of version {version:?}; spoken are {}", Version::names());
            return Err(Error::new(Code::IncompatibleVersion, "incompatible CNI version", details));
        }
        Ok(Self { text: raw.get(), parsed })
    }

    /// The pod's addresses. A result may name addresses outside the container as well: of an interface that has no sandbox.
    /// Not every plugin says which interface is in the sandbox, and where none is said to be, all are the pod's.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let all: Vec<&Address> = self.parsed.ips.iter().flatten().collect();
        if all.len() > ADDRESSES {
            return Err(invalid("too many addresses in prevResult", format!("{} (at most {ADDRESSES})", all.len())));
        }
        let sandboxed = all.iter().any(|address| self.place(address) == Place::Sandbox);
        let mut addresses = Vec::new();
        for address in all.iter().filter(|address| !sandboxed || self.place(address) != Place::Host) {
            let ip = parse(&address.address)?;
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        Ok(addresses)
    }

    /// As it is given on: the same bytes. A result has a version; one that has none gets the configuration's.
    #[must_use]
    pub fn given_on(&self, version: Version) -> String {
        let Some(rest) = self.text.strip_prefix('{').filter(|_| self.parsed.version.is_none()) else {
            return self.text.to_owned();
        };
        let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
        format!(r#"{{"cniVersion":"{version}"{comma}{rest}"#)
    }

    fn place(&self, address: &Address) -> Place {
        let index = address.interface.and_then(|index| usize::try_from(index).ok());
        let interface = index.and_then(|index| self.parsed.interfaces.as_ref()?.get(index));
        match interface {
            None => Place::Unknown,
            Some(interface) if interface.sandbox.is_empty() => Place::Host,
            Some(_) => Place::Sandbox,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Unknown,
    Host,
    Sandbox,
}

fn parse(text: &str) -> Result<IpAddr, Error> {
    let (ip, prefix) = text.split_once('/').unwrap_or((text, "0"));
    let ip: Option<IpAddr> = ip.parse().ok();
    let longest = if matches!(ip, Some(IpAddr::V4(_))) { 32 } else { 128 };
    match (ip, prefix.parse::<u8>()) {
        (Some(ip), Ok(prefix)) if prefix <= longest && !ip.is_unspecified() && !ip.is_multicast() => Ok(ip),
        _ => Err(invalid("an address in prevResult is none", format!("{text:?}"))),
    }
}

fn invalid(message: &str, details: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfiguration, message, details)
}

#[cfg(test)]
mod tests {
    use super::super::network;
    use super::*;

    fn addresses(previous: &str) -> Result<Vec<String>, Error> {
        let text = format!(r#"{{"name":"net","prevResult":{previous}}}"#);
        let previous = Previous::of(&network(&text)?)?.addresses()?;
        Ok(previous.iter().map(ToString::to_string).collect())
    }

    fn given_on(previous: &str) -> String {
        let text = format!(r#"{{"name":"net","prevResult": {previous} }}"#);
        Previous::of(&network(&text).unwrap()).unwrap().given_on(Version::V1_0_0)
    }

    #[test]
    fn all_families_of_all_versions() {
        let old = r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.0.5/16","interface":0}]}"#;
        assert_eq!(addresses(old).unwrap(), ["10.1.0.5"]);
        let new = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1500,"sandbox":"/run/netns/x"}],
            "ips":[{"address":"10.1.0.5/32","interface":0},{"address":"fd00::5/64"},{"address":"10.1.0.5/32"}]}"#;
        assert_eq!(addresses(new).unwrap(), ["10.1.0.5", "fd00::5"]);
        for none in ["{}", r#"{"ips":[]}"#, r#"{"ips":null,"interfaces":null}"#] {
            assert!(addresses(none).unwrap().is_empty());
        }
    }

    #[test]
    fn an_address_of_the_node_is_not_the_pods() {
        let both = |sandbox: &str| {
            format!(
                r#"{{"interfaces":[{{"name":"cni0"}},{{"name":"eth0","sandbox":"{sandbox}"}}],
                "ips":[{{"address":"10.1.0.1/16","interface":0}},{{"address":"10.1.0.5/16","interface":1}}]}}"#
            )
        };
        assert_eq!(addresses(&both("/run/netns/x")).unwrap(), ["10.1.0.5"]);
        // Nothing is said to be in the container: the agent finds out.
        assert_eq!(addresses(&both("")).unwrap(), ["10.1.0.1", "10.1.0.5"]);
        let beyond = r#"{"interfaces":[],"ips":[{"address":"10.1.0.5/16","interface":-1}]}"#;
        assert_eq!(addresses(beyond).unwrap(), ["10.1.0.5"]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for address in ["", "10.1.0", "10.1.0.5/33", "10.1.0.5/-1", "fd00::/129", "0.0.0.0/0", "224.0.0.1/4", "a/b/c"] {
            let error = addresses(&format!(r#"{{"ips":[{{"address":"{address}"}}]}}"#)).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfiguration, "{address}");
        }
        let many = vec![r#"{"address":"10.1.0.5/16"}"#; ADDRESSES + 1].join(",");
        assert_eq!(addresses(&format!(r#"{{"ips":[{many}]}}"#)).unwrap_err().code, Code::InvalidConfiguration);
    }

    #[test]
    fn a_result_must_be_there_and_be_one() {
        let none = network(r#"{"name":"net"}"#).unwrap();
        assert_eq!(Previous::of(&none).unwrap_err().code, Code::InvalidConfiguration);
        for wrong in ["7", "[]", "[null,null,null]", r#"{"ips":{}}"#, r#"{"ips":[{}]}"#, r#"{"ips":[],"ips":[]}"#] {
            assert_eq!(addresses(wrong).unwrap_err().code, Code::Decoding, "{wrong}");
        }
        let old = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.5/16"}}"#;
        assert_eq!(addresses(old).unwrap_err().code, Code::IncompatibleVersion);
    }

    #[test]
    fn it_is_given_on_as_it_was_written() {
        let odd = "{ \"cniVersion\":\"0.4.0\",\n \"ips\":[],\"z\":1e400, \"a\":18446744073709551616,\"k\":1.0,\"\\u00e4\":[ ] }";
        assert_eq!(given_on(odd), odd);
        assert_eq!(given_on("{ }"), r#"{"cniVersion":"1.0.0" }"#);
        assert_eq!(given_on(r#"{"ips":[]}"#), r#"{"cniVersion":"1.0.0","ips":[]}"#);
    }
}
