//! A server in this process with every listener on a free port, and clients for each of them.

use std::net::SocketAddr;
use std::path::PathBuf;

use evermq::config::{Config, Listener, ServeArgs};
use evermq::server::Server;
use futures_util::{SinkExt, StreamExt};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::certificates::{self, Authority};
use crate::client::{Level, RawClient, Stream};

pub(crate) const FREE: &str = "127.0.0.1:0";

/// The ways MQTT travels.
pub(crate) const TRANSPORTS: [Listener; 4] = [Listener::Mqtt, Listener::MqttWs, Listener::MqttTls, Listener::MqttWss];

/// A running server.
pub(crate) struct World {
    dir: TempDir,
    pub(crate) authority: Authority,
    pub(crate) server: Server,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with("", false).await
    }

    /// A server with `settings` in its file; with `client_ca`, its own authority is that of its clients.
    pub(crate) async fn start_with(settings: &str, client_ca: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let authority = Authority::new();
        authority.write(&path("authority.pem"));
        authority
            .sign("localhost")
            .write(&path("certificate.pem"), &path("key.pem"));
        std::fs::write(path("evermq.toml"), settings).unwrap();
        let free = || Some(FREE.to_owned());
        let args = ServeArgs {
            data_dir: Some(path("data")),
            mqtt: free(),
            mqtt_ws: free(),
            mqtt_tls: free(),
            mqtt_wss: free(),
            http: free(),
            https: free(),
            tls_cert: Some(path("certificate.pem")),
            tls_key: Some(path("key.pem")),
            tls_client_ca: client_ca.then(|| path("authority.pem")),
            config: Some(path("evermq.toml")),
            ..ServeArgs::default()
        };
        let config = Config::load(&args, |_| None).unwrap();
        let server = Server::start(&config).await.unwrap();
        Self { dir, authority, server }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn address(&self, listener: Listener) -> SocketAddr {
        self.server.address(listener).expect("it is on")
    }

    /// An MQTT client that has not said anything yet, over any transport.
    pub(crate) async fn open(&self, listener: Listener, level: Level) -> RawClient {
        let address = self.address(listener);
        let connector = self.authority.client(None, &[]);
        match listener {
            Listener::MqttWs => RawClient::over(as_bytes(self.websocket().await), level),
            Listener::MqttTls => RawClient::over(certificates::connect(&connector, address).await.unwrap(), level),
            Listener::MqttWss => {
                let stream = secure_websocket(&connector, address).await;
                RawClient::over(as_bytes(stream), level)
            }
            _ => RawClient::open(address, level).await,
        }
    }

    pub(crate) async fn client(&self, listener: Listener, level: Level, client_id: &str) -> RawClient {
        self.open(listener, level).await.greet(client_id, true).await.0
    }

    /// A WebSocket with the subprotocol.
    pub(crate) async fn websocket(&self) -> WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(self.address(Listener::MqttWs)).await.unwrap();
        upgrade(stream, "/mqtt", Some("mqtt")).await.unwrap()
    }
}

pub(crate) async fn secure_websocket(
    connector: &TlsConnector,
    address: SocketAddr,
) -> WebSocketStream<impl Stream + 'static> {
    let stream = certificates::connect(connector, address).await.unwrap();
    upgrade(stream, "/mqtt", Some("mqtt")).await.unwrap()
}

/// The client's side of the opening handshake.
pub(crate) async fn upgrade<S: Stream>(
    stream: S,
    path: &str,
    subprotocol: Option<&'static str>,
) -> Result<WebSocketStream<S>, Error> {
    let mut request = format!("ws://localhost{path}").into_client_request()?;
    if let Some(name) = subprotocol {
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static(name));
    }
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
    Ok(socket)
}

/// A WebSocket as a stream of bytes; what is written in one piece goes out as one message, if it is not too large.
pub(crate) fn as_bytes<S: Stream + 'static>(socket: WebSocketStream<S>) -> DuplexStream {
    let (here, there) = duplex(64 << 10);
    let (mut from_client, mut to_client) = tokio::io::split(there);
    let (mut sink, mut source) = socket.split();
    tokio::spawn(async move {
        let mut piece = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut piece).await {
            if sink.send(Message::binary(piece[..count].to_vec())).await.is_err() {
                return;
            }
        }
        sink.close().await.ok();
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) => {
                    if to_client.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Message::Close(_) => {}
                other => panic!("MQTT in {other:?}"),
            }
        }
        to_client.shutdown().await.ok();
    });
    here
}
