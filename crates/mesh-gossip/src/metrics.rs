//! Every metric that this crate exports, read from the driver at scrape time.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{Counters, GossipHandle, Histogram, counters::BUCKETS_S};

/// Adds the metrics of one node's gossip to a registry.
///
/// The names begin with `mesh_gossip_`; the registry must have no prefix.
pub fn register(registry: &mut Registry, gossip: GossipHandle) {
    registry.register_collector(Box::new(GossipCollector { gossip }));
}

#[derive(Debug)]
struct GossipCollector {
    gossip: GossipHandle,
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

impl Collector for GossipCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.gossip.status();
        let counters = self.gossip.counters();
        let size = |n: usize| n as u64;
        gauge(
            &mut encoder,
            "members",
            "Members in the local view by state",
            &[
                (&[("state", "alive")], size(status.alive)),
                (&[("state", "suspect")], size(status.suspect)),
                (&[("state", "dead")], size(status.dead)),
                (&[("state", "left")], size(status.left_members)),
            ],
        )?;
        gauge(
            &mut encoder,
            "overlay_links",
            "Links of the overlay, wanted and up, and all links",
            &[
                (&[("kind", "wanted")], size(status.overlay_wanted)),
                (&[("kind", "up")], size(status.overlay_up)),
                (&[("kind", "all")], size(status.links)),
            ],
        )?;
        gauge(
            &mut encoder,
            "queue_length",
            "Items that wait in the core's queues",
            &[(&[], size(self.gossip.queue_length()))],
        )?;
        gauge(
            &mut encoder,
            "health_score",
            "How ill the node feels: 0 is well, 8 is worst",
            &[(&[], u64::from(status.health_score))],
        )?;
        gauge(&mut encoder, "ready", "1 if the node is ready", &[(&[], u64::from(status.ready))])?;
        gauge(
            &mut encoder,
            "isolated",
            "1 if the node knows of others and reaches none",
            &[(&[], u64::from(status.isolated))],
        )?;
        encode_counters(&mut encoder, &counters)?;
        let rtt = encoder.encode_descriptor(
            "mesh_gossip_rtt",
            "Round trips of answered probes",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        counters.rtt.encode(rtt)?;
        let help = "From a membership change to its receipt here";
        let propagation = encoder.encode_descriptor(
            "mesh_gossip_propagation",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        counters.propagation.encode(propagation)
    }
}

fn encode_counters(encoder: &mut DescriptorEncoder<'_>, c: &Counters) -> fmt::Result {
    counter(
        encoder,
        "messages",
        "Gossip messages by direction and outcome",
        &[
            (&[("direction", "sent"), ("outcome", "ok")], c.sent_messages - c.unsent_messages),
            (&[("direction", "sent"), ("outcome", "not-taken")], c.unsent_messages),
            (&[("direction", "received"), ("outcome", "ok")], c.received_messages),
            (&[("direction", "received"), ("outcome", "malformed")], c.refused_malformed),
            (&[("direction", "received"), ("outcome", "version")], c.refused_version),
            (&[("direction", "received"), ("outcome", "rate")], c.refused_rate),
            (&[("direction", "received"), ("outcome", "incarnation")], c.refused_incarnation),
            (&[("direction", "received"), ("outcome", "members-max")], c.refused_members_max),
            (&[("direction", "received"), ("outcome", "duplicate")], c.duplicates),
        ],
    )?;
    counter(
        encoder,
        "bytes",
        "Gossip payload bytes by direction",
        &[(&[("direction", "sent")], c.sent_bytes), (&[("direction", "received")], c.received_bytes)],
    )?;
    counter(
        encoder,
        "probes",
        "Probes by outcome",
        &[
            (&[("outcome", "started")], c.probes),
            (&[("outcome", "answered")], c.probes_answered),
            (&[("outcome", "answered-indirectly")], c.probes_answered_indirectly),
        ],
    )?;
    counter(
        encoder,
        "probe_failures",
        "Missed answers by reason",
        &[(&[("reason", "timeout")], c.probe_timeouts), (&[("reason", "refused")], c.probe_refusals)],
    )?;
    counter(
        encoder,
        "suspicions",
        "Suspicions by outcome",
        &[
            (&[("outcome", "started")], c.suspicions_started),
            (&[("outcome", "refuted")], c.suspicions_refuted),
            (&[("outcome", "confirmed")], c.suspicions_confirmed),
        ],
    )?;
    counter(encoder, "refutations", "Times this node refuted a word about itself", &[(&[], c.refutations)])?;
    counter(
        encoder,
        "digest_mismatches",
        "Messages whose digest differed from ours",
        &[(&[], c.digest_mismatches)],
    )?;
    counter(encoder, "syncs", "Table comparisons that this node started", &[(&[], c.syncs_started)])?;
    counter(
        encoder,
        "sync_records",
        "Whole records exchanged in repair",
        &[
            (&[("direction", "sent")], c.sync_records_sent),
            (&[("direction", "received")], c.sync_records_taken),
        ],
    )?;
    counter(
        encoder,
        "late_timers",
        "Times this node found that it had been paused or starved",
        &[(&[], c.late_timers)],
    )?;
    counter(
        encoder,
        "broadcasts",
        "User broadcasts, relays included",
        &[
            (&[("direction", "sent")], c.broadcasts_sent),
            (&[("direction", "received")], c.broadcasts_delivered),
        ],
    )
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, series: &[Series<'_>]) -> fmt::Result {
    numbers(encoder, name, help, MetricType::Gauge, series)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[Series<'_>],
) -> fmt::Result {
    numbers(encoder, name, help, MetricType::Counter, series)
}

fn numbers(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    series: &[Series<'_>],
) -> fmt::Result {
    let name = format!("mesh_gossip_{name}");
    let numbers = Numbers { kind, series };
    numbers.encode(encoder.encode_descriptor(&name, help, None, kind)?)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use mesh_core::Settings;

    use super::*;
    use crate::{Driver, DriverOptions, GossipConfig, LocalNode, channels::ChannelNetwork};

    #[tokio::test]
    async fn the_metrics_have_their_documented_names() {
        let (carrier, address) = ChannelNetwork::new().join(ChannelNetwork::identity("a").expect("valid"));
        let identity = ChannelNetwork::identity("a").expect("valid");
        let config = GossipConfig::lan().validate().expect("valid");
        let local = LocalNode { identity, addresses: vec![address], metadata: BTreeMap::new() };
        let handle = Driver::spawn(config, local, Arc::clone(&carrier), DriverOptions::default())
            .await
            .expect("starts");
        handle.ready().await.expect("alone");
        let mut registry = Registry::default();
        register(&mut registry, handle);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            "mesh_gossip_members{state=\"alive\"} 1",
            "mesh_gossip_messages_total{direction=\"received\",outcome=\"malformed\"} 0",
            "mesh_gossip_rtt_seconds_count 0",
            "mesh_gossip_propagation_seconds_bucket{le=\"0.0005\"} 0",
            "mesh_gossip_overlay_links{kind=\"wanted\"} 0",
            "mesh_gossip_queue_length ",
            "mesh_gossip_health_score 0",
            "mesh_gossip_digest_mismatches_total 0",
            "mesh_gossip_probe_failures_total{reason=\"timeout\"} 0",
            "mesh_gossip_suspicions_total{outcome=\"refuted\"} 0",
            "mesh_gossip_bytes_total{direction=\"sent\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}
