//! MQTT over TLS: who is let in, and new certificates.

use evermq::config::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::certificates::{Authority, connect};
use crate::client::{self, Level, PATIENCE};
use crate::world::World;

/// Whether MQTT is spoken with this client.
async fn is_let_in(world: &World, connector: &TlsConnector) -> bool {
    // With TLS 1.3 a client hears only after its own handshake that it was refused.
    let Ok(mut stream) = connect(connector, world.address(Listener::MqttTls)).await else {
        return false;
    };
    let hello = client::connect(Level::V311, "c", true, 0);
    if stream.write_all(&hello).await.is_err() {
        return false;
    }
    let mut connack = [0; 4];
    match stream.read_exact(&mut connack).await {
        Ok(_) => {
            assert_eq!(connack, [0x20, 2, 0, 0]);
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn without_authorities_clients_need_no_certificate() {
    let world = World::start().await;
    assert!(is_let_in(&world, &world.authority.client(None, &[])).await);
    assert!(is_let_in(&world, &world.authority.client(None, &["mqtt"])).await);
    // A client that expects another protocol, or another server, does not get to MQTT.
    assert!(!is_let_in(&world, &world.authority.client(None, &["http/1.1"])).await);
    assert!(!is_let_in(&world, &Authority::new().client(None, &[])).await);
}

#[tokio::test]
async fn with_authorities_a_client_without_their_certificate_is_refused() {
    let world = World::start_with("", true).await;
    let known = world.authority.sign("device");
    let unknown = Authority::new().sign("device");
    assert!(is_let_in(&world, &world.authority.client(Some(&known), &[])).await);
    assert!(!is_let_in(&world, &world.authority.client(None, &[])).await);
    assert!(!is_let_in(&world, &world.authority.client(Some(&unknown), &[])).await);
}

#[tokio::test]
async fn optional_client_certificates_are_checked_if_they_are_shown() {
    let world = World::start_with("[tls]\nclient_certificates = \"optional\"", true).await;
    let known = world.authority.sign("device");
    let unknown = Authority::new().sign("device");
    assert!(is_let_in(&world, &world.authority.client(Some(&known), &[])).await);
    assert!(is_let_in(&world, &world.authority.client(None, &[])).await);
    assert!(!is_let_in(&world, &world.authority.client(Some(&unknown), &[])).await);
}

#[tokio::test]
async fn a_plain_client_on_a_tls_listener_is_refused_and_others_are_served() {
    let world = World::start().await;
    let mut plain = TcpStream::connect(world.address(Listener::MqttTls)).await.unwrap();
    plain
        .write_all(&client::connect(Level::V311, "c", true, 0))
        .await
        .unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, plain.read_to_end(&mut answer))
        .await
        .expect("an end in time")
        .unwrap();
    // An alert, 21, and nothing more.
    assert_eq!((answer.first(), answer.len()), (Some(&21), 7), "{answer:X?}");
    assert!(is_let_in(&world, &world.authority.client(None, &[])).await);
}

#[tokio::test]
async fn reloaded_certificates_are_for_new_connections_only() {
    let world = World::start().await;
    let mut old = world.client(Listener::MqttTls, Level::V5, "old").await;
    let new = Authority::new();
    let (certificate, key) = (world.file("certificate.pem"), world.file("key.pem"));
    new.sign("localhost").write(&certificate, &key);
    assert!(!is_let_in(&world, &new.client(None, &[])).await);
    world.server.reload().await;
    assert!(is_let_in(&world, &new.client(None, &[])).await);
    assert!(!is_let_in(&world, &world.authority.client(None, &[])).await);

    std::fs::write(&certificate, "nothing of use").unwrap();
    world.server.reload().await;
    assert!(is_let_in(&world, &new.client(None, &[])).await);
    std::fs::remove_file(&key).unwrap();
    world.server.reload().await;
    assert!(is_let_in(&world, &new.client(None, &[])).await);
    old.ping().await;
}
