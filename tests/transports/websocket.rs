//! Section 6 of both versions: MQTT over WebSocket.

use std::time::Duration;

use evermq::config::Listener;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::{LEVELS, Level, PATIENCE, Received, connect, frame, publish, subscribe};
use crate::world::{TRANSPORTS, World, upgrade};

type Socket = WebSocketStream<TcpStream>;

async fn next(socket: &mut Socket) -> Option<Message> {
    let message = timeout(PATIENCE, socket.next()).await.expect("a message in time");
    message.map(|message| message.unwrap())
}

/// So many bytes, from as many binary messages as it takes.
async fn bytes(socket: &mut Socket, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        match next(socket).await {
            Some(Message::Binary(bytes)) => got.extend_from_slice(&bytes),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got.len(), count);
    got
}

/// Expects the closing handshake and then the end.
async fn closed(socket: &mut Socket) -> CloseCode {
    let code = match next(socket).await {
        Some(Message::Close(Some(CloseFrame { code, .. }))) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(next(socket).await, None);
    code
}

/// A frame of an unfinished message, or of its end.
fn piece(opcode: Data, payload: &[u8], is_final: bool) -> Message {
    Message::Frame(Frame::message(payload.to_vec(), OpCode::Data(opcode), is_final))
}

#[tokio::test]
async fn every_transport_carries_every_qos_in_both_directions_and_to_every_other() {
    let world = World::start().await;
    for (level, from) in LEVELS
        .into_iter()
        .zip(TRANSPORTS)
        .chain([(Level::V5, Listener::MqttTls), (Level::V311, Listener::MqttWss)])
    {
        let mut publisher = world.client(from, level, "publisher").await;
        for to in TRANSPORTS {
            let mut subscriber = world.client(to, level, "subscriber").await;
            for qos in [0, 1, 2] {
                subscriber.subscribe("a/+", qos).await;
                publisher.publish("a/b", &[qos; 300], qos, 7).await;
                let message = subscriber.take().await;
                assert_eq!((message.qos, message.payload), (qos, vec![qos; 300]));
            }
            subscriber.ping().await;
            subscriber.goodbye().await;
        }
        publisher.goodbye().await;
    }
    world.server.stop().await.unwrap();
}

/// v5 [MQTT-6.0.0-2]; v3.1.1 [MQTT-6.0.0-2]
#[tokio::test]
async fn packets_may_span_frames_and_messages_and_several_may_share_one() {
    let world = World::start().await;
    let mut socket = world.websocket().await;
    let hello = connect(Level::V311, "w", true, 0);
    for byte in &hello {
        socket.send(Message::binary(vec![*byte])).await.unwrap();
    }
    assert_eq!(bytes(&mut socket, 4).await, [0x20, 2, 0, 0]);

    // Two packets and the beginning of a third in one frame, its rest in a message of three frames.
    let third = publish(Level::V311, "t", b"third", 0, 0, false);
    let first = [
        &subscribe(Level::V311, 5, &[("t", 0)])[..],
        &publish(Level::V311, "t", b"second", 0, 0, false),
        &third[..3],
    ];
    socket.send(Message::binary(first.concat())).await.unwrap();
    socket.feed(piece(Data::Binary, &third[3..4], false)).await.unwrap();
    socket.feed(piece(Data::Continue, &[], false)).await.unwrap();
    socket.send(piece(Data::Continue, &third[4..], true)).await.unwrap();
    let suback = frame(0x90, &[0, 5, 0]);
    let wanted = [suback, publish(Level::V311, "t", b"second", 0, 0, false), third].concat();
    assert_eq!(bytes(&mut socket, wanted.len()).await, wanted);
}

/// v5 [MQTT-6.0.0-1]; v3.1.1 [MQTT-6.0.0-1]
#[tokio::test]
async fn a_text_frame_ends_the_connection_and_publishes_the_will() {
    let world = World::start().await;
    let mut witness = world.client(Listener::Mqtt, Level::V311, "witness").await;
    witness.subscribe("will", 0).await;
    let mut socket = world.websocket().await;
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0b110, 0, 0, 0, 1, b'w'];
    body.extend_from_slice(b"\0\x04will\0\x01m");
    socket.send(Message::binary(frame(0x10, &body))).await.unwrap();
    assert_eq!(bytes(&mut socket, 4).await, [0x20, 2, 0, 0]);
    socket.send(Message::text("\u{c}")).await.unwrap();
    assert_eq!(closed(&mut socket).await, CloseCode::Unsupported);
    assert_eq!(witness.take().await.payload, b"m");
}

#[tokio::test]
async fn pings_are_answered_and_a_close_is() {
    let world = World::start().await;
    let mut socket = world.websocket().await;
    socket
        .send(Message::Ping(b"before CONNECT".to_vec().into()))
        .await
        .unwrap();
    assert_eq!(
        next(&mut socket).await,
        Some(Message::Pong(b"before CONNECT".to_vec().into()))
    );
    let hello = connect(Level::V5, "w", true, 0);
    socket.send(Message::binary(hello)).await.unwrap();
    assert!(matches!(next(&mut socket).await, Some(Message::Binary(_))));
    socket.send(Message::Ping(b"after".to_vec().into())).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(Message::Pong(b"after".to_vec().into())));
    let away = CloseFrame {
        code: CloseCode::Away,
        reason: "".into(),
    };
    socket.close(Some(away)).await.unwrap();
    assert_eq!(closed(&mut socket).await, CloseCode::Away);
}

/// v5 [MQTT-6.0.0-3], [MQTT-6.0.0-4]; v3.1.1 [MQTT-6.0.0-3], [MQTT-6.0.0-4]
#[tokio::test]
async fn a_client_without_the_subprotocol_or_at_another_path_is_refused() {
    let world = World::start().await;
    let ask = async |path: &str, subprotocol| {
        let stream = TcpStream::connect(world.address(Listener::MqttWs)).await.unwrap();
        match upgrade(stream, path, subprotocol).await {
            Ok(_) => 101,
            Err(Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(ask("/mqtt", Some("mqtt")).await, 101);
    assert_eq!(ask("/", Some("mqtt")).await, 101);
    assert_eq!(ask("/mqtt", None).await, 400);
    assert_eq!(ask("/mqtt", Some("chat")).await, 400);
    assert_eq!(ask("/api", Some("mqtt")).await, 404);
}

#[tokio::test]
async fn a_stop_says_disconnect_and_close() {
    let world = World::start().await;
    let mut socket = world.websocket().await;
    socket
        .send(Message::binary(connect(Level::V5, "w", true, 0)))
        .await
        .unwrap();
    assert!(matches!(next(&mut socket).await, Some(Message::Binary(_))));
    let mut secure = world.client(Listener::MqttWss, Level::V5, "secure").await;
    let mut silent = world.websocket().await;
    let stopping = tokio::spawn(world.server.stop());
    let Some(Message::Binary(disconnect)) = next(&mut socket).await else {
        panic!("no DISCONNECT")
    };
    assert_eq!((disconnect[0], disconnect[2]), (0xE0, 0x8B));
    assert_eq!(closed(&mut socket).await, CloseCode::Normal);
    assert_eq!(secure.closed().await, Some(0x8B));
    // Who has not begun is cut off.
    let end = timeout(PATIENCE, silent.next()).await.expect("an end in time");
    assert!(matches!(end, None | Some(Err(_))), "{end:?}");
    timeout(Duration::from_secs(5), stopping)
        .await
        .expect("a stop that waits for nobody")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn large_packets_pass_in_both_directions_in_one_frame_or_many() {
    let world = World::start().await;
    let mut subscriber = world.client(Listener::MqttWss, Level::V5, "subscriber").await;
    subscriber.subscribe("large", 1).await;
    let mut publisher = world.client(Listener::MqttWss, Level::V5, "publisher").await;
    let mut socket = world.websocket().await;
    socket
        .send(Message::binary(connect(Level::V5, "one frame", true, 0)))
        .await
        .unwrap();
    assert!(matches!(next(&mut socket).await, Some(Message::Binary(_))));
    for length in [100 << 10, 1 << 20] {
        let payload: Vec<u8> = (0..length).map(|at| (at * 31 + at / 256) as u8).collect();
        publisher.publish("large", &payload, 1, 1).await;
        assert!(subscriber.take().await.payload == payload);
        let whole = publish(Level::V5, "large", &payload, 1, 2, false);
        socket.send(Message::binary(whole)).await.unwrap();
        assert_eq!(bytes(&mut socket, 4).await, [0x40, 2, 0, 2]);
        assert!(subscriber.take().await.payload == payload);
    }
    subscriber.send(&[0xC0, 0]).await;
    subscriber.expect(Received::Pingresp).await;
}
