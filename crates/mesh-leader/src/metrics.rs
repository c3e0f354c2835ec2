//! Every metric that this crate exports, read from the driver at scrape time.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{Histogram, Leadership, ScopeKind, Transition, counters::BUCKETS_S};

/// Adds the metrics of one node's leadership to a registry.
///
/// The names begin with `mesh_leadership_`; the registry must have no prefix.
pub fn register(registry: &mut Registry, leadership: Leadership) {
    registry.register_collector(Box::new(LeaderCollector { leadership }));
}

#[derive(Debug)]
struct LeaderCollector {
    leadership: Leadership,
}

/// One labelled number.
type Series<'a> = (&'a [(&'static str, &'static str)], f64);

struct Numbers<'a> {
    kind: MetricType,
    series: &'a [Series<'a>],
}

impl Numbers<'_> {
    fn encode_one(&self, encoder: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
        match self.kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            _ => encoder.encode_gauge(&value),
        }
    }
}

impl EncodeMetric for Numbers<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, value) in self.series {
            if labels.is_empty() {
                // A family without labels would print an empty pair of braces.
                self.encode_one(&mut encoder, *value)?;
            } else {
                self.encode_one(&mut encoder.encode_family(labels)?, *value)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BUCKETS_S.iter().copied().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets).collect();
        encoder.encode_histogram::<NoLabelSet>(self.sum_s(), self.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Collector for LeaderCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.leadership.counters();
        let status = self.leadership.status();
        let mut out = Out(&mut encoder);
        transitions(&mut out, &counters)?;
        out.histogram(
            "election_duration",
            "From the last time a leader was known to hold to the next leader",
            &counters.election_duration,
        )?;
        out.seconds_total(
            "without_leader",
            "Time without a leader, summed over the scopes that this node knows",
            counters.without_leader,
        )?;
        out.histogram(
            "renewal_slack",
            "What was left until the deadline when a renewal was answered",
            &counters.renewal_slack,
        )?;
        out.counter(
            "split_brain",
            "Second holders seen while this node's lease was good; must stay 0",
            counters.split_brain,
        )?;
        out.gauge("leases", "Scopes that this node leads", status.leads as f64)?;
        out.gauge("campaigns", "Scopes that this node campaigns for", status.campaigns as f64)?;
        out.gauge(
            "session_confirmed",
            "1 while this node's session is certainly open",
            f64::from(u8::from(status.confirmed)),
        )?;
        out.gauge("synced", "1 once this node has read who leads", f64::from(u8::from(status.synced)))?;
        out.gauge(
            "draining",
            "1 while this node gives its leases away",
            f64::from(u8::from(status.draining)),
        )?;
        out.gauge(
            "queue_length",
            "Effects of the core that wait to be carried out",
            self.leadership.queue_length() as f64,
        )?;
        let help = "The shortest time to live that could be kept here, as measured";
        out.seconds("ttl_needed", help, self.leadership.ttl_needed())?;
        out.counter("renewal_failures", "Renewals that failed", counters.renewal_failures)?;
        out.counter("sessions", "Sessions that this node opened", counters.sessions)?;
        out.counter("pauses", "Times this process was paused for too long to know", counters.pauses)?;
        out.counter("scans", "Times all records of leadership were read", counters.scans)?;
        out.counter("conflicts", "Grants that the store refused", counters.conflicts)?;
        out.counter(
            "records_left_out",
            "Records left out because leader.records_max is reached",
            counters.records_left_out,
        )?;
        let (subscribers, lagged) = self.leadership.shared().board.subscribers();
        out.gauge("subscribers", "Subscribers of events", subscribers as f64)?;
        out.counter("subscribers_lagged", "Times a subscriber fell behind and started anew", lagged)
    }
}

fn transitions(out: &mut Out<'_, '_>, counters: &crate::Counters) -> fmt::Result {
    let mut labels = Vec::new();
    for kind in ScopeKind::ALL {
        for transition in Transition::ALL {
            let count = counters.transitions.get(&(kind, transition)).copied().unwrap_or(0);
            labels.push(([("scope_kind", kind.as_str()), ("transition", transition.as_str())], count as f64));
        }
    }
    let series: Vec<Series<'_>> = labels.iter().map(|(labels, count)| (&labels[..], *count)).collect();
    let help = "Transitions of leadership that this node saw";
    out.numbers("transitions", help, None, MetricType::Counter, &series)
}

struct Out<'o, 'e>(&'o mut DescriptorEncoder<'e>);

impl Out<'_, '_> {
    fn numbers(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        series: &[Series<'_>],
    ) -> fmt::Result {
        let numbers = Numbers { kind, series };
        let name = format!("mesh_leadership_{name}");
        numbers.encode(self.0.encode_descriptor(&name, help, unit, kind)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.numbers(name, help, None, MetricType::Gauge, &[(&[], value)])
    }

    fn seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        self.numbers(name, help, Some(&Unit::Seconds), MetricType::Gauge, &[(&[], value.as_secs_f64())])
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.numbers(name, help, None, MetricType::Counter, &[(&[], value as f64)])
    }

    fn seconds_total(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        self.numbers(name, help, Some(&Unit::Seconds), MetricType::Counter, &[(&[], value.as_secs_f64())])
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let name = format!("mesh_leadership_{name}");
        let encoder = self.0.encode_descriptor(&name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn the_metrics_have_their_documented_names() {
        let leadership = testing::leadership("n-1");
        let mut registry = Registry::default();
        register(&mut registry, leadership);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            "mesh_leadership_transitions_total{scope_kind=\"global-control\",transition=\"elected\"} 0",
            "mesh_leadership_transitions_total{scope_kind=\"user\",transition=\"stepped-down\"} 0",
            "mesh_leadership_election_duration_seconds_count 0",
            "mesh_leadership_without_leader_seconds_total 0",
            "mesh_leadership_renewal_slack_seconds_bucket{le=\"0.001\"} 0",
            "mesh_leadership_split_brain_total 0",
            "mesh_leadership_leases 0",
            "mesh_leadership_ttl_needed_seconds ",
            "mesh_leadership_subscribers 0",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}
