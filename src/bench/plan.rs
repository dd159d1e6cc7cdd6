//! What a load consists of: who publishes what, who subscribes to what, and what must therefore arrive.
//!
//! Publisher `p` of `P` owns the topics `p`, `p + P`, `p + 2P`, ... and goes through them in turn; if there are fewer
//! topics than publishers they share. Each topic of a publisher is a *key*.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::args::{LoadArgs, MqttArgs, MqttVersion, OfflineArgs, Target};
use crate::frontend::mqtt::frame::Version;

/// The port of MQTT.
pub(super) const MQTT_PORT: u16 = 1883;

/// Where the broker is.
///
/// # Errors
/// The host has no address.
pub(super) fn address(target: &Target, port: u16) -> Result<SocketAddr, String> {
    let host = target.host.as_str();
    let mut found = (host, target.port.unwrap_or(port))
        .to_socket_addrs()
        .map_err(|error| format!("`{host}`: {error}"))?;
    found.next().ok_or_else(|| format!("`{host}` has no address"))
}

/// The version as packets know it.
pub(super) const fn version(args: MqttArgs) -> Version {
    match args.mqtt {
        MqttVersion::V311 => Version::V311,
        MqttVersion::V5 => Version::V5,
    }
}

/// A time span.
///
/// # Errors
/// It is negative, or beyond all times.
pub(super) fn seconds(value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value).map_err(|_| format!("{value} seconds are no time this can wait"))
}

/// Tells runs apart.
///
/// # Errors
/// The system has no random numbers.
pub(super) fn random() -> Result<u32, String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(u32::from_le_bytes(bytes))
}

/// Who gets what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// The topics are dealt out among the subscribers.
    Own,
    /// Every subscriber gets every topic.
    All,
}

/// A load.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Name of the preset.
    pub(super) name: &'static str,
    /// The broker.
    pub(super) broker: SocketAddr,
    /// Version spoken.
    pub(super) version: Version,
    /// Of publishes and subscriptions.
    pub(super) qos: u8,
    /// How many publish.
    pub(super) publishers: usize,
    /// How many subscribe.
    pub(super) subscribers: usize,
    /// How many topics.
    pub(super) topics: usize,
    /// Who gets what.
    pub(super) reach: Reach,
    /// Bytes of a payload.
    pub(super) size: usize,
    /// Unacknowledged messages of a publisher.
    pub(super) window: u32,
    /// Messages a publisher is ahead of its subscribers; 0 is without bound.
    pub(super) ahead: u64,
    /// Time between two messages of one publisher.
    pub(super) interval: Option<Duration>,
    /// Messages of each publisher.
    pub(super) count: Option<u64>,
    /// Time that is measured.
    pub(super) measured: Duration,
    /// Time before that.
    pub(super) warmup: Duration,
    /// Sessions that stay.
    pub(super) persistent: bool,
    /// Of topics and client names.
    pub(super) prefix: String,
    /// User name.
    pub(super) username: Option<String>,
    /// Password.
    pub(super) password: Option<String>,
    /// Threads of the tool.
    pub(super) threads: usize,
    /// Tells this run's messages from others.
    pub(super) run: u32,
}

impl Plan {
    /// A plan from arguments, with the preset's defaults.
    ///
    /// # Errors
    /// A host without address, a number that makes no sense.
    pub(super) fn new(name: &'static str, args: &LoadArgs) -> Result<Self, String> {
        let publishers = args.publishers.unwrap_or(if name == "fan-out" { 1 } else { 10 });
        let subscribers = match name {
            "publish" => 0,
            "fan-out" => args.subscribers.unwrap_or(50),
            "fan-in" => args.subscribers.unwrap_or(1),
            _ => args.subscribers.unwrap_or(publishers),
        };
        let topics = args.topics.unwrap_or(publishers);
        if publishers == 0 || topics == 0 {
            return Err("there must be a publisher and a topic".into());
        }
        let interval = match args.rate {
            None => None,
            Some(rate) if rate > 0.0 => Some(seconds(publishers as f64 / rate)?),
            Some(rate) => return Err(format!("{rate} messages a second are no rate")),
        };
        Ok(Self {
            name,
            broker: address(&args.target, MQTT_PORT)?,
            version: version(args.mqtt),
            qos: args.qos,
            publishers,
            subscribers,
            topics,
            reach: if matches!(name, "fan-out" | "fan-in") {
                Reach::All
            } else {
                Reach::Own
            },
            size: args.size as usize,
            window: args.window,
            ahead: if subscribers == 0 { 0 } else { args.ahead },
            interval,
            count: args.count,
            measured: seconds(args.seconds)?,
            warmup: seconds(args.warmup)?,
            persistent: args.persistent,
            prefix: args.target.prefix.clone(),
            username: args.target.username.clone(),
            password: args.target.password.clone(),
            threads: usize::from(args.threads),
            run: random()?,
        })
    }

    /// The plan of `bench offline`.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub(super) fn offline(args: &OfflineArgs) -> Result<Self, String> {
        let each = args.count.div_ceil(args.publishers.max(1) as u64);
        let load = LoadArgs {
            target: args.target.clone(),
            mqtt: args.mqtt,
            qos: args.qos,
            publishers: Some(args.publishers),
            subscribers: Some(args.subscribers),
            topics: args.topics,
            size: args.size,
            window: args.window,
            ahead: 0,
            rate: None,
            count: Some(each),
            seconds: 0.0,
            warmup: 0.0,
            persistent: true,
            threads: args.threads,
        };
        let reach = if args.all { Reach::All } else { Reach::Own };
        Ok(Self {
            reach,
            ..Self::new("offline", &load)?
        })
    }

    /// The topics of a publisher.
    pub(super) fn topics_of(&self, publisher: usize) -> impl Iterator<Item = usize> {
        (publisher % self.topics..self.topics).step_by(self.publishers)
    }

    /// Keys of one publisher at most.
    pub(super) fn keys_each(&self) -> usize {
        self.topics.div_ceil(self.publishers)
    }

    /// Keys of all publishers.
    pub(super) fn keys(&self) -> usize {
        self.publishers * self.keys_each()
    }

    /// A topic's name.
    pub(super) fn topic(&self, topic: usize) -> String {
        format!("{}/topic/{topic}", self.prefix)
    }

    /// What a subscriber subscribes to.
    pub(super) fn filters(&self, subscriber: usize) -> Vec<String> {
        match self.reach {
            Reach::All => vec![format!("{}/topic/#", self.prefix)],
            Reach::Own if self.subscribers > self.topics => vec![self.topic(subscriber % self.topics)],
            Reach::Own => (subscriber..self.topics)
                .step_by(self.subscribers)
                .map(|topic| self.topic(topic))
                .collect(),
        }
    }

    /// How many subscribers get a message of a topic.
    pub(super) fn fan_out(&self, topic: usize) -> u64 {
        let count = match self.reach {
            Reach::All => self.subscribers,
            Reach::Own if self.subscribers > self.topics => (topic..self.subscribers).step_by(self.topics).count(),
            Reach::Own => usize::from(self.subscribers > 0),
        };
        count as u64
    }

    /// A client's name.
    pub(super) fn client(&self, role: &str, number: usize) -> String {
        format!("{}-{role}-{number}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(publishers: usize, subscribers: usize, topics: usize, reach: Reach) -> Plan {
        Plan {
            name: "live",
            broker: "127.0.0.1:1883".parse().unwrap(),
            version: Version::V5,
            qos: 1,
            publishers,
            subscribers,
            topics,
            reach,
            size: 64,
            window: 1,
            ahead: 0,
            interval: None,
            count: None,
            measured: Duration::ZERO,
            warmup: Duration::ZERO,
            persistent: false,
            prefix: "b".into(),
            username: None,
            password: None,
            threads: 1,
            run: 1,
        }
    }

    #[test]
    fn what_is_expected_is_what_the_filters_match() {
        for (publishers, subscribers, topics) in
            [(10, 10, 10), (3, 7, 2), (2, 3, 11), (1, 50, 1), (10, 1, 10), (4, 0, 4)]
        {
            for reach in [Reach::Own, Reach::All] {
                let plan = plan(publishers, subscribers, topics, reach);
                for topic in 0..topics {
                    let name = plan.topic(topic);
                    let matching = (0..subscribers)
                        .flat_map(|subscriber| plan.filters(subscriber))
                        .filter(|filter| *filter == name || filter.ends_with('#'))
                        .count();
                    assert_eq!(
                        plan.fan_out(topic),
                        matching as u64,
                        "{publishers} {subscribers} {topics} {reach:?}"
                    );
                }
                let used: usize = (0..publishers).map(|publisher| plan.topics_of(publisher).count()).sum();
                assert!(used >= topics && used <= plan.keys());
            }
        }
    }
}
