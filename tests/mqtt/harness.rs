//! The test client itself, against a listener that plays a server with canned bytes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::{Level, RawClient, Received, connect, subscribe};

/// Answers each of `wanted` with its bytes, then ends the connection.
async fn server(script: Vec<(Vec<u8>, Vec<u8>)>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for (wanted, answer) in script {
            let mut got = vec![0; wanted.len()];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(got, wanted);
            stream.write_all(&answer).await.unwrap();
        }
    });
    (address, task)
}

#[tokio::test]
async fn the_client_reads_packets_one_by_one_and_answers_messages() {
    let (address, task) = server(vec![
        (connect(Level::V5, "c", true, 0), vec![0x20, 3, 0, 0, 0]),
        // SUBACK, and a message with QoS 1 right behind it.
        (
            subscribe(Level::V5, 0x7777, &[("t", 1)]),
            b"\x90\x04\x77\x77\0\x01\x32\x07\0\x01t\0\x09\0m".to_vec(),
        ),
        (vec![0x40, 2, 0, 9], vec![0xE0, 2, 0x8E, 0]),
    ])
    .await;
    let (mut client, present) = RawClient::hello(address, Level::V5, "c", true).await;
    assert!(!present);
    client.subscribe("t", 1).await;
    let message = client.take().await;
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("t", &b"m"[..]));
    assert_eq!(client.closed().await, Some(0x8E));
    task.await.unwrap();
}

#[tokio::test]
async fn a_3_1_1_client_knows_no_reasons() {
    let (address, task) = server(vec![(vec![0xC0, 0], vec![0x20, 2, 0, 5])]).await;
    let mut client = RawClient::open(address, Level::V311).await;
    client.send(&[0xC0, 0]).await;
    let refused = Received::Connack {
        session_present: false,
        code: 5,
        v5: None,
    };
    client.expect(refused).await;
    assert_eq!(client.closed().await, None);
    task.await.unwrap();
}
