//! The pod in `CNI_ARGS`, as kubelet's runtimes put it there.

use super::names::{is_label, is_subdomain, is_uid};
use super::{Code, Error};
use crate::protocol::Pod;

const NAMESPACE: &str = "K8S_POD_NAMESPACE";
const NAME: &str = "K8S_POD_NAME";
const UID: &str = "K8S_POD_UID";

/// The pod, or none where the container is not one.
pub fn pod(arguments: &str) -> Result<Option<Pod>, Error> {
    let values = [NAMESPACE, NAME, UID].map(|key| value(arguments, key));
    let [namespace, name, uid] = values;
    match (namespace?, name?, uid?) {
        (None, None, _) => Ok(None),
        (Some(namespace), Some(name), uid) => {
            checked(NAMESPACE, namespace, is_label)?;
            checked(NAME, name, is_subdomain)?;
            uid.map_or(Ok(()), |uid| checked(UID, uid, is_uid))?;
            Ok(Some(Pod { namespace: namespace.into(), name: name.into(), uid: uid.map(Into::into) }))
        }
        _ => Err(invalid(format!("CNI_ARGS has one of {NAMESPACE} and {NAME} only"), arguments)),
    }
}

/// A key that is there twice could mean another pod to the runtime than to us. Keys of others are none of our business.
fn value<'a>(arguments: &'a str, key: &str) -> Result<Option<&'a str>, Error> {
    let mut values = arguments
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, value)| *name == key && !value.is_empty())
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(invalid(format!("CNI_ARGS has {key} twice"), arguments)),
    }
}

fn checked(key: &str, value: &str, good: impl Fn(&str) -> bool) -> Result<(), Error> {
    if good(value) { Ok(()) } else { Err(invalid(format!("CNI_ARGS has an invalid {key}"), format!("{value:?}"))) }
}

fn invalid(message: String, details: impl Into<String>) -> Error {
    Error::new(Code::InvalidEnvironment, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_containerd_says_it() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;\
                         K8S_POD_INFRA_CONTAINER_ID=9f86d081;K8S_POD_UID=0c1e";
        let pod = pod(arguments).unwrap().unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_deref()), ("shop", "cart-0", Some("0c1e")));
    }

    #[test]
    fn a_uid_may_be_missing() {
        assert_eq!(pod("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=").unwrap().unwrap().uid, None);
    }

    #[test]
    fn a_container_that_is_no_pod() {
        for arguments in ["", ";", "IgnoreUnknown=1", "K8S_POD_NAMESPACE=;K8S_POD_NAME="] {
            assert_eq!(pod(arguments).unwrap(), None, "{arguments}");
        }
    }

    #[test]
    fn half_a_pod_and_two_pods_are_refused() {
        for arguments in [
            "K8S_POD_NAMESPACE=shop",
            "K8S_POD_NAME=cart-0",
            "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0",
            "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=cart-0",
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart 0",
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=../..",
        ] {
            let error = pod(arguments).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(error.message.contains("CNI_ARGS"), "{error}");
        }
    }
}
