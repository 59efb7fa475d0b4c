//! Connections: a bounded number, each with a deadline for everything.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::limits::network;
use super::visitor::Peer;

/// Connections at a time; more wait until one ends.
const CONNECTIONS_MAX: usize = 512;
/// Of one source; more are closed. Proxies are not counted.
const CONNECTIONS_PER_SOURCE_MAX: usize = 128;
/// For the TLS handshake, and for the head of each request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For the body of a request and all that is done for it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// For a connection as a whole: who reads slowly holds it no longer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// For what is under way when the server ends.
const FAREWELL: Duration = Duration::from_secs(5);
/// Of the head of a request, in bytes.
const HEAD_LEN_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// How connections are served.
#[derive(Clone)]
pub struct Server {
    pub router: Router,
    pub tls: Option<TlsAcceptor>,
    pub proxies: Vec<IpAddr>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// Connections of each source.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// One of them; gives its place back.
struct Place(Arc<Sources>, IpAddr);

impl Sources {
    fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        if *count >= CONNECTIONS_PER_SOURCE_MAX {
            return None;
        }
        *count += 1;
        Some(Place(Arc::clone(self), source))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.1);
            }
        }
    }
}

impl Server {
    /// Serves until `ending` says so, and what is under way then for a few seconds more.
    pub async fn serve(self, listener: TcpListener, mut ending: watch::Receiver<bool>) {
        let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let sources = Arc::new(Sources::default());
        loop {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ended(&mut ending) => break,
            };
            let (stream, peer) = match accepted {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    // Out of descriptors: others end in the meantime.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let is_proxy = self.proxies.contains(&peer);
            let place = sources.take(network(peer));
            if place.is_none() && !is_proxy {
                tracing::debug!("{peer} has too many connections");
                continue;
            }
            let (server, ending) = (self.clone(), ending.clone());
            tokio::spawn(async move {
                server.connection(stream, peer, ending).await;
                drop((place, turn));
            });
        }
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        // Those that do not end in time are cut off.
        drop(tokio::time::timeout(FAREWELL, turns.acquire_many(all)).await);
    }

    async fn connection(&self, stream: TcpStream, peer: IpAddr, ending: watch::Receiver<bool>) {
        drop(stream.set_nodelay(true));
        match &self.tls {
            None => self.requests(stream, peer, ending).await,
            Some(tls) => match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.requests(stream, peer, ending).await,
                Ok(Err(error)) => tracing::debug!("{peer}: TLS: {error}"),
                Err(_) => tracing::debug!("{peer}: no TLS handshake in time"),
            },
        }
    }

    async fn requests<S>(&self, stream: S, peer: IpAddr, mut ending: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request| answer(router.clone(), peer, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_LEN_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = tokio::time::sleep(CONNECTION_TIMEOUT) => return,
            () = ended(&mut ending) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!("{peer}: {error}");
        }
    }
}

/// Until the server is to end.
async fn ended(ending: &mut watch::Receiver<bool>) {
    // It also is when nobody can say so any more.
    drop(ending.wait_for(|is_ending| *is_ending).await);
}

async fn answer(
    router: Router,
    peer: IpAddr,
    mut request: hyper::Request<Incoming>,
) -> Result<Response, std::convert::Infallible> {
    request.extensions_mut().insert(Peer(peer));
    match tokio::time::timeout(REQUEST_TIMEOUT, router.oneshot(request.map(axum::body::Body::new))).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(never)) => match never {},
        Err(_) => Ok(StatusCode::REQUEST_TIMEOUT.into_response()),
    }
}
