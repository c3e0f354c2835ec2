//! Every metric that this crate exports, read at scrape time. All names begin with `mesh_registry_`.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

#[cfg(feature = "rpc")]
use crate::{RemoteCounters, ServiceCounters};
use crate::{
    numbers::{BUCKETS_S, DurationCounts, Gauges, RaftNumbers, StoreNumbers},
    reconcile::ReconcileCounters,
};

/// Where the metrics of a node's registry come from.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::sync::Arc;
/// use mesh_registry::{MemoryStore, metrics::MetricSources};
/// let mut registry = prometheus_client::registry::Registry::default();
/// MetricSources::new(Arc::new(MemoryStore::new())).register(&mut registry);
/// # }
/// ```
#[derive(Clone)]
pub struct MetricSources {
    store: Arc<dyn Gauges>,
    reconciler: Option<Arc<ReconcileCounters>>,
    #[cfg(feature = "rpc")]
    service: Option<Arc<ServiceCounters>>,
    #[cfg(feature = "rpc")]
    remote: Option<Arc<RemoteCounters>>,
}

impl fmt::Debug for MetricSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricSources").field("store", &self.store.numbers()).finish_non_exhaustive()
    }
}

impl MetricSources {
    /// The numbers of a store.
    pub fn new(store: Arc<dyn Gauges>) -> Self {
        Self {
            store,
            reconciler: None,
            #[cfg(feature = "rpc")]
            service: None,
            #[cfg(feature = "rpc")]
            remote: None,
        }
    }

    /// And those of the reconciler.
    #[must_use]
    pub fn reconciler(mut self, counters: Arc<ReconcileCounters>) -> Self {
        self.reconciler = Some(counters);
        self
    }

    /// And those of the service that other nodes use.
    #[cfg(feature = "rpc")]
    #[must_use]
    pub fn service(mut self, counters: Arc<ServiceCounters>) -> Self {
        self.service = Some(counters);
        self
    }

    /// And those of the client of other nodes' stores.
    #[cfg(feature = "rpc")]
    #[must_use]
    pub fn remote(mut self, counters: Arc<RemoteCounters>) -> Self {
        self.remote = Some(counters);
        self
    }

    /// Adds them to a registry, which must have no prefix.
    pub fn register(self, registry: &mut Registry) {
        registry.register_collector(Box::new(self));
    }
}

/// One labelled number.
type Series<'a> = (&'a [(&'static str, &'static str)], u64);

struct Numbers<'a> {
    kind: MetricType,
    series: &'a [Series<'a>],
}

impl Numbers<'_> {
    fn encode_one(&self, encoder: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
        match self.kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            _ => encoder.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
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

impl EncodeMetric for DurationCounts {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BUCKETS_S.iter().copied().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets).collect();
        encoder.encode_histogram::<NoLabelSet>(self.sum.as_secs_f64(), self.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: Option<u64>) -> fmt::Result {
    let Some(value) = value else { return Ok(()) };
    let name = format!("mesh_registry_{name}");
    let metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    Numbers { kind: MetricType::Gauge, series: &[(&[], value)] }.encode(metric)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[Series<'_>],
) -> fmt::Result {
    let name = format!("mesh_registry_{name}");
    let metric = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
    Numbers { kind: MetricType::Counter, series }.encode(metric)
}

fn seconds(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: &DurationCounts,
) -> fmt::Result {
    let name = format!("mesh_registry_{name}");
    let metric = encoder.encode_descriptor(&name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    counts.encode(metric)
}

impl Collector for MetricSources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        encode_store(encoder, &self.store.numbers())?;
        #[cfg(feature = "rpc")]
        {
            if let Some(service) = &self.service {
                encode_service(encoder, service)?;
            }
            if let Some(remote) = &self.remote {
                encode_remote(encoder, remote)?;
            }
        }
        if let Some(counters) = &self.reconciler {
            let series = counters.by_outcome().map(|(outcome, count)| ([("outcome", outcome)], count));
            let series: Vec<Series<'_>> =
                series.iter().map(|(labels, count)| (labels.as_slice(), *count)).collect();
            counter(encoder, "reconciliations", "Comparisons of caches with the store by outcome", &series)?;
        }
        Ok(())
    }
}

fn encode_store(encoder: &mut DescriptorEncoder<'_>, numbers: &StoreNumbers) -> fmt::Result {
    gauge(encoder, "revision", "The newest revision that this node knows", numbers.revision)?;
    gauge(encoder, "records", "Records in this node's copy", numbers.records)?;
    gauge(encoder, "records_bytes", "Bytes of keys and values in this node's copy", numbers.records_bytes)?;
    gauge(encoder, "sessions", "Open sessions", numbers.sessions)?;
    gauge(encoder, "watchers", "Watches of this node's copy", numbers.watchers)?;
    let quorum = numbers.quorum.map(u64::from);
    gauge(encoder, "quorum", "1 if there is a leader that a quorum follows, as this node sees it", quorum)?;
    if let Some(apply) = &numbers.apply {
        seconds(encoder, "apply", "From a log entry's turn to its effect", apply)?;
    }
    let Some(RaftNumbers { term, leader_changes, log_bytes, snapshot }) = &numbers.raft else {
        return Ok(());
    };
    gauge(encoder, "raft_term", "The term of the replicated log", Some(*term))?;
    let help = "Leaders seen that were not the one before";
    counter(encoder, "raft_leader_changes", help, &[(&[], *leader_changes)])?;
    gauge(encoder, "raft_log_bytes", "Bytes of log on disk", Some(*log_bytes))?;
    seconds(encoder, "raft_snapshot", "How long snapshots took to be written", snapshot)
}

#[cfg(feature = "rpc")]
fn encode_service(encoder: &mut DescriptorEncoder<'_>, c: &ServiceCounters) -> fmt::Result {
    counter(
        encoder,
        "requests_refused",
        "Requests of other nodes that were refused, by reason",
        &[
            (&[("reason", "denied")], c.denied_total()),
            (&[("reason", "busy")], c.shed_total()),
            (&[("reason", "not-leader")], c.redirected_total()),
        ],
    )?;
    gauge(encoder, "remote_watchers", "Watches of other nodes", Some(c.watchers()))?;
    let help = "Changes sent to watches of other nodes";
    counter(encoder, "watch_changes_sent", help, &[(&[], c.changes_sent_total())])?;
    counter(encoder, "watch_gaps", "Gaps that watches of other nodes were told of", &[(&[], c.gaps_total())])
}

#[cfg(feature = "rpc")]
fn encode_remote(encoder: &mut DescriptorEncoder<'_>, c: &RemoteCounters) -> fmt::Result {
    let help = "Requests sent to a voter after the first try";
    counter(encoder, "remote_retries", help, &[(&[], c.retries_total())])?;
    counter(encoder, "remote_redirects", "Answers that named the leader", &[(&[], c.redirects_total())])?;
    let help = "Watches taken up again after their connection was lost";
    counter(encoder, "remote_watches_resumed", help, &[(&[], c.watches_resumed_total())])?;
    let help = "Sessions opened to name transactions with";
    counter(encoder, "remote_name_sessions", help, &[(&[], c.sessions_total())])?;
    let help = "Linearizable reads confirmed by this client";
    counter(encoder, "remote_confirmed_reads", help, &[(&[], c.confirmed_reads_total())])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::numbers::Durations;

    struct All;

    impl Gauges for All {
        fn numbers(&self) -> StoreNumbers {
            let durations = Durations::default();
            durations.record(Duration::from_micros(300));
            StoreNumbers {
                revision: Some(7),
                records: Some(3),
                records_bytes: Some(99),
                sessions: Some(2),
                watchers: Some(1),
                quorum: Some(true),
                apply: Some(durations.counted()),
                raft: Some(RaftNumbers {
                    term: 4,
                    leader_changes: 2,
                    log_bytes: 1024,
                    snapshot: durations.counted(),
                }),
            }
        }
    }

    #[test]
    fn the_names_and_labels_of_all_metrics() {
        let sources = MetricSources::new(Arc::new(All)).reconciler(Arc::default());
        #[cfg(feature = "rpc")]
        let sources = sources.service(Arc::default()).remote(Arc::default());
        let mut registry = Registry::default();
        sources.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        let series = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket"));
        let series: Vec<&str> = series.collect();
        let expected = [
            "mesh_registry_revision 7",
            "mesh_registry_records 3",
            "mesh_registry_records_bytes 99",
            "mesh_registry_sessions 2",
            "mesh_registry_watchers 1",
            "mesh_registry_quorum 1",
            "mesh_registry_apply_seconds_sum 0.0003",
            "mesh_registry_apply_seconds_count 1",
            "mesh_registry_raft_term 4",
            "mesh_registry_raft_leader_changes_total 2",
            "mesh_registry_raft_log_bytes 1024",
            "mesh_registry_raft_snapshot_seconds_sum 0.0003",
            "mesh_registry_raft_snapshot_seconds_count 1",
            #[cfg(feature = "rpc")]
            "mesh_registry_requests_refused_total{reason=\"denied\"} 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_requests_refused_total{reason=\"busy\"} 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_requests_refused_total{reason=\"not-leader\"} 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_remote_watchers 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_watch_changes_sent_total 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_watch_gaps_total 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_remote_retries_total 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_remote_redirects_total 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_remote_watches_resumed_total 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_remote_name_sessions_total 0",
            #[cfg(feature = "rpc")]
            "mesh_registry_remote_confirmed_reads_total 0",
            "mesh_registry_reconciliations_total{outcome=\"in-sync\"} 0",
            "mesh_registry_reconciliations_total{outcome=\"repaired\"} 0",
            "mesh_registry_reconciliations_total{outcome=\"repair-failed\"} 0",
            "mesh_registry_reconciliations_total{outcome=\"store-unavailable\"} 0",
        ];
        assert_eq!(series, expected);
    }
}
