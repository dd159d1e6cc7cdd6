//! Accepting connections, and what happens on them before MQTT begins.
//!
//! **Invariants**
//! - A connection has its place among all from the moment it was accepted, so handshakes count as well.
//! - A handshake holds up nobody but its own client, and ends within the time that a CONNECT has.
//! - What a plain TCP connection costs does not depend on there being other kinds.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::upgrade::upgrade;
use super::{Frontend, connection};
use crate::frontend::tls::{Application, Tls};

/// What lies between TCP and MQTT on a listener.
#[derive(Clone)]
pub enum Transport {
    /// Nothing.
    Tcp,
    /// WebSocket.
    WebSocket,
    /// TLS.
    Tls(Arc<Tls>),
    /// WebSocket in TLS.
    SecureWebSocket(Arc<Tls>),
}

impl Frontend {
    /// Serves the clients of one TCP listener until `shutdown` is ready, then ends the connections of all listeners.
    pub async fn listen(self: Arc<Self>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        self.listen_over(Transport::Tcp, listener, shutdown).await;
    }

    /// [`Frontend::listen`], for any transport.
    pub async fn listen_over(
        self: Arc<Self>,
        transport: Transport,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        // Nagle's delay would hold back replies that go out alone.
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::debug!(%peer, %error, "a connection ended before it was served");
                            continue;
                        }
                        self.spawn(&mut tasks, &transport, stream, peer);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be accepted");
                        // Out of file descriptors: the error comes again at once until somebody leaves.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the task of a connection failed");
                    }
                }
            }
        }
        drop(listener);
        self.stop();
        let ended = tokio::time::timeout(self.settings.stop_timeout, async {
            while tasks.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::warn!(count = tasks.len(), "connections did not end in time and are cut off");
        }
    }

    /// A task for each connection, of a kind of its own: one for all would be as large as the largest.
    fn spawn(self: &Arc<Self>, tasks: &mut JoinSet<()>, transport: &Transport, stream: TcpStream, peer: SocketAddr) {
        let frontend = Arc::clone(self);
        match transport {
            Transport::Tcp => tasks.spawn(frontend.serve(stream, peer)),
            Transport::WebSocket => tasks.spawn(async move {
                frontend.serve_after(upgrade(stream), peer).await;
            }),
            Transport::Tls(tls) => {
                let tls = Arc::clone(tls);
                tasks.spawn(async move {
                    let secure = async move { tls.accept(Application::Mqtt, stream).await.map(Box::new) };
                    frontend.serve_after(secure, peer).await;
                })
            }
            Transport::SecureWebSocket(tls) => {
                let tls = Arc::clone(tls);
                tasks.spawn(async move {
                    let secure =
                        async move { upgrade(Box::new(tls.accept(Application::WebSocket, stream).await?)).await };
                    frontend.serve_after(secure, peer).await;
                })
            }
        };
    }

    /// Serves the client of the stream that a handshake brings.
    async fn serve_after<S>(self: &Arc<Self>, handshake: impl Future<Output = io::Result<S>> + Send, peer: SocketAddr)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    {
        let Some(_permit) = self.admit(peer) else {
            return;
        };
        // On the heap, because it is large and soon gone.
        if let Some(stream) = Box::pin(self.await_handshake(handshake, peer)).await {
            connection::serve(self, stream, peer).await;
        }
    }

    async fn await_handshake<S>(&self, handshake: impl Future<Output = io::Result<S>>, peer: SocketAddr) -> Option<S> {
        let clock = self.broker.clock();
        let timeout = clock.sleep_until(clock.now() + self.settings.connect_timeout);
        tokio::select! {
            stream = handshake => match stream {
                Ok(stream) => return Some(stream),
                Err(error) => tracing::info!(%peer, "a connection is not opened: {error}"),
            },
            () = timeout => tracing::info!(%peer, "a connection is not opened: the handshake did not end in time"),
            () = self.stopped() => {}
        }
        None
    }
}
