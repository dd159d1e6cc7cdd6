//! The loop over a store whose durability, space and failures the test decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::connection::Serving;
use super::raw::{Level, RawClient, Received, ack, connect, publish};
use super::{Authentication, Authenticator, Credentials, Frontend, Identity, Settings};
use crate::broker::{Broker, BrokerSettings};
use crate::clock::Clock;
use crate::config::{ClientCertificates, TlsFiles};
use crate::frontend::mqtt::websocket::WebSocket;
use crate::frontend::tls::Tls;
use crate::store::memory::MemoryStore;

struct Open;

impl Authenticator for Open {
    fn authenticate(&self, _: Credentials) -> Authentication<'_> {
        Box::pin(async { Ok(Identity::default()) })
    }
}

async fn frontend(clock: &Clock) -> (Arc<MemoryStore>, Arc<Frontend>) {
    let store = MemoryStore::new(clock.clone());
    let broker = Broker::open(Arc::clone(&store) as _, clock.clone(), BrokerSettings::default())
        .await
        .unwrap();
    (store, Frontend::new(broker, Settings::default(), Arc::new(Open)))
}

async fn listening() -> (Arc<MemoryStore>, std::net::SocketAddr) {
    let (store, frontend) = frontend(&Clock::system()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(frontend.listen(listener, std::future::pending()));
    (store, address)
}

async fn hello(address: std::net::SocketAddr, level: Level, client_id: &str, clean: bool) -> RawClient {
    RawClient::hello(address, level, client_id, clean).await.0
}

/// What an idle connection costs, besides what the system and the broker hold for it.
#[tokio::test]
async fn the_future_of_a_connection_is_small() {
    let (_, frontend) = frontend(&Clock::system()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let peer = stream.peer_addr().unwrap();
    let future = frontend.serve(stream, peer);
    let state = size_of::<Serving<TcpStream>>();
    let bytes = size_of_val(&future) + state;
    assert!(bytes <= 1_536, "{bytes} bytes, {state} of them boxed");
}

/// The same over the other transports, besides what rustls holds.
#[tokio::test]
async fn a_handshake_leaves_nothing_in_the_future_of_a_connection() {
    let (_, frontend) = frontend(&Clock::system()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let future = Arc::clone(&frontend).serve_websocket(stream, address);
    let bytes = size_of_val(&future) + size_of::<Serving<WebSocket<TcpStream>>>();
    assert!(bytes <= 2_560, "{bytes} bytes over WebSocket");

    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        certificate: dir.path().join("certificate.pem"),
        key: dir.path().join("key.pem"),
        client_ca: None,
        client_certificates: ClientCertificates::Required,
    };
    std::fs::write(&files.certificate, certificate.cert.pem()).unwrap();
    std::fs::write(&files.key, certificate.signing_key.serialize_pem()).unwrap();
    let tls = Arc::new(Tls::load(files).unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let future = Arc::clone(&frontend).serve_tls(Arc::clone(&tls), stream, address);
    let bytes = size_of_val(&future) + size_of::<Serving<Box<TcpStream>>>();
    assert!(bytes <= 1_792, "{bytes} bytes over TLS");
    let stream = TcpStream::connect(address).await.unwrap();
    let future = frontend.serve_secure_websocket(tls, stream, address);
    let bytes = size_of_val(&future) + size_of::<Serving<WebSocket<Box<TcpStream>>>>();
    assert!(bytes <= 2_560, "{bytes} bytes over WebSocket in TLS");
}

/// Promise 1: an acknowledgement means disk.
#[tokio::test]
async fn nothing_is_acknowledged_or_delivered_before_the_disk_has_it() {
    let (store, address) = listening().await;
    for level in [Level::V311, Level::V5] {
        let mut subscriber = hello(address, level, "s", true).await;
        subscriber.subscribe("t", 2).await;
        let mut publisher = hello(address, level, "p", false).await;
        store.hold();
        publisher.send(&publish(level, "t", b"1", 1, 1, false)).await;
        publisher.send(&publish(level, "t", b"2", 2, 2, false)).await;
        // What waits for the disk holds up nothing else.
        publisher.ping().await;
        subscriber.ping().await;
        store.release();
        publisher.expect(Received::Puback(1, 0)).await;
        publisher.expect(Received::Pubrec(2, 0)).await;
        assert_eq!(subscriber.take().await.payload, b"1");
        assert_eq!(subscriber.take().await.payload, b"2");
        store.hold();
        publisher.send(&ack(0x62, 2)).await;
        publisher.ping().await;
        store.release();
        publisher.expect(Received::Pubcomp(2, 0)).await;
    }
}

/// spec/semantics.md 12: the packet id of a delivery with `QoS` 2 is durable before its PUBLISH, its PUBREC before the
/// PUBREL; replies pass what waits.
#[tokio::test]
async fn a_qos_2_delivery_waits_for_its_packet_id_and_replies_pass_it() {
    let (store, address) = listening().await;
    let mut subscriber = hello(address, Level::V5, "s", false).await;
    subscriber.subscribe("t", 2).await;
    let mut publisher = hello(address, Level::V5, "p", true).await;
    publisher.publish("t", b"first", 2, 1).await;
    let first = subscriber.next().await.message();
    store.hold();
    subscriber.send(&ack(0x50, first.packet_id)).await;
    subscriber.ping().await;
    store.release();
    subscriber.expect(Received::Pubrel(first.packet_id, 0)).await;
    subscriber.send(&ack(0x70, first.packet_id)).await;
    subscriber.ping().await;

    // Absent, it waits; on its return the pull that hands it out has to be stored.
    subscriber.vanish();
    publisher.publish("t", b"second", 2, 1).await;
    publisher.publish("t", b"third", 1, 1).await;
    let mut subscriber = RawClient::open(address, Level::V5).await;
    subscriber.send(&connect(Level::V5, "s", false, u32::MAX)).await;
    assert!(matches!(subscriber.next().await, Received::Connack { code: 0, .. }));
    let mut waited = subscriber.next().await.message();
    assert_eq!((waited.qos, &waited.payload[..]), (2, &b"second"[..]));
    waited = subscriber.next().await.message();
    assert_eq!((waited.qos, &waited.payload[..]), (1, &b"third"[..]));
}

/// Promise 10. v5 [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-4.3.3-9]; v3.1.1 [MQTT-4.8.0-2]
#[tokio::test]
async fn a_full_store_refuses_messages_and_goes_on_when_there_is_room() {
    let (store, address) = listening().await;
    let mut new = hello(address, Level::V5, "new", true).await;
    let mut old = hello(address, Level::V311, "old", true).await;
    new.subscribe("t", 1).await;
    new.publish("t", b"before", 1, 1).await;
    let before = new.next().await.message();
    store.set_full(true);
    new.send(&publish(Level::V5, "t", b"no", 1, 1, false)).await;
    new.expect(Received::Puback(1, 0x97)).await;
    new.send(&publish(Level::V5, "t", b"no", 2, 2, false)).await;
    new.expect(Received::Pubrec(2, 0x97)).await;
    new.send(&publish(Level::V5, "t", b"no", 0, 0, false)).await;
    new.send(&ack(0x40, before.packet_id)).await;
    new.ping().await;
    // 3.1.1 has no way to say it.
    old.send(&publish(Level::V311, "t", b"no", 1, 1, false)).await;
    assert_eq!(old.closed().await, None);
    store.set_full(false);
    new.send(&publish(Level::V5, "t", b"after", 2, 2, false)).await;
    let (mut answered, mut delivered) = (false, false);
    while !answered || !delivered {
        match new.next().await {
            Received::Pubrec(2, 0) => answered = true,
            Received::Publish(message) => {
                assert_eq!(message.payload, b"after");
                delivered = true;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Promise 11.
#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_connections_end() {
    let (store, address) = listening().await;
    let mut new = hello(address, Level::V5, "new", false).await;
    let mut old = hello(address, Level::V311, "old", false).await;
    store.hold();
    new.send(&publish(Level::V5, "t", b"m", 1, 1, false)).await;
    old.send(&publish(Level::V311, "t", b"m", 1, 1, false)).await;
    new.ping().await;
    old.ping().await;
    store.latch("the disk is gone");
    assert_eq!(new.closed().await, Some(0x83));
    assert_eq!(old.closed().await, None);
    let mut late = RawClient::open(address, Level::V5).await;
    late.send(&connect(Level::V5, "late", false, u32::MAX)).await;
    assert!(matches!(late.next().await, Received::Connack { code: 0x88, .. }));
}

/// A connection writes its positions by the clock, without being asked.
#[tokio::test]
async fn positions_are_written_within_the_commit_interval() {
    let clock = Clock::manual(1_800_000_000_000);
    let (store, frontend) = frontend(&clock).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(frontend.listen(listener, std::future::pending()));
    let mut subscriber = hello(address, Level::V5, "s", false).await;
    subscriber.subscribe("t", 1).await;
    let mut publisher = hello(address, Level::V5, "p", true).await;
    publisher.publish("t", b"m", 1, 1).await;
    subscriber.take().await;
    subscriber.ping().await;
    let before = crate::store::Store::mark(&*store);
    for _ in 0..20 {
        clock.advance(Duration::from_millis(100));
        publisher.ping().await;
        subscriber.ping().await;
    }
    assert!(crate::store::Store::mark(&*store) > before);
}

/// A client that floods is held by its stream: nothing is dropped, and nothing piles up here.
#[tokio::test]
async fn a_flood_waits_in_front_of_the_server_and_all_of_it_is_taken_in_the_end() {
    let (store, frontend) = frontend(&Clock::system()).await;
    let (here, there) = tokio::io::duplex(16 << 10);
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    tokio::spawn(frontend.serve(there, peer));
    let (mut reading, mut writing) = tokio::io::split(here);
    writing
        .write_all(&connect(Level::V311, "flood", true, 0))
        .await
        .unwrap();
    let mut connack = [0; 4];
    reading.read_exact(&mut connack).await.unwrap();
    store.hold();
    let count = 60_000_u16;
    let sent = Arc::new(AtomicUsize::new(0));
    let flood = tokio::spawn({
        let sent = Arc::clone(&sent);
        async move {
            for id in 1..=count {
                writing
                    .write_all(&publish(Level::V311, "t", b"m", 1, id, false))
                    .await
                    .unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
            writing
        }
    });
    // Until nothing moves any more.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }
    assert!(before < 20_000, "{before} were taken while nothing could be answered");
    store.release();
    let mut puback = [0; 4];
    for id in 1..=count {
        reading.read_exact(&mut puback).await.unwrap();
        assert_eq!(puback, ack(0x40, id)[..]);
    }
    drop(flood.await.unwrap());
}

/// A client that takes none of its answers and sends on is stuck, whatever still lies in its stream.
/// v5 [MQTT-3.1.2-22]
#[tokio::test]
async fn a_client_that_takes_no_answers_is_not_kept_longer_than_one_that_is_silent() {
    let clock = Clock::manual(1_800_000_000_000);
    let (_, frontend) = frontend(&clock).await;
    let (mut here, there) = tokio::io::duplex(16 << 10);
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let served = tokio::spawn(frontend.serve(there, peer));
    let mut connect = connect(Level::V5, "stuck", true, 0);
    connect[11] = 10;
    here.write_all(&connect).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(here);
    let pings = tokio::spawn(async move {
        let many = [0xC0, 0].repeat(1 << 20);
        drop(writing.write_all(&many).await);
    });
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    // It may have moved before the first look; nothing has after it.
    for _ in 0..2 {
        assert!(!served.is_finished());
        for _ in 0..16 {
            clock.advance(Duration::from_secs(1));
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
    }
    let mut answers = Vec::new();
    reading.read_to_end(&mut answers).await.unwrap();
    assert!(answers.windows(2).any(|two| two == [0xD0, 0]));
    let disconnect = answers.iter().rposition(|byte| *byte == 0xE0).unwrap();
    assert_eq!(answers[disconnect + 2], 0x8D);
    pings.abort();
    served.await.unwrap();
}
