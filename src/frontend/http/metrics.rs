//! `GET /metrics`: what a monitor reads, in the Prometheus text format (version 0.0.4).
//!
//! Nothing is counted here: names and help stand here, the numbers are the broker's and the listener's, read when
//! somebody asks.
//!
//! **Invariants**
//! - A scrape takes a few short locks, however much the broker holds.
//! - No label has a value that clients choose.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Api;
use crate::store::StoreState;

/// The content type of the answer.
pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// How many connections a listener has.
pub(super) type ConnectionCount = Arc<dyn Fn() -> usize + Send + Sync>;

/// Everything there is to scrape.
pub(super) struct Metrics(Registry);

impl Metrics {
    /// The metrics of a broker, and of the listener whose connections are counted.
    pub(super) fn new(api: Arc<Api>, connections: ConnectionCount) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Source { api, connections }));
        Self(registry)
    }

    /// The text of a scrape.
    ///
    /// # Errors
    /// If a metric cannot be rendered.
    pub(super) fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

/// Where the numbers come from.
struct Source {
    api: Arc<Api>,
    connections: ConnectionCount,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = self.api.broker.gauges();
        let info = &self.api.info;
        let mut out = Out(&mut encoder);
        let version = &[("version", env!("CARGO_PKG_VERSION"))];
        out.choice("evermq_build_info", "The version that runs", version)?;
        let started = info.started_ms as f64 / 1_000.0;
        let help = "When the process started, in seconds since 1970 UTC";
        out.gauge("process_start_time_seconds", help, started)?;
        let durability = &[("durability", info.durability.as_str())];
        let help = "What an acknowledgement means: sync (synced to disk) or interval (written)";
        out.choice("evermq_durability_info", help, durability)?;

        let states = [
            ("ready", now.store == StoreState::Ready),
            ("slow", now.store == StoreState::Slow),
            ("full", now.store == StoreState::Full),
            ("latched", matches!(now.store, StoreState::Latched(_))),
        ];
        let help = "1 for the state of the store: ready; slow (syncs take over a second); full (new messages are \
                    refused); latched (a write or sync failed, the process ends)";
        out.states("evermq_store_state", help, &states)?;

        let written = now.written;
        let help = "Batches written to the log: rounds of the writer";
        out.counter("evermq_log_batches", help, written.batches)?;
        let help = "Records written to the log: messages and changes of state";
        out.counter("evermq_log_records", help, written.records)?;
        out.counter("evermq_log_syncs", "Syncs of the log", written.syncs)?;
        let help = "Bytes written to the log, with all framing";
        out.counter("evermq_log_bytes", help, written.bytes)?;

        let help = "MQTT connections that serve a session";
        out.gauge("evermq_mqtt_connections", help, now.connections as u64)?;
        let help = "Open connections of this HTTP listener";
        out.gauge("evermq_http_connections", help, (self.connections)() as u64)?;
        let help = "Logins of the HTTP API";
        out.gauge("evermq_logins", help, now.logins as u64)?;
        let help = "Messaging sessions, connected or not";
        out.gauge("evermq_sessions", help, now.sessions as u64)?;
        let help = "Subscriptions of sessions, shared ones left out";
        out.gauge("evermq_subscriptions", help, now.subscriptions as u64)?;
        out.gauge("evermq_share_groups", "Share groups", now.share_groups as u64)?;
        out.gauge("evermq_topics", "Topics", now.topics as u64)?;
        let help = "Topics with a retained message";
        out.gauge("evermq_retained_messages", help, now.retained as u64)
    }
}

/// One metric after the other.
struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    /// A number that only grows; `_total` is added to its name.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    /// A number that goes up and down.
    fn gauge<N>(&mut self, name: &str, help: &str, value: N) -> fmt::Result
    where
        ConstGauge<N>: EncodeMetric,
    {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    /// A 1 whose label says something.
    fn choice(&mut self, name: &str, help: &str, label: &[(&str, &str); 1]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(1_u64).encode(metric.encode_family(label)?)
    }

    /// 1 for the state that is, 0 for the others.
    fn states(&mut self, name: &str, help: &str, states: &[(&str, bool)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (state, is) in states {
            ConstGauge::new(u64::from(*is)).encode(metric.encode_family(&[("state", *state)])?)?;
        }
        Ok(())
    }
}
