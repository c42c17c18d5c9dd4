//! Users whom the API server knows by tokens that never change: the administrator, and the programs of a cluster. What each of
//! the programs may do is in the roles that the API server makes itself.

/// Who bears a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) token: &'static str,
    pub(super) name: &'static str,
    group: &'static str,
}

pub(super) const ADMIN: User = User { token: "admin-of-the-lab", name: "admin", group: "system:masters" };
pub(super) const CONTROLLERS: User =
    User { token: "controllers-of-the-lab", name: "system:kube-controller-manager", group: "" };
pub(super) const SCHEDULER: User = User { token: "scheduler-of-the-lab", name: "system:kube-scheduler", group: "" };
pub(super) const KUBE_PROXY: User = User { token: "kube-proxy-of-the-lab", name: "system:kube-proxy", group: "" };
/// Its name says which node's objects it may read and write (the authorizer `Node`).
pub(super) const NODE: User = User { token: "kubelet-of-the-lab", name: "system:node:lab-node", group: "system:nodes" };

/// The file of `--token-auth-file`.
pub(super) fn table() -> String {
    let line = |User { token, name, group }| format!("{token},{name},{name},\"{group}\"\n");
    [ADMIN, CONTROLLERS, SCHEDULER, KUBE_PROXY, NODE].map(line).concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::NODE_NAME;

    #[test]
    fn a_kubelet_is_known_as_its_node() {
        assert_eq!(NODE.name, format!("system:node:{NODE_NAME}"));
        assert!(table().starts_with("admin-of-the-lab,admin,admin,\"system:masters\"\n"));
    }
}
