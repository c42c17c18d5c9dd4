//! What a run of the loop, as status tells of it, means for a pod that waits to start.

use redirect_cni::protocol::{Answer, AttachmentId};

use crate::enrol::{PodVerdict, State};
use crate::status::Status;

/// The answer for the pod of an attachment that came in `generation`; the error says why there is none yet.
///
/// It counts only what a run says that has seen the attachment at its beginning: what stood before says nothing of it.
pub(super) fn answer(status: &Status, id: &AttachmentId, generation: u64) -> Result<Answer, String> {
    if status.cni.seen < generation {
        return Err(with_problem(status, "the agent has not looked at the pod yet"));
    }
    judge(status, pod(status, id)?)
}

/// The answer for the pod of an attachment as things are.
pub(super) fn answer_now(status: &Status, id: &AttachmentId) -> Result<Answer, String> {
    judge(status, pod(status, id)?)
}

fn judge(status: &Status, pod: &PodVerdict) -> Result<Answer, String> {
    let reason = || pod.reason.clone().unwrap_or_default();
    match pod.state {
        State::Meshed => Ok(Answer::Enrolled),
        // Who is bypassed starts as if it were not meshed, too.
        State::NotMeshed | State::Bypassed => Ok(Answer::NotMeshed),
        State::Refused => Ok(Answer::Refused(format!("pod {}/{} {}", pod.namespace, pod.name, reason()))),
        State::Pending => Err(with_problem(status, &format!("pod {}/{}: {}", pod.namespace, pod.name, reason()))),
    }
}

fn pod<'a>(status: &'a Status, id: &AttachmentId) -> Result<&'a PodVerdict, String> {
    let attachment = status.cni.attachments.iter().find(|attachment| attachment.id == *id);
    let attachment = attachment.ok_or("the attachment is not known")?;
    let (namespace, name) = (&attachment.pod.namespace, &attachment.pod.name);
    // Without a UID it was not found.
    let known = attachment.known.then_some(attachment.pod.uid.as_ref()).flatten();
    let pod = known
        .and_then(|uid| status.pods.iter().find(|pod| (&pod.uid, &pod.name, &pod.namespace) == (uid, name, namespace)));
    pod.ok_or_else(|| format!("the agent has not heard of pod {namespace}/{name} on this node yet"))
}

/// The first problem may be the cause, and is what an operator looks at next.
fn with_problem(status: &Status, reason: &str) -> String {
    match status.problems.first().filter(|_| !status.ready) {
        Some(problem) => format!("{reason} ({}: {})", problem.object, problem.message),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use redirect_cni::protocol::Pod;

    use super::*;
    use crate::config::OnProxyLoss;
    use crate::resources::ledger::Problem;
    use crate::status::{AttachmentStatus, CniStatus};

    fn id() -> AttachmentId {
        AttachmentId { network: "net".into(), container: "c1".into(), ifname: "eth0".into() }
    }

    fn status(state: State, uid: Option<&str>) -> Status {
        let verdict = |uid: &str, state| PodVerdict {
            namespace: "mesh".into(),
            name: "a".into(),
            uid: uid.into(),
            ips: Vec::new(),
            ended: false,
            state,
            reason: Some("because".into()),
            on_proxy_loss: OnProxyLoss::default(),
        };
        let pod = Pod { namespace: "mesh".into(), name: "a".into(), uid: uid.map(str::to_owned) };
        let attachment = AttachmentStatus { id: id(), pod, ips: Vec::new(), known: uid.is_some() };
        let cni = CniStatus { seen: 3, attachments: vec![attachment], ..CniStatus::default() };
        Status { pods: vec![verdict("old", State::Meshed), verdict("u", state)], cni, ready: true, ..Status::default() }
    }

    #[test]
    fn each_state_has_its_answer() {
        let of = |state| answer(&status(state, Some("u")), &id(), 3);
        assert_eq!(of(State::Meshed), Ok(Answer::Enrolled));
        assert_eq!([of(State::NotMeshed), of(State::Bypassed)], [Ok(Answer::NotMeshed), Ok(Answer::NotMeshed)]);
        assert_eq!(of(State::Refused), Ok(Answer::Refused("pod mesh/a because".into())));
        assert_eq!(of(State::Pending), Err("pod mesh/a: because".into()));
    }

    #[test]
    fn a_run_that_began_before_says_nothing() {
        let status = status(State::Meshed, Some("u"));
        assert!(answer(&status, &id(), 4).unwrap_err().contains("not looked"));
        assert_eq!(answer(&status, &id(), 2), Ok(Answer::Enrolled));
        assert_eq!(answer_now(&status, &id()), Ok(Answer::Enrolled));
    }

    #[test]
    fn another_pod_of_the_name_is_not_the_pod() {
        let mut status = status(State::Meshed, None);
        assert!(answer(&status, &id(), 3).unwrap_err().contains("not heard of pod mesh/a"));
        status.cni.attachments[0].pod.uid = Some("old".into());
        assert!(answer(&status, &id(), 3).is_err(), "it is named so, and was not found");
        status.cni.attachments.clear();
        assert!(answer(&status, &id(), 3).is_err());
    }

    #[test]
    fn the_reason_names_what_is_wrong_with_the_node() {
        let mut status = status(State::Pending, Some("u"));
        status.problems = vec![Problem::new("link istioin", "is gone")];
        assert_eq!(answer(&status, &id(), 3), Err("pod mesh/a: because".into()));
        status.ready = false;
        assert_eq!(answer(&status, &id(), 3), Err("pod mesh/a: because (link istioin: is gone)".into()));
    }
}
