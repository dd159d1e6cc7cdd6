//! Clients that are connected whenever the program dies, each with a will.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Phase;
use crate::history::History;
use crate::mqtt::{self, Level, RawClient, Received};
use crate::payload::Payload;

/// A client with a will.
pub(crate) struct WillClient {
    pub(crate) name: &'static str,
    pub(crate) topic: String,
    /// Its session ends with its connection.
    clean: bool,
    /// Seconds; with a delay it is 5.0.
    delay: u32,
    /// Rounds whose CONNACK has come.
    accepted: Vec<u64>,
}

impl WillClient {
    pub(crate) fn new(name: &'static str, clean: bool, delay: u32) -> Self {
        Self {
            name,
            topic: format!("will/{name}"),
            clean,
            delay,
            accepted: Vec::new(),
        }
    }

    fn connect(&self, round: u64) -> (Level, Vec<u8>) {
        let will = Payload {
            publisher: self.name.to_owned(),
            connection: 0,
            number: round,
            retain: false,
            topic: self.topic.clone(),
        };
        let level = if self.delay == 0 { Level::V311 } else { Level::V5 };
        let mut body = mqtt::text("MQTT");
        // Will with QoS 1; no keep alive.
        body.extend_from_slice(&[level as u8, 0x0C | u8::from(self.clean) << 1, 0, 0]);
        if level == Level::V5 {
            body.extend_from_slice(&[5, 0x11, 0xFF, 0xFF, 0xFF, 0xFF]);
        }
        body.extend_from_slice(&mqtt::text(self.name));
        if level == Level::V5 {
            body.extend_from_slice(&[5, 0x18]);
            body.extend_from_slice(&self.delay.to_be_bytes());
        }
        body.extend_from_slice(&mqtt::text(&self.topic));
        body.extend_from_slice(&mqtt::text(&will.text(0)));
        (level, mqtt::frame(0x10, &body))
    }

    /// What is wrong with the published wills, empty if nothing is. Each of an accepted connection is there once; those
    /// with a delay are not, as their client always came back in time.
    pub(crate) fn missing(&self, history: &History) -> String {
        let stored = history.topic(&self.topic).iter();
        let stored: Vec<u64> = stored.map(|record| Payload::parse(&record.payload).number).collect();
        assert!(
            stored.is_sorted_by(|a, b| a < b),
            "a will of {} was published twice: {stored:?}",
            self.name
        );
        if self.delay > 0 {
            assert!(stored.is_empty(), "{} was back in time: {stored:?}", self.name);
            return String::new();
        }
        let missing = self.accepted.iter().filter(|round| !stored.contains(round));
        let missing: Vec<_> = missing.map(|round| format!("{} of round {round}", self.name)).collect();
        missing.join(", ")
    }
}

/// Stays until the connection ends.
pub(crate) async fn run(
    client: Arc<Mutex<WillClient>>,
    address: SocketAddr,
    mut phase: watch::Receiver<Phase>,
    round: u64,
) {
    let (level, hello) = client.lock().connect(round);
    let Some(mut connection) = RawClient::try_open(address, level).await else {
        return;
    };
    if !connection.try_send(&hello).await {
        return;
    }
    match connection.next_or_end().await {
        None => return,
        Some(Received::Connack { code: 0, .. }) => client.lock().accepted.push(round),
        Some(other) => panic!("expected an accepting CONNACK, got {other:?}"),
    }
    while *phase.borrow_and_update() != Phase::Quit {
        tokio::select! {
            packet = connection.next_or_end() => {
                assert!(packet.is_none() || packet == Some(crate::SHUTTING_DOWN), "{packet:?}");
                return;
            }
            _ = phase.changed() => {}
        }
    }
    // Normally, so that there is no will.
    connection.try_send(&[0xE0, 0]).await;
}
