//! The status in numbers, as `OpenMetrics` text (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::enrol::State;
use crate::install;
use crate::resources::blocked::Packets;
use crate::resources::ledger::{Kind, Writes};
use crate::status::{CniStatus, Status};

type Labels = Vec<(String, String)>;

/// The text for a status.
pub(crate) fn render(status: &Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("redirect");
    let gauge = |value: bool| -> Gauge { whole(u64::from(value)) };
    registry.register("ready", "Whether the last run ended with everything as planned", gauge(status.ready));
    let fallback = gauge(status.fallback_reason.is_some());
    registry.register("fallback", "Whether another mode than the one asked for is in force", fallback);
    let text = |text: &str| text.to_owned();
    let reason = status.fallback_reason.clone().unwrap_or_default();
    let mode: Labels = vec![
        (text("mode"), status.mode.clone()),
        (text("requested"), status.requested_mode.clone()),
        (text("attach"), status.tc_attach.clone().unwrap_or_default()),
        (text("fallback_reason"), reason),
    ];
    registry.register("mode", "The mode in force, and why it is not the one asked for", Info::new(mode));
    let meshed = status.pods.iter().filter(|pod| pod.state == State::Meshed).count() as u64;
    registry.register("meshed_pods", "Pods whose traffic is redirected", whole(meshed));
    let help = "Meshed pods whose traffic passes unproxied, because ztunnel is away and they are to";
    registry.register("bypassed_pods", help, whole(status.bypassed));
    let source = &status.source;
    registry.register("source_complete", "Whether all pods have been heard of once", gauge(source.complete));
    let since = source.stale_since.and_then(|since| u64::try_from(since.as_second()).ok());
    registry.register("source_stale", "Whether nothing new can be heard of pods", gauge(since.is_some()));
    let help = "Since when nothing new can have been heard of pods; 0 when it can";
    registry.register("source_stale_since_timestamp_seconds", help, whole(since.unwrap_or_default()));
    registry.register("problems", "What is wrong now", whole(status.problems.len() as u64));
    if let Some(plugin) = &status.cni_plugin {
        let stands = gauge(plugin.state == install::State::Installed);
        registry.register("cni_plugin_installed", "Whether the CNI plugin is in the node's list", stands);
        let repairs = ConstCounter::new(plugin.repairs);
        registry.register("cni_plugin_repairs", "Times it was put back after another had changed it", repairs);
    }
    let stuck = status.stuck.as_ref().map_or(0, |stuck| stuck.seconds);
    registry.register(
        "stuck_seconds",
        "For how long a run has been under way that takes too long; 0 if none is",
        whole(stuck),
    );
    registry.register("reconciles", "Runs of the loop", ConstCounter::new(status.reconciles));
    register_writes(&mut registry, "writes", "Changes made to the node", &status.writes);
    register_writes(&mut registry, "repairs", "Those that put back what somebody else changed", &status.repairs);
    registry.register("fights", "Things that others change again and again", whole(status.fights));
    let help = "Tools (iptables, ipset, nft) that were run";
    registry.register("processes", help, ConstCounter::new(status.processes));
    let help = "Packets that the BPF programs judged, by verdict";
    registry.register("packets", help, packets("verdict", &status.packets));
    let help = "Packets that were dropped so that nothing passes ztunnel by, by why";
    registry.register("blocked_packets", help, packets("why", &status.blocked));
    register_cni(&mut registry, &status.cni);
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

fn register_cni(registry: &mut Registry, cni: &CniStatus) {
    let attachments = whole(cni.attachments.len() as u64);
    registry.register("cni_attachments", "Attachments of pods that the CNI plugin told of", attachments);
    let answers = Family::<Labels, Counter>::default();
    for (request, by_answer) in &cni.answers {
        for (answer, count) in by_answer {
            let labels = vec![("request".to_owned(), request.clone()), ("answer".to_owned(), answer.clone())];
            answers.get_or_create(&labels).inc_by(*count);
        }
    }
    registry.register("cni_answers", "Answers to the CNI plugin, by request and answer", answers);
}

fn packets(label: &str, counts: &Packets) -> Family<Labels, Counter> {
    let family = Family::<Labels, Counter>::default();
    for (value, count) in counts {
        family.get_or_create(&vec![(label.to_owned(), value.clone())]).inc_by(*count);
    }
    family
}

fn whole(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

fn register_writes(registry: &mut Registry, name: &str, help: &str, writes: &Writes) {
    let family = Family::<Labels, Counter>::default();
    for kind in Kind::ALL {
        family.get_or_create(&vec![("kind".to_owned(), kind.name().to_owned())]).inc_by(writes.of(kind));
    }
    registry.register(name, help, family);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::heart::Stuck;
    use crate::status::SourceStatus;

    #[test]
    fn a_stale_source_is_a_number_and_a_time() {
        let stale_since = Some("2024-01-01T00:00:00Z".parse().unwrap());
        let source = SourceStatus { kind: "kubernetes".into(), complete: true, stale_since };
        let text = render(&Status { source, ..Status::default() }).unwrap();
        assert!(text.contains("redirect_source_stale 1\n"), "{text}");
        assert!(text.contains("redirect_source_stale_since_timestamp_seconds 1704067200\n"), "{text}");
        assert!(render(&Status::default()).unwrap().contains("redirect_source_stale 0\n"));
    }

    #[test]
    fn the_cni_plugin_is_told_of_where_it_is_installed() {
        let mut status = Status::default();
        assert!(!render(&status).unwrap().contains("cni_plugin"));
        let state = install::State::Installed;
        status.cni_plugin = Some(install::PluginStatus { state, repairs: 3, ..Default::default() });
        let text = render(&status).unwrap();
        assert!(text.contains("redirect_cni_plugin_installed 1\n"), "{text}");
        assert!(text.contains("redirect_cni_plugin_repairs_total 3\n"), "{text}");
    }

    #[test]
    fn answers_to_the_cni_plugin_are_counted() {
        let mut status = Status::default();
        status.cni.answers.entry("add".into()).or_default().insert("retry-later".into(), 3);
        let text = render(&status).unwrap();
        assert!(text.contains("redirect_cni_answers_total{request=\"add\",answer=\"retry-later\"} 3\n"), "{text}");
        assert!(text.contains("redirect_cni_attachments 0\n"), "{text}");
    }

    #[test]
    fn what_was_blocked_and_who_is_bypassed_are_numbers() {
        let status = Status { blocked: [("outbound".to_owned(), 3)].into(), bypassed: 2, ..Status::default() };
        let text = render(&status).unwrap();
        assert!(text.contains("redirect_blocked_packets_total{why=\"outbound\"} 3\n"), "{text}");
        assert!(text.contains("redirect_bypassed_pods 2\n"), "{text}");
    }

    #[test]
    fn a_run_that_takes_too_long_is_a_number() {
        assert!(render(&Status::default()).unwrap().contains("redirect_stuck_seconds 0\n"));
        let stuck = Some(Stuck { seconds: 16, at: "chain in ztunnel's namespace".into() });
        let text = render(&Status { stuck, ..Status::default() }).unwrap();
        assert!(text.contains("redirect_stuck_seconds 16\n"), "{text}");
    }

    #[test]
    fn a_fallback_is_a_number_and_a_reason() {
        let mut status = Status { mode: "iptables".into(), requested_mode: "ebpf".into(), ..Status::default() };
        assert!(render(&status).unwrap().contains("redirect_fallback 0\n"));
        status.fallback_reason = Some("no bpffs".into());
        status.packets.insert("outbound".into(), 7);
        let text = render(&status).unwrap();
        assert!(text.contains("redirect_fallback 1\n"), "{text}");
        assert!(text.contains("fallback_reason=\"no bpffs\""), "{text}");
        assert!(text.contains("redirect_packets_total{verdict=\"outbound\"} 7\n"), "{text}");
    }
}
