//! Accepting, limiting, timing out and stopping connections.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::{Api, Health, HttpLimits, Peer, routes};
use crate::frontend::tls::{Application, Tls};

/// How long a connection that is told to end may take for it.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long the accept loop rests when the system has no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that is served.
pub struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Serves a bound listener from now on, in TLS if there are certificates.
    ///
    /// # Errors
    /// If the listener has no address.
    pub fn start(
        listener: TcpListener,
        tls: Option<Arc<Tls>>,
        api: Arc<Api>,
        health: Arc<dyn Health>,
        limits: HttpLimits,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let permits = Arc::new(Semaphore::new(limits.connections_max));
        let connections = {
            let permits = Arc::clone(&permits);
            Arc::new(move || limits.connections_max.saturating_sub(permits.available_permits()))
        };
        let service = TowerToHyperService::new(warp::service(routes(api, health, connections, limits)));
        let serve = move |stream, peer, place, stopped| {
            let (service, tls) = (service.clone(), tls.clone());
            async move {
                let Some(tls) = tls else {
                    return serve(stream, peer, service, limits, stopped, place).await;
                };
                if let Some(stream) = secure(&tls, stream, peer, limits, stopped.clone()).await {
                    serve(stream, peer, service, limits, stopped, place).await;
                }
            }
        };
        let task = tokio::spawn(accept(listener, limits, permits, stopped, serve));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more, lets requests under way end within the limit, and cuts the rest.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the HTTP listener did not stop in order");
        }
    }
}

/// A connection's place in the counts; given back when it is dropped.
struct Place {
    _permit: tokio::sync::OwnedSemaphorePermit,
    address: IpAddr,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Place {
    fn take(
        permits: &Arc<Semaphore>,
        counts: &Arc<Mutex<HashMap<IpAddr, usize>>>,
        address: IpAddr,
        per_address: usize,
    ) -> Option<Self> {
        let permit = Arc::clone(permits).try_acquire_owned().ok()?;
        {
            let mut counted = counts.lock();
            let count = counted.entry(address).or_insert(0);
            if *count >= per_address {
                return None;
            }
            *count += 1;
        }
        Some(Self {
            _permit: permit,
            address,
            counts: Arc::clone(counts),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counted = self.counts.lock();
        if let Some(count) = counted.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counted.remove(&self.address);
            }
        }
    }
}

async fn accept<F>(
    listener: TcpListener,
    limits: HttpLimits,
    permits: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
    serve: impl Fn(TcpStream, SocketAddr, Place, watch::Receiver<bool>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let counts = Arc::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Either the peer is gone already, or the process has no descriptors left: both pass.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let address = peer.ip().to_canonical();
        let most = limits.connections_per_address_max;
        let Some(place) = Place::take(&permits, &counts, address, most) else {
            tracing::warn!(%peer, "too many connections; this one was closed");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "no TCP_NODELAY");
        }
        connections.spawn(serve(stream, peer, place, stopped.clone()));
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.stop_timeout, ended).await.is_err() {
        tracing::warn!("requests did not end in time and were cut");
    }
    connections.shutdown().await;
}

/// When a connection was last of use: with a request under way it is, without one since the last one ended.
struct Activity {
    began: Instant,
    under_way: AtomicUsize,
    last_ms: AtomicU64,
}

impl Activity {
    fn idle_for(&self) -> Option<Duration> {
        if self.under_way.load(Ordering::Acquire) > 0 {
            return None;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::Acquire));
        Some(self.began.elapsed().saturating_sub(last))
    }
}

struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ms.store(now, Ordering::Release);
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The stream inside TLS, if the handshake succeeds in the time that a request may take to arrive.
async fn secure(
    tls: &Tls,
    stream: TcpStream,
    peer: SocketAddr,
    limits: HttpLimits,
    mut stopped: watch::Receiver<bool>,
) -> Option<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    // On the heap, because it is large and soon gone.
    let handshake = Box::pin(tls.accept(Application::Http, stream));
    tokio::select! {
        ended = tokio::time::timeout(limits.request_timeout, handshake) => match ended {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::info!(%peer, "a connection is not opened: {error}"),
            Err(_) => tracing::info!(%peer, "a connection is not opened: the handshake did not end in time"),
        },
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    None
}

async fn serve<I, S, B>(
    stream: I,
    peer: SocketAddr,
    service: S,
    limits: HttpLimits,
    mut stopped: watch::Receiver<bool>,
    _place: Place,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = hyper::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let activity = Arc::new(Activity {
        began: Instant::now(),
        under_way: AtomicUsize::new(0),
        last_ms: AtomicU64::new(0),
    });
    let counted = {
        let activity = Arc::clone(&activity);
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            let under_way = UnderWay::begin(&activity);
            let answer = service.call(request);
            async move {
                let answer = answer.await;
                drop(under_way);
                answer
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.idle_timeout)
        .max_concurrent_streams(100);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), counted));
    loop {
        // With a request under way there is nothing to time; look again later.
        let rest = activity
            .idle_for()
            .map_or(limits.idle_timeout, |idle| limits.idle_timeout.saturating_sub(idle));
        if rest.is_zero() {
            break;
        }
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "an HTTP connection ended");
                }
                return;
            }
            _ = stopped.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(rest) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    if *stopped.borrow() {
        // How long this may take is the accept loop's decision; it cuts what is left.
        connection.await.ok();
    } else {
        tokio::time::timeout(GOODBYE, connection).await.ok();
    }
}
