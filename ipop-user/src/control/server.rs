//! Accepts connections and serves one request on each, within limits of number and time.

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Limits, SHUTDOWN_GRACE};

/// Bytes of a request line with its headers, and of what is read ahead.
const BUFFER_LEN_MAX: usize = 16 << 10;

/// Serves until `stopped` turns true, then waits a moment for answers under way.
pub(super) async fn run<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < limits.connections_max;
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            Some(_) = connections.join_next() => {}
            (io, _) = listener.accept(), if room => {
                connections.spawn(connection(io, router.clone(), limits));
            }
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    // What has not finished by then is cut off, with the set that holds it.
    let _ = timeout(SHUTDOWN_GRACE, finished).await;
}

/// One request each: a client that keeps its connection must not keep its place.
async fn connection<I>(io: I, router: Router, limits: Limits)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let serving = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(BUFFER_LEN_MAX)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    match timeout(limits.connection, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("control connection: {error}"),
        Err(_) => tracing::debug!("control connection: cut off after {:?}", limits.connection),
    }
}
