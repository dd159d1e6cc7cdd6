//! The HTTP API inside TLS, as HTTP/1.1 and as HTTP/2.

use bytes::Bytes;
use evermq::config::Listener;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::certificates::connect;
use crate::world::World;

fn log_in() -> Request<Full<Bytes>> {
    let params = json!({"username": "ADMIN", "password": "ADMIN"});
    let body = json!({"action": "createSession", "params": params}).to_string();
    Request::post("https://localhost/api")
        .header("Host", "localhost")
        .header("Content-Type", "application/json")
        .body(Full::from(body))
        .unwrap()
}

async fn check(response: hyper::Response<Incoming>) {
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["errorCode"], 0, "{answer}");
    assert!(
        answer["authToken"].is_string() || answer["result"]["authToken"].is_string(),
        "{answer}"
    );
}

#[tokio::test]
async fn the_api_speaks_http_1_1_inside_tls() {
    let world = World::start().await;
    for protocols in [&["http/1.1"][..], &[]] {
        let connector = world.authority.client(None, protocols);
        let stream = connect(&connector, world.address(Listener::Https)).await.unwrap();
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(chosen.is_some(), !protocols.is_empty());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        check(sender.send_request(log_in()).await.unwrap()).await;
        check(sender.send_request(log_in()).await.unwrap()).await;
    }
    world.server.stop().await.unwrap();
}

#[tokio::test]
async fn the_api_speaks_http_2_to_those_who_ask_for_it() {
    let world = World::start().await;
    let connector = world.authority.client(None, &["http/1.1", "h2"]);
    let stream = connect(&connector, world.address(Listener::Https)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    check(sender.send_request(log_in()).await.unwrap()).await;
    check(sender.send_request(log_in()).await.unwrap()).await;
    world.server.stop().await.unwrap();
}
