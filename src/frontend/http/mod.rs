//! The HTTP frontend: one action endpoint, the health checks and the metrics, on our own accept loop.
//!
//! warp is the router; accepting, limiting, timing out and stopping connections is done here, for all kinds of listeners
//! in one place. Requests become answers in `envelope.rs`.
//!
//! **Invariants**
//! - A connection holds its permit, and its place in its address's count, until it is gone.
//! - No request body is in memory beyond the limit; what is longer is answered 413.
//! - Whatever reached the action layer is answered 200; all other answers carry the same envelope.
//! - After [`HttpServer::stop`] nothing of the frontend runs.

pub mod dispatch;
pub mod envelope;
pub mod error_code;
pub mod login;
pub mod metadata_search;
pub mod mq_message;
pub mod mq_publish;
pub mod mq_retrieve;
pub mod mq_session;
pub mod mq_session_read;
pub mod mq_session_view;
pub mod mq_session_write;
pub mod params;
pub mod payload;
pub mod properties;
pub mod reply;
pub mod time;

mod connection;
mod metrics;
#[cfg(any(test, feature = "testing"))]
pub mod probe;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use warp::http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use warp::http::{Method, Response, StatusCode};
use warp::{Buf, Filter, Stream};

use crate::broker::Broker;
use crate::broker::login::LoginSettings;
pub use connection::HttpServer;
use metrics::{ConnectionCount, Metrics};

/// What describes this server to its clients.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    /// Product and version.
    pub version: String,
    /// Host name.
    pub hostname: String,
    /// Stable id of this installation.
    pub uuid: String,
    /// Addresses of the host.
    pub addresses: Vec<String>,
    /// `autoPurge` or `neverPurge`: what topics have by default.
    pub retention_policy: String,
    /// Unit of the default retention.
    pub retention_unit: String,
    /// Number of units.
    pub retention_period: u32,
    /// `sync` or `interval`: what an acknowledgement means.
    pub durability: String,
    /// When the process started, ms since 1970 UTC.
    pub started_ms: i64,
}

/// What actions reach.
pub struct Api {
    /// The broker.
    pub broker: Broker,
    /// Who we are.
    pub info: ServerInfo,
    /// What a login has unless it says otherwise; also what requests without a login have.
    pub defaults: Arc<LoginSettings>,
    /// Whether an unknown argument is an error and not a warning.
    pub strict_params: bool,
}

/// Whether the server lives and serves; asked by the health checks.
pub trait Health: Send + Sync {
    /// Whether the process is worth keeping; otherwise why not.
    fn live(&self) -> Result<(), String>;
    /// Whether requests can be served; otherwise why not.
    fn ready(&self) -> Result<(), String>;
}

/// Bounds of the frontend.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_address_max: usize,
    /// Requests that are worked on at once; others wait.
    pub requests_max: usize,
    /// The largest request body, in bytes.
    pub body_bytes_max: usize,
    /// How long a request may take to arrive, from its header on.
    pub request_timeout: Duration,
    /// How long a connection may be open without a request.
    pub idle_timeout: Duration,
    /// How long a stop waits for requests under way.
    pub stop_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_address_max: 25,
            requests_max: 1024,
            body_bytes_max: 16 << 20,
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// The peer of a connection, as a request carries it.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

type Answer = Response<Vec<u8>>;

/// Everything that has a path.
fn routes(
    api: Arc<Api>,
    health: Arc<dyn Health>,
    connections: ConnectionCount,
    limits: HttpLimits,
) -> impl Filter<Extract = (Answer,), Error = Infallible> + Clone + Send + Sync + 'static {
    let slots = Arc::new(Semaphore::new(limits.requests_max));
    let metrics = Arc::new(Metrics::new(Arc::clone(&api), connections));
    let action = warp::path!("api")
        .and(warp::post())
        .and(warp::ext::get::<Peer>())
        .and(warp::header::optional::<u64>("content-length"))
        .and(warp::body::stream())
        .then(move |Peer(peer): Peer, length: Option<u64>, body| {
            let (api, slots) = (Arc::clone(&api), Arc::clone(&slots));
            async move {
                let body = match read_body(body, length, limits).await {
                    Ok(body) => body,
                    Err(status) => return refuse(status, None),
                };
                let Ok(_slot) = slots.acquire().await else {
                    return refuse(StatusCode::SERVICE_UNAVAILABLE, None);
                };
                json(StatusCode::OK, envelope::answer(&api, peer, &body).await)
            }
        });
    let live = warp::path!("health").or(warp::path!("health" / "live")).unify();
    let live = {
        let health = Arc::clone(&health);
        live.and(get_or_head()).map(move || report(health.live()))
    };
    let ready = warp::path!("health" / "ready")
        .and(get_or_head())
        .map(move || report(health.ready()));
    let metrics = warp::path!("metrics").and(get_or_head()).map(move || scrape(&metrics));
    let other_method_metrics = warp::path!("metrics").map(|| refuse(StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
    let other_method_api = warp::path!("api").map(|| refuse(StatusCode::METHOD_NOT_ALLOWED, Some("POST")));
    let other_method_health =
        warp::path!("health" / ..)
            .and(warp::path::tail())
            .map(|tail: warp::path::Tail| match tail.as_str() {
                "" | "live" | "ready" => refuse(StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD")),
                _ => refuse(StatusCode::NOT_FOUND, None),
            });
    let unknown = warp::any().map(|| refuse(StatusCode::NOT_FOUND, None));
    action
        .or(live)
        .unify()
        .or(ready)
        .unify()
        .or(metrics)
        .unify()
        .or(other_method_metrics)
        .unify()
        .or(other_method_api)
        .unify()
        .or(other_method_health)
        .unify()
        .or(unknown)
        .unify()
}

fn get_or_head() -> impl Filter<Extract = (), Error = warp::Rejection> + Clone + Send + Sync + 'static {
    warp::method()
        .and_then(|method: Method| async move {
            if method == Method::GET || method == Method::HEAD {
                Ok(())
            } else {
                Err(warp::reject::not_found())
            }
        })
        .untuple_one()
}

/// Reads a body up to the limit. A longer one is read on for a while and thrown away, because many clients look at the
/// answer only when they have sent everything.
async fn read_body<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
    length: Option<u64>,
    limits: HttpLimits,
) -> Result<Vec<u8>, StatusCode> {
    let most = limits.body_bytes_max;
    let mut body = pin!(body);
    let mut taken = Vec::with_capacity(length.map_or(0, |length| length.min(1 << 16) as usize));
    let mut passed = 0;
    let reading = async {
        while let Some(chunk) = poll_fn(|context| body.as_mut().poll_next(context)).await {
            let mut chunk = chunk.map_err(|_| StatusCode::BAD_REQUEST)?;
            while chunk.has_remaining() {
                let piece = chunk.chunk();
                passed += piece.len();
                if passed <= most {
                    taken.extend_from_slice(piece);
                }
                let read = piece.len();
                chunk.advance(read);
            }
            if passed > most.saturating_mul(2) {
                break;
            }
        }
        if passed > most {
            Err(StatusCode::PAYLOAD_TOO_LARGE)
        } else {
            Ok(())
        }
    };
    if length.is_some_and(|length| length > most as u64 * 2) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match tokio::time::timeout(limits.request_timeout, reading).await {
        Ok(read) => read?,
        Err(_) => return Err(StatusCode::REQUEST_TIMEOUT),
    }
    Ok(taken)
}

fn report(state: Result<(), String>) -> Answer {
    match state {
        Ok(()) => json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec()),
        Err(cause) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            serde_json::json!({"status": "unavailable", "cause": cause})
                .to_string()
                .into_bytes(),
        ),
    }
}

fn scrape(metrics: &Metrics) -> Answer {
    match metrics.render() {
        Ok(text) => {
            let mut answer = Response::new(text.into_bytes());
            let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be rendered");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, None)
        }
    }
}

fn refuse(status: StatusCode, allow: Option<&'static str>) -> Answer {
    let message = match status {
        StatusCode::NOT_FOUND => "There is nothing at this address. Actions are sent to /api.",
        StatusCode::METHOD_NOT_ALLOWED => "This method is not allowed here.",
        StatusCode::PAYLOAD_TOO_LARGE => "The request body is too large.",
        StatusCode::REQUEST_TIMEOUT => "The request did not arrive in time.",
        StatusCode::SERVICE_UNAVAILABLE => "The server is stopping.",
        StatusCode::INTERNAL_SERVER_ERROR => "The answer could not be made.",
        _ => "The request could not be read.",
    };
    let mut answer = json(status, envelope::failed(message));
    if let Some(allow) = allow {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    answer
}

fn json(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
