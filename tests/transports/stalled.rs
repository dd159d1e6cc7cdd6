//! Clients that open a connection and then say nothing, or half of something.

use std::sync::Arc;
use std::time::Duration;

use evermq::config::{ClientCertificates, TlsFiles};
use evermq::frontend::http::{Api, Health, HttpLimits, HttpServer, ServerInfo};
use evermq::frontend::mqtt::listener::Transport;
use evermq::frontend::tls::Tls;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::certificates::{Authority, connect};
use crate::client::{Level, PATIENCE, RawClient};
use crate::common::Site;
use crate::world::{as_bytes, secure_websocket, upgrade};

/// The beginning of a TLS handshake record that never ends.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01";

struct Sure;

impl Health for Sure {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

fn certificates() -> (TempDir, Authority, Arc<Tls>) {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new();
    let files = TlsFiles {
        certificate: dir.path().join("certificate.pem"),
        key: dir.path().join("key.pem"),
        client_ca: None,
        client_certificates: ClientCertificates::Required,
    };
    authority.sign("localhost").write(&files.certificate, &files.key);
    let tls = Arc::new(Tls::load(files).unwrap());
    (dir, authority, tls)
}

#[tokio::test]
async fn a_stalled_handshake_ends_in_the_time_of_a_connect_and_holds_up_nobody() {
    let (_dir, authority, tls) = certificates();
    for (transport, half) in [
        (Transport::Tls(Arc::clone(&tls)), HALF_A_HELLO),
        (Transport::SecureWebSocket(Arc::clone(&tls)), HALF_A_HELLO),
        (Transport::WebSocket, &b"GET /mqtt HTTP/1.1\r\nHost: "[..]),
    ] {
        let site = Site::by_hand().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let frontend = Arc::clone(&site.frontend);
        tokio::spawn(frontend.listen_over(transport.clone(), listener, std::future::pending()));

        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut stalled = TcpStream::connect(address).await.unwrap();
        stalled.write_all(half).await.unwrap();

        let connector = authority.client(None, &[]);
        let client = match transport {
            Transport::Tls(_) => RawClient::over(connect(&connector, address).await.unwrap(), Level::V5),
            Transport::SecureWebSocket(_) => {
                RawClient::over(as_bytes(secure_websocket(&connector, address).await), Level::V5)
            }
            _ => {
                let stream = TcpStream::connect(address).await.unwrap();
                RawClient::over(
                    as_bytes(upgrade(stream, "/mqtt", Some("mqtt")).await.unwrap()),
                    Level::V5,
                )
            }
        };
        let (mut client, _) = client.greet("c", true).await;
        client.subscribe("t", 1).await;
        assert_eq!(site.frontend.connection_count(), 3, "handshakes count");

        site.pass(Duration::from_secs(11)).await;
        for stream in [&mut silent, &mut stalled] {
            let end = timeout(PATIENCE, stream.read(&mut [0; 64]))
                .await
                .expect("an end in time");
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        }
        client.ping().await;
        client.goodbye().await;
    }
}

#[tokio::test]
async fn a_stalled_handshake_of_https_ends_in_the_time_of_a_request() {
    let site = Site::start().await;
    let (_dir, authority, tls) = certificates();
    let api = Arc::new(Api {
        broker: site.broker.clone(),
        info: ServerInfo::default(),
        defaults: Arc::default(),
        strict_params: false,
    });
    let limits = HttpLimits {
        request_timeout: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = HttpServer::start(listener, Some(tls), api, Arc::new(Sure), limits).unwrap();
    let mut stalled = TcpStream::connect(server.local_addr()).await.unwrap();
    stalled.write_all(HALF_A_HELLO).await.unwrap();
    let connector = authority.client(None, &[]);
    let mut served = connect(&connector, server.local_addr()).await.unwrap();
    let end = timeout(PATIENCE, stalled.read(&mut [0; 64]))
        .await
        .expect("an end in time");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    served
        .write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    served.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    server.stop().await;
}
