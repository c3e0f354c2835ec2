//! Every metric that this crate exports, read from the engine at scrape time.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    counters::Histogram,
    engine::{SyncHandle, SyncHealth},
};

/// Adds the metrics of an engine to a registry.
///
/// The names begin with `mesh_sync_`; the registry must have no prefix.
pub fn register(registry: &mut Registry, sync: SyncHandle) {
    registry.register_collector(Box::new(SyncCollector { sync }));
}

#[derive(Debug)]
struct SyncCollector {
    sync: SyncHandle,
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
        let bounds = self.bounds.iter().copied().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets.iter().copied()).collect();
        let count = self.buckets.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Collector for SyncCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let numbers = self.sync.core.counters.lock().clone();
        let gauges = self.sync.core.gauges();
        let mut out = Out(&mut encoder);
        out.family(
            "entries",
            "Entries by direction and what became of them",
            ["direction", "outcome"],
            &numbers.entries,
            &[
                ("in", "stored"),
                ("in", "duplicate"),
                ("in", "deferred"),
                ("in", "rejected"),
                ("in", "busy"),
                ("out", "stored"),
                ("out", "duplicate"),
                ("out", "deferred"),
                ("out", "rejected"),
                ("out", "busy"),
                ("local", "stored"),
            ],
        )?;
        let bytes: [Series<'_>; 2] = [
            (&[("direction", "in")], numbers.bytes_in as f64),
            (&[("direction", "out")], numbers.bytes_out as f64),
        ];
        out.numbers("bytes", "Bytes of streams between nodes, packed", None, MetricType::Counter, &bytes)?;
        out.family(
            "reconciliations",
            "Comparisons of two sets by method and how they ended",
            ["method", "outcome"],
            &numbers.reconciliations,
            &[("sketch", "done"), ("ranges", "done"), ("none", "failed")],
        )?;
        out.histogram(
            "reconciliation",
            Unit::Bytes,
            "Bytes of one comparison, both ways",
            &numbers.reconciliation_bytes,
        )?;
        out.histogram("apply", Unit::Seconds, "How long it takes to store a batch durably", &numbers.apply)?;
        out.histogram("queue", Unit::Seconds, "From being queued to being delivered", &numbers.queue)?;
        out.histogram(
            "peer_lag",
            Unit::Seconds,
            "How long peers were behind when they caught up",
            &numbers.lag,
        )?;
        out.unit_gauge(
            "lag",
            Unit::Seconds,
            "The longest time that an active peer is behind",
            gauges.max_lag_s,
        )?;
        let peers: [Series<'_>; 4] = [
            (&[("state", "in_sync")], gauges.in_sync as f64),
            (&[("state", "behind")], gauges.behind as f64),
            (&[("state", "away")], gauges.away as f64),
            (&[("state", "retired")], gauges.retired as f64),
        ];
        out.numbers("peers", "Pairs of a peer and a dataset by state", None, MetricType::Gauge, &peers)?;
        out.gauge("queue_entries", "Entries that wait for peers", gauges.queued as f64)?;
        out.gauge("dead_letters", "What was given up", gauges.dead_letters as f64)?;
        out.gauge("streams", "Streams to peers", gauges.streams as f64)?;
        out.gauge("datasets", "Datasets that this node keeps", gauges.datasets as f64)?;
        out.gauge("stored_entries", "Entries that are held", gauges.entries as f64)?;
        out.unit_gauge(
            "stored",
            Unit::Bytes,
            "Encoded length of the entries that are held",
            gauges.bytes as f64,
        )?;
        out.gauge(
            "pending_requests",
            "Requests for access that wait for an operator",
            gauges.pending as f64,
        )?;
        let health = match gauges.health {
            SyncHealth::Ok => 0.0,
            SyncHealth::Degraded => 1.0,
            SyncHealth::Unhealthy => 2.0,
        };
        out.gauge("health", "0 ok, 1 degraded, 2 unhealthy", health)?;
        let handshakes: Vec<([(&str, &str); 1], f64)> = ["proved", "refused", "failed", "ended"]
            .map(|outcome| {
                let count = numbers.handshakes.get(outcome).copied().unwrap_or(0);
                ([("outcome", outcome)], count as f64)
            })
            .into();
        let handshakes: Vec<Series<'_>> =
            handshakes.iter().map(|(labels, count)| (&labels[..], *count)).collect();
        out.numbers("handshakes", "Handshakes with peers", None, MetricType::Counter, &handshakes)?;
        out.counter("dropped_frames", "Messages that found no room on a stream", numbers.dropped_frames)?;
        out.counter("malformed", "What peers sent that can't be read", numbers.malformed)?;
        out.counter("hook_failures", "Hooks on commits that failed or panicked", numbers.hooks_failed)?;
        out.counter("hook_misses", "Commits that hooks missed, being too slow", numbers.hooks_missed)?;
        out.counter("equivocations", "Numbers that an author gave to two entries", numbers.equivocations)?;
        out.counter("dial_failures", "Attempts to reach a peer that came to nothing", numbers.dials_failed)
    }
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
        let name = format!("mesh_sync_{name}");
        numbers.encode(self.0.encode_descriptor(&name, help, unit, kind)?)
    }

    /// A counter with two labels; `always` are there from the start.
    fn family(
        &mut self,
        name: &str,
        help: &str,
        labels: [&'static str; 2],
        counts: &BTreeMap<(&'static str, &'static str), u64>,
        always: &[(&'static str, &'static str)],
    ) -> fmt::Result {
        let mut all: BTreeMap<_, u64> = always.iter().map(|pair| (*pair, 0)).collect();
        all.extend(counts.iter().map(|(pair, count)| (*pair, *count)));
        let rows: Vec<_> =
            all.into_iter().map(|((a, b), count)| ([(labels[0], a), (labels[1], b)], count as f64)).collect();
        let series: Vec<Series<'_>> = rows.iter().map(|(labels, count)| (&labels[..], *count)).collect();
        self.numbers(name, help, None, MetricType::Counter, &series)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.numbers(name, help, None, MetricType::Gauge, &[(&[], value)])
    }

    fn unit_gauge(&mut self, name: &str, unit: Unit, help: &str, value: f64) -> fmt::Result {
        self.numbers(name, help, Some(&unit), MetricType::Gauge, &[(&[], value)])
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.numbers(name, help, None, MetricType::Counter, &[(&[], value as f64)])
    }

    fn histogram(&mut self, name: &str, unit: Unit, help: &str, histogram: &Histogram) -> fmt::Result {
        let name = format!("mesh_sync_{name}");
        histogram.encode(self.0.encode_descriptor(&name, help, Some(&unit), MetricType::Histogram)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Access, engine::tests::bench, memory::MemoryNetwork};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_metrics_have_their_documented_names() {
        let network = MemoryNetwork::default();
        let engine = bench::start(&network, 1, bench::config(Access::Cluster), &bench::Disk::default()).await;
        let sync = engine.handle();
        sync.put(&bench::notes(), &bench::list(), "key", "1").await.expect("written");
        let mut registry = Registry::default();
        register(&mut registry, sync.clone());
        let scraped = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
            text
        };
        bench::until(|| async { scraped().contains("mesh_sync_stored_entries 1") }).await;
        let text = scraped();
        for line in [
            "mesh_sync_lag_seconds ",
            "mesh_sync_peer_lag_seconds_count 0",
            "mesh_sync_peers{state=\"in_sync\"} 0",
            "mesh_sync_entries_total{direction=\"local\",outcome=\"stored\"} 1",
            "mesh_sync_entries_total{direction=\"in\",outcome=\"duplicate\"} 0",
            "mesh_sync_bytes_total{direction=\"out\"} ",
            "mesh_sync_queue_entries 0",
            "mesh_sync_queue_seconds_count 0",
            "mesh_sync_dead_letters 0",
            "mesh_sync_reconciliations_total{method=\"sketch\",outcome=\"done\"} 0",
            "mesh_sync_reconciliation_bytes_count 0",
            "mesh_sync_apply_seconds_count 1",
            "mesh_sync_health 0",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}
