//! MQTT 3.1, 3.1.1 and 5.0: what all connections share; the packets on the wire are in the files beside.
//!
//! [`listener`] accepts connections over TCP, TLS and WebSocket and makes each a stream of bytes; for WebSocket with
//! [`upgrade`] and [`websocket`]. Nothing behind it knows the difference.
//!
//! Bytes become packets in three steps: [`frame`] cuts exactly one frame, [`rules`] or [`fast`] hold it against the
//! specification, and only what passed is decoded: PUBLISH, the acknowledgements and PINGREQ in place by [`fast`],
//! everything else by ntex-mqtt's codec behind [`v3`] and [`v5`]. [`packet::next`] is all of it in one call; [`input`] and
//! [`output`] lend it and the encoders their buffers. [`connection`] is the loop that serves one client, with a file
//! per packet family: [`connect`], [`publish`], [`subscribe`], [`disconnect`].
//!
//! **Invariants**
//! - ntex-mqtt types do not leave this folder.
//! - The codec never sees bytes that [`rules`] has not accepted, and never more or less than one frame.
//! - A connection counts until its task has ended; there are never more than [`Settings::connection_count_max`].

pub mod alias;
pub mod connect;
pub mod connection;
pub mod disconnect;
pub mod fast;
pub mod frame;
pub mod input;
pub mod listener;
pub mod output;
pub mod packet;
pub mod property;
pub mod publish;
pub mod reason;
pub mod rules;
pub mod subscribe;
pub mod upgrade;
pub mod v3;
pub mod v5;
pub mod websocket;

#[cfg(any(test, feature = "testing"))]
pub mod probe;

#[cfg(test)]
pub(crate) mod corpus;
#[cfg(test)]
mod oracle;
#[cfg(test)]
#[path = "../../../tests/common/mqtt.rs"]
mod raw;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::broker::Broker;
use crate::broker::session::Closing;
use frame::PACKET_BYTES_MAX;
use input::Budget;

/// What a frontend is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections at once; those beyond are closed as they come.
    pub connection_count_max: usize,
    /// Time for a CONNECT to come.
    pub connect_timeout: Duration,
    /// `QoS` 1 and 2 messages taken from a 5.0 client at once, at least 1.
    pub receive_maximum: u16,
    /// Topic aliases taken from a client.
    pub topic_alias_maximum: u16,
    /// Largest packet taken from a client, bytes.
    pub packet_bytes_max: u32,
    /// Memory for large packets that are not complete, all connections together, bytes.
    pub unfinished_bytes_max: usize,
    /// Positions wait so long at most before they are written.
    pub position_commit_interval: Duration,
    /// Time for connections to end at a stop.
    pub stop_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connection_count_max: 100_000,
            connect_timeout: Duration::from_secs(10),
            receive_maximum: u16::MAX,
            topic_alias_maximum: u16::MAX,
            packet_bytes_max: PACKET_BYTES_MAX,
            unfinished_bytes_max: 256 << 20,
            position_commit_interval: Duration::from_secs(1),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// What a client shows to be let in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User name of the CONNECT.
    pub username: Option<String>,
    /// Password of the CONNECT; in 5.0 it may come alone.
    pub password: Option<Vec<u8>>,
    /// Who asks.
    pub peer: SocketAddr,
}

/// As whom a client is let in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The account's name; empty for an anonymous client.
    pub account: String,
    /// It may use every session and the system topics.
    pub administrator: bool,
}

/// Why a client is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAuthenticated {
    /// v5 0x86, v3 4.
    BadUserNameOrPassword,
    /// Anonymous clients are not let in, or the account may not log in. v5 0x87, v3 5.
    NotAuthorized,
    /// Nobody can tell now. v5 0x88, v3 3.
    Unavailable,
}

/// An answer that may take its time: a password check runs elsewhere.
pub type Authentication<'a> = Pin<Box<dyn Future<Output = Result<Identity, NotAuthenticated>> + Send + 'a>>;

/// Decides who is let in.
pub trait Authenticator: Send + Sync {
    /// Checks the credentials of a CONNECT.
    fn authenticate(&self, credentials: Credentials) -> Authentication<'_>;
}

/// What all MQTT connections share, on whatever listener.
pub struct Frontend {
    pub(in crate::frontend::mqtt) broker: Broker,
    pub(in crate::frontend::mqtt) settings: Settings,
    pub(in crate::frontend::mqtt) authenticator: Arc<dyn Authenticator>,
    pub(in crate::frontend::mqtt) budget: Budget,
    connections: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
}

impl Frontend {
    /// A frontend without listeners.
    pub fn new(broker: Broker, settings: Settings, authenticator: Arc<dyn Authenticator>) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(settings.unfinished_bytes_max),
            connections: Arc::new(Semaphore::new(
                settings.connection_count_max.min(Semaphore::MAX_PERMITS),
            )),
            stopping: watch::Sender::new(false),
            broker,
            settings,
            authenticator,
        })
    }

    /// Connections that are served now.
    pub fn connection_count(&self) -> usize {
        self.settings.connection_count_max.min(Semaphore::MAX_PERMITS) - self.connections.available_permits()
    }

    /// Ends all connections, in whatever state they are: v5 clients are told so.
    pub fn stop(&self) {
        // In this order: a connection that opens now sees one or the other.
        self.stopping.send_replace(true);
        self.broker.close_connections(Closing::ShuttingDown);
    }

    /// Serves one client on any stream; returns when its connection has ended.
    pub async fn serve<S>(self: Arc<Self>, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        if let Some(_permit) = self.admit(peer) {
            connection::serve(&self, stream, peer).await;
        }
    }

    /// A place among the connections, if there is one.
    fn admit(&self, peer: SocketAddr) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok();
        if permit.is_none() {
            tracing::warn!(%peer, "a connection is refused: there are as many as may be");
        }
        permit
    }

    pub(in crate::frontend::mqtt) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns when the frontend stops.
    pub(in crate::frontend::mqtt) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as `self`.
        drop(stopping.wait_for(|stopping| *stopping).await);
    }
}

/// Serves MQTT on a listener until `shutdown` is ready, then ends the connections.
pub async fn listen(
    broker: Broker,
    listener: TcpListener,
    settings: Settings,
    authenticator: Arc<dyn Authenticator>,
    shutdown: impl Future<Output = ()>,
) {
    Frontend::new(broker, settings, authenticator)
        .listen(listener, shutdown)
        .await;
}
