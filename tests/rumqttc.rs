//! The MQTT client library of Rust programs against the broker, in both versions of the protocol.

#![expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]

mod common;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use common::Site;
use rumqttc::v5;
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5 as packets5;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};

const PATIENCE: Duration = Duration::from_secs(20);

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("an answer in time")
}

/// A client of MQTT 3.1.1 with its event loop, polled by the test.
struct Client4 {
    client: AsyncClient,
    events: EventLoop,
    session_present: bool,
}

impl Client4 {
    async fn connect(address: SocketAddr, client_id: &str, clean: bool) -> Self {
        Self::with(address, client_id, clean, |_| ()).await
    }

    async fn with(address: SocketAddr, client_id: &str, clean: bool, set: impl FnOnce(&mut MqttOptions)) -> Self {
        let mut options = MqttOptions::new(client_id, address.ip().to_string(), address.port());
        options.set_clean_session(clean);
        set(&mut options);
        let (client, events) = AsyncClient::new(options, 64);
        let mut connected = Self {
            client,
            events,
            session_present: false,
        };
        connected.session_present = connected
            .until(|packet| match packet {
                Packet::ConnAck(connack) => Some(connack.session_present),
                _ => None,
            })
            .await;
        connected
    }

    /// Polls until a packet comes that is wanted.
    async fn until<T>(&mut self, wanted: impl Fn(Packet) -> Option<T>) -> T {
        in_time(async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await.unwrap()
                    && let Some(found) = wanted(packet)
                {
                    return found;
                }
            }
        })
        .await
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.client.subscribe(filter, qos).await.unwrap();
        self.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(()))
            .await;
    }

    /// Publishes and waits for the acknowledgement of the level.
    async fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str) {
        self.client.publish(topic, qos, retain, payload).await.unwrap();
        match qos {
            QoS::AtMostOnce => self.ping().await,
            QoS::AtLeastOnce => {
                self.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(()))
                    .await;
            }
            QoS::ExactlyOnce => {
                self.until(|packet| matches!(packet, Packet::PubComp(_)).then_some(()))
                    .await;
            }
        }
    }

    /// What was asked for before has been sent and taken: the broker answers packets in their order.
    async fn ping(&mut self) {
        self.client.subscribe("ping", QoS::AtMostOnce).await.unwrap();
        self.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(()))
            .await;
    }

    async fn messages(&mut self, count: usize) -> Vec<(String, QoS)> {
        let mut taken = Vec::new();
        for _ in 0..count {
            taken.push(
                self.until(|packet| match packet {
                    Packet::Publish(publish) => {
                        Some((String::from_utf8(publish.payload.to_vec()).unwrap(), publish.qos))
                    }
                    _ => None,
                })
                .await,
            );
        }
        taken
    }

    async fn leave(mut self) {
        self.client.disconnect().await.unwrap();
        in_time(async { while self.events.poll().await.is_ok() {} }).await;
    }
}

/// A client of MQTT 5 with its event loop, polled by the test.
struct Client5 {
    client: v5::AsyncClient,
    events: v5::EventLoop,
    session_present: bool,
}

impl Client5 {
    async fn connect(address: SocketAddr, client_id: &str, session_expiry: u32) -> Self {
        let mut options = v5::MqttOptions::new(client_id, address.ip().to_string(), address.port());
        options.set_clean_start(session_expiry == 0);
        options.set_session_expiry_interval(Some(session_expiry));
        let (client, events) = v5::AsyncClient::new(options, 64);
        let mut connected = Self {
            client,
            events,
            session_present: false,
        };
        connected.session_present = connected
            .until(|packet| match packet {
                packets5::Packet::ConnAck(connack) => Some(connack.session_present),
                _ => None,
            })
            .await;
        connected
    }

    async fn until<T>(&mut self, wanted: impl Fn(packets5::Packet) -> Option<T>) -> T {
        in_time(async {
            loop {
                if let v5::Event::Incoming(packet) = self.events.poll().await.unwrap()
                    && let Some(found) = wanted(packet)
                {
                    return found;
                }
            }
        })
        .await
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS5) {
        self.client.subscribe(filter, qos).await.unwrap();
        self.until(|packet| matches!(packet, packets5::Packet::SubAck(_)).then_some(()))
            .await;
    }

    async fn publish(&mut self, topic: &str, qos: QoS5, payload: &str, properties: packets5::PublishProperties) {
        let payload = payload.to_owned();
        self.client
            .publish_with_properties(topic, qos, false, payload, properties)
            .await
            .unwrap();
        self.until(|packet| matches!(packet, packets5::Packet::PubAck(_) | packets5::Packet::PubComp(_)).then_some(()))
            .await;
    }

    async fn message(&mut self) -> packets5::Publish {
        self.until(|packet| match packet {
            packets5::Packet::Publish(publish) => Some(publish),
            _ => None,
        })
        .await
    }

    async fn leave(mut self) {
        self.client.disconnect().await.unwrap();
        in_time(async { while self.events.poll().await.is_ok() {} }).await;
    }
}

#[tokio::test]
async fn a_3_1_1_client_publishes_and_receives_at_each_qos() {
    let site = Site::start().await;
    let mut reader = Client4::connect(site.address, "reader", true).await;
    let mut writer = Client4::connect(site.address, "writer", true).await;
    reader.subscribe("a/+", QoS::ExactlyOnce).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        writer.publish("a/b", qos, false, "hello").await;
        assert_eq!(reader.messages(1).await, [("hello".to_owned(), qos)]);
    }
}

#[tokio::test]
async fn a_3_1_1_session_gets_what_came_while_it_was_away_and_the_broker_crashed() {
    let site = Site::start().await;
    let mut reader = Client4::connect(site.address, "reader", false).await;
    assert!(!reader.session_present);
    reader.subscribe("a/#", QoS::AtLeastOnce).await;
    reader.leave().await;
    let mut writer = Client4::connect(site.address, "writer", true).await;
    for number in 0..5 {
        writer
            .publish("a/b", QoS::AtLeastOnce, false, &number.to_string())
            .await;
    }
    let site = site.crash().await;
    let mut writer = Client4::connect(site.address, "writer", true).await;
    for number in 5..10 {
        writer
            .publish("a/b", QoS::ExactlyOnce, false, &number.to_string())
            .await;
    }
    let mut reader = Client4::connect(site.address, "reader", false).await;
    assert!(reader.session_present);
    let wanted: Vec<_> = (0..10).map(|number| (number.to_string(), QoS::AtLeastOnce)).collect();
    assert_eq!(reader.messages(10).await, wanted);
}

#[tokio::test]
async fn a_retained_message_and_a_will_reach_a_3_1_1_client() {
    let site = Site::start().await;
    let mut writer = Client4::connect(site.address, "writer", true).await;
    writer.publish("state", QoS::AtLeastOnce, true, "on").await;
    let mut reader = Client4::connect(site.address, "reader", true).await;
    reader.client.subscribe("state", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(reader.messages(1).await, [("on".to_owned(), QoS::AtLeastOnce)]);
    reader.subscribe("gone", QoS::AtLeastOnce).await;
    let mortal = Client4::with(site.address, "mortal", true, |options| {
        options.set_last_will(rumqttc::LastWill::new("gone", "farewell", QoS::AtLeastOnce, false));
    })
    .await;
    // The connection ends without a DISCONNECT.
    drop(mortal);
    assert_eq!(reader.messages(1).await, [("farewell".to_owned(), QoS::AtLeastOnce)]);
}

#[tokio::test]
async fn properties_of_mqtt_5_come_along_at_qos_1_and_2() {
    let site = Site::start().await;
    let mut reader = Client5::connect(site.address, "reader", 0).await;
    let mut writer = Client5::connect(site.address, "writer", 0).await;
    reader.subscribe("a", QoS5::ExactlyOnce).await;
    let properties = packets5::PublishProperties {
        message_expiry_interval: Some(1000),
        response_topic: Some("answers".into()),
        correlation_data: Some(vec![0, 255].into()),
        user_properties: vec![("k".into(), "2".into()), ("k".into(), "1".into())],
        content_type: Some("text/plain".into()),
        ..Default::default()
    };
    for qos in [QoS5::AtLeastOnce, QoS5::ExactlyOnce] {
        writer.publish("a", qos, "x", properties.clone()).await;
        let message = reader.message().await;
        assert_eq!((message.qos, &message.payload[..]), (qos, &b"x"[..]));
        let got = message.properties.unwrap();
        assert_eq!(got.response_topic, properties.response_topic);
        assert_eq!(got.correlation_data, properties.correlation_data);
        assert_eq!(got.user_properties, properties.user_properties);
        assert_eq!(got.content_type, properties.content_type);
        assert!(
            got.message_expiry_interval
                .is_some_and(|left| (990..=1000).contains(&left))
        );
    }
}

#[tokio::test]
async fn a_session_of_mqtt_5_stands_after_a_restart() {
    let site = Site::start().await;
    let mut reader = Client5::connect(site.address, "reader", 3600).await;
    assert!(!reader.session_present);
    reader.subscribe("a", QoS5::AtLeastOnce).await;
    reader.leave().await;
    let mut writer = Client5::connect(site.address, "writer", 0).await;
    writer
        .publish("a", QoS5::AtLeastOnce, "kept", packets5::PublishProperties::default())
        .await;
    writer.leave().await;
    let site = site.restart().await;
    let mut reader = Client5::connect(site.address, "reader", 3600).await;
    assert!(reader.session_present);
    assert_eq!(&reader.message().await.payload[..], b"kept");
}

#[tokio::test]
async fn a_shared_subscription_hands_each_message_to_one_client_of_either_version() {
    let site = Site::start().await;
    let mut old = Client4::connect(site.address, "old", true).await;
    let mut new = Client5::connect(site.address, "new", 0).await;
    old.subscribe("$share/g/work", QoS::AtLeastOnce).await;
    new.subscribe("$share/g/work", QoS5::AtLeastOnce).await;
    let mut writer = Client4::connect(site.address, "writer", true).await;
    for number in 0..20 {
        writer
            .publish("work", QoS::AtLeastOnce, false, &number.to_string())
            .await;
    }
    let mut taken = Vec::new();
    in_time(async {
        while taken.len() < 20 {
            tokio::select! {
                event = old.events.poll() => if let Event::Incoming(Packet::Publish(publish)) = event.unwrap() {
                    taken.push(publish.payload);
                },
                event = new.events.poll() => {
                    if let v5::Event::Incoming(packets5::Packet::Publish(publish)) = event.unwrap() {
                        taken.push(publish.payload);
                    }
                },
            }
        }
    })
    .await;
    let mut numbers: Vec<u32> = taken
        .iter()
        .map(|payload| std::str::from_utf8(payload).unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}
