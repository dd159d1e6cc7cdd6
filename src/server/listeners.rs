//! The listeners of a server: all are bound before one is served, all are stopped together.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ServerError, failed};
use crate::config::Listener;
use crate::frontend::http::{Api, Health, HttpLimits, HttpServer};
use crate::frontend::mqtt;
use crate::frontend::mqtt::listener::Transport;
use crate::frontend::tls::Tls;

/// How long connections have to end at a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A listener that is bound and not served.
pub(super) struct Bound {
    listener: Listener,
    socket: TcpListener,
    address: SocketAddr,
}

/// Binds all addresses.
///
/// # Errors
/// The text names the option to change.
pub(super) async fn bind(listeners: &[(Listener, SocketAddr)]) -> Result<Vec<Bound>, ServerError> {
    let mut bound = Vec::with_capacity(listeners.len());
    for &(listener, address) in listeners {
        let socket = TcpListener::bind(address).await.map_err(|error| {
            failed(format!(
                "cannot listen on {address} for {listener}: {error}; stop what uses the port, or choose another with \
                 --{listener} ADDR:PORT"
            ))
        })?;
        let address = socket.local_addr().map_err(failed)?;
        bound.push(Bound {
            listener,
            socket,
            address,
        });
    }
    Ok(bound)
}

/// What is served.
pub(super) struct Frontends {
    pub(super) mqtt: Arc<mqtt::Frontend>,
    pub(super) api: Arc<Api>,
    pub(super) health: Arc<dyn Health>,
    pub(super) limits: HttpLimits,
    /// There if a listener needs it.
    pub(super) tls: Option<Arc<Tls>>,
}

/// Listeners that are served; displayed as lines of the greeting.
pub(super) struct Listeners {
    addresses: Vec<(Listener, SocketAddr)>,
    mqtt: Arc<mqtt::Frontend>,
    mqtt_tasks: JoinSet<()>,
    stop_mqtt: watch::Sender<bool>,
    http: Vec<HttpServer>,
}

impl Listeners {
    /// Serves all of them from now on.
    pub(super) fn start(bound: Vec<Bound>, frontends: Frontends) -> Result<Self, ServerError> {
        let Frontends {
            mqtt,
            api,
            health,
            limits,
            tls,
        } = frontends;
        let (stop_mqtt, stopped) = watch::channel(false);
        let mut started = Self {
            addresses: bound.iter().map(|bound| (bound.listener, bound.address)).collect(),
            mqtt,
            mqtt_tasks: JoinSet::new(),
            stop_mqtt,
            http: Vec::new(),
        };
        let secure = |listener| {
            // The settings say so before it comes to this.
            let missing = || failed(format!("the listener `{listener}` needs a certificate"));
            tls.clone().ok_or_else(missing)
        };
        for Bound { listener, socket, .. } in bound {
            let transport = match listener {
                Listener::Mqtt => Transport::Tcp,
                Listener::MqttWs => Transport::WebSocket,
                Listener::MqttTls => Transport::Tls(secure(listener)?),
                Listener::MqttWss => Transport::SecureWebSocket(secure(listener)?),
                Listener::Http | Listener::Https => {
                    let tls = (listener == Listener::Https).then(|| secure(listener)).transpose()?;
                    let server = HttpServer::start(socket, tls, Arc::clone(&api), Arc::clone(&health), limits);
                    started.http.push(server.map_err(failed)?);
                    continue;
                }
            };
            let mut stopped = stopped.clone();
            let listening = Arc::clone(&started.mqtt).listen_over(transport, socket, async move {
                // A dropped sender is a stop as well.
                stopped.wait_for(|stop| *stop).await.ok();
            });
            started.mqtt_tasks.spawn(listening);
        }
        Ok(started)
    }

    /// Where a listener listens, if it is on.
    pub(super) fn address(&self, listener: Listener) -> Option<SocketAddr> {
        let mut addresses = self.addresses.iter();
        addresses
            .find(|(other, _)| *other == listener)
            .map(|(_, address)| *address)
    }

    /// Accepts nothing more, and ends the connections.
    pub(super) async fn stop(mut self) {
        self.stop_mqtt.send_replace(true);
        self.mqtt.stop();
        let ended = async { while self.mqtt_tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!("some MQTT connections did not end in time");
        }
        let stopping: JoinSet<()> = self.http.into_iter().map(HttpServer::stop).collect();
        stopping.join_all().await;
    }
}

impl fmt::Display for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (listener, address) in &self.addresses {
            let (scheme, path) = match listener {
                Listener::Mqtt | Listener::MqttTls => ("", ""),
                Listener::MqttWs => ("ws://", "/mqtt"),
                Listener::MqttWss => ("wss://", "/mqtt"),
                Listener::Http => ("http://", "/api"),
                Listener::Https => ("https://", "/api"),
            };
            let name = listener.name().to_uppercase();
            writeln!(f, "  {name:<11} {scheme}{address}{path}")?;
        }
        Ok(())
    }
}
