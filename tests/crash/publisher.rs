//! A publisher over MQTT that keeps its side of the bargain: it remembers what is not acknowledged across connections,
//! and sends it again with DUP and the same packet id, or its PUBREL.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::mqtt::{self, Level, RawClient, Received};
use crate::payload::Payload;
use crate::random::Random;
use crate::{Phase, SHUTTING_DOWN};

/// What a publisher remembers, as a device would on its flash.
pub(crate) struct Publisher {
    pub(crate) name: String,
    pub(crate) level: Level,
    pub(crate) qos: u8,
    pub(crate) topics: Vec<String>,
    /// Length of its payloads.
    pub(crate) padding: usize,
    /// It makes no pauses.
    pub(crate) hurries: bool,
    /// The server said that there is a session.
    known: bool,
    connection: u64,
    /// Last number used for each topic.
    pub(crate) numbers: HashMap<String, u64>,
    /// Sent and not completed, in the order of the first sending.
    outbox: Vec<Outgoing>,
    /// Topic and payload of what the server has taken over: PUBACK or PUBREC.
    pub(crate) acknowledged: Vec<(String, String)>,
}

struct Outgoing {
    packet_id: u16,
    topic: String,
    payload: Payload,
    /// PUBREC has come, PUBREL was sent.
    released: bool,
}

impl Publisher {
    pub(crate) fn new(name: &str, level: Level, qos: u8, topics: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            level,
            qos,
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            padding: 0,
            hurries: false,
            known: false,
            connection: 0,
            numbers: HashMap::new(),
            outbox: Vec::new(),
            acknowledged: Vec::new(),
        }
    }

    /// Whether nothing waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.outbox.is_empty()
    }

    fn compose(&mut self, random: &mut Random) -> Vec<u8> {
        let at = random.between(0, self.topics.len() as u64 - 1) as usize;
        let topic = self.topics[at].clone();
        let number = self.numbers.entry(topic.clone()).or_insert(0);
        *number += 1;
        let payload = Payload {
            publisher: self.name.clone(),
            connection: self.connection,
            number: *number,
            retain: random.one_in(16),
            topic: topic.clone(),
        };
        // The lowest free id: an id that is used again too early is the danger that is looked for.
        let is_free = |id: &u16| self.outbox.iter().all(|outgoing| outgoing.packet_id != *id);
        let packet_id = (1..=u16::MAX).find(is_free).expect("a free id");
        let outgoing = Outgoing {
            packet_id,
            topic,
            payload,
            released: false,
        };
        let bytes = self.packet(&outgoing, false);
        self.outbox.push(outgoing);
        bytes
    }

    fn packet(&self, outgoing: &Outgoing, dup: bool) -> Vec<u8> {
        let Outgoing { packet_id, payload, .. } = outgoing;
        if outgoing.released {
            return mqtt::ack(0x62, *packet_id);
        }
        let text = payload.text(self.padding);
        let mut bytes = mqtt::publish(
            self.level,
            &outgoing.topic,
            text.as_bytes(),
            self.qos,
            *packet_id,
            payload.retain,
        );
        if dup {
            bytes[0] |= 0x08;
        }
        bytes
    }

    fn connected(&mut self, session_present: bool) -> Vec<Vec<u8>> {
        assert!(
            session_present || !self.known,
            "the session of {} was acknowledged and is lost",
            self.name
        );
        self.known = true;
        self.connection += 1;
        if self.qos == 1 {
            for outgoing in &mut self.outbox {
                outgoing.payload.connection = self.connection;
            }
        }
        self.outbox.iter().map(|outgoing| self.packet(outgoing, true)).collect()
    }

    /// What it answers to a packet.
    fn handle(&mut self, packet: &Received) -> Option<Vec<u8>> {
        let (packet_id, code, completes) = match *packet {
            Received::Puback(packet_id, code) if self.qos == 1 => (packet_id, code, true),
            Received::Pubrec(packet_id, code) => (packet_id, code, false),
            Received::Pubcomp(packet_id, code) => (packet_id, code, true),
            _ => panic!("{} got {packet:?}", self.name),
        };
        let found = self.outbox.iter().position(|outgoing| outgoing.packet_id == packet_id);
        let at = found.unwrap_or_else(|| panic!("{} got {packet:?} for what it did not send", self.name));
        let outgoing = &mut self.outbox[at];
        if self.qos == 1 || !completes {
            assert!(code < 0x80, "{} got {packet:?}", self.name);
            // A PUBREC that comes again after PUBREL was sent is answered by PUBREL again.
            if !outgoing.released {
                let text = outgoing.payload.text(0);
                self.acknowledged.push((outgoing.topic.clone(), text));
            }
        } else {
            assert!(outgoing.released, "{} got {packet:?} before PUBREC", self.name);
            // 0x92, id not found: the PUBREL before the crash was enough.
            assert!(code == 0 || code == 0x92, "{} got {packet:?}", self.name);
        }
        if completes {
            self.outbox.remove(at);
            None
        } else {
            outgoing.released = true;
            Some(mqtt::ack(0x62, packet_id))
        }
    }
}

/// Publishes until the connection ends, or the load does.
pub(crate) async fn run(
    publisher: Arc<Mutex<Publisher>>,
    address: SocketAddr,
    mut phase: watch::Receiver<Phase>,
    mut random: Random,
) {
    let (level, hello, pause_ms) = {
        let publisher = publisher.lock();
        let hello = mqtt::connect(publisher.level, &publisher.name, false, u32::MAX);
        (publisher.level, hello, if publisher.hurries { 1 } else { 15 })
    };
    let Some(mut client) = RawClient::try_open(address, level).await else {
        return;
    };
    if !client.try_send(&hello).await {
        return;
    }
    let session_present = match client.next_or_end().await {
        None => return,
        Some(Received::Connack {
            session_present,
            code: 0,
            ..
        }) => session_present,
        Some(other) => panic!("expected an accepting CONNACK, got {other:?}"),
    };
    let again = publisher.lock().connected(session_present);
    for packet in again {
        if !client.try_send(&packet).await {
            return;
        }
    }
    let window = if pause_ms == 1 { 64 } else { random.between(1, 32) };
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Load => {
                for _ in 0..random.between(1, 12) {
                    let packet = {
                        let mut publisher = publisher.lock();
                        let is_full = publisher.outbox.len() as u64 >= window;
                        (!is_full).then(|| publisher.compose(&mut random))
                    };
                    let Some(packet) = packet else { break };
                    if !client.try_send(&packet).await {
                        return;
                    }
                }
            }
            Phase::Quit if publisher.lock().is_idle() => {
                client.try_send(&[0xE0, 0]).await;
                return;
            }
            Phase::Drain | Phase::Quit => {}
        }
        let pause = tokio::time::sleep(Duration::from_millis(random.between(1, pause_ms)));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                packet = client.next_or_end() => {
                    let Some(packet) = packet else { return };
                    if packet == SHUTTING_DOWN {
                        return;
                    }
                    let answer = publisher.lock().handle(&packet);
                    if let Some(answer) = answer
                        && !client.try_send(&answer).await
                    {
                        return;
                    }
                }
                () = &mut pause, if now == Phase::Load => break,
                _ = phase.changed() => break,
            }
            if now == Phase::Quit && publisher.lock().is_idle() {
                break;
            }
        }
    }
}
