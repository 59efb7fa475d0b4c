//! One request to a group's server: signed, by HTTPS, with a bounded answer and within a bounded time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipop_overlay::dht::SigningKey;
use ipop_overlay::group::request::{Purpose, Request};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::membership::LEN_MAX;
use super::place::GroupPlace;
use super::shapes::{CONTENT_TYPE as KIND, Refused};

/// For the connection with its handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// For everything, where the answer comes at once.
const ANSWER: Duration = Duration::from_secs(15);
/// Where it may wait for news: the server says that it does for 20 s.
const NEWS: Duration = Duration::from_secs(40);

/// Where a group's server is, and who asks it.
pub(super) struct Server {
    place: GroupPlace,
    tls: Option<TlsConnector>,
    key: SigningKey,
    /// When the last request was made: each is later than the one before.
    last_ms: u64,
}

/// Why there is no answer that counts.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the group's server says: {}", .0.message)]
    Refused(Refused),
    #[error("no answer of the group's server: {0}")]
    NoAnswer(String),
}

impl AskError {
    /// Whether the server does not know this node.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.error == "not_found")
    }
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Refused({}: {})", self.error, self.message)
    }
}

impl Server {
    /// `roots`: certificates by which the server is known; `None`: those of this host.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub(super) fn new(place: GroupPlace, roots: Option<&Path>, key: SigningKey) -> anyhow::Result<Self> {
        let tls = place.is_tls.then(|| connector(roots)).transpose()?;
        Ok(Self { place, tls, key, last_ms: 0 })
    }

    pub(super) fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    /// Asks, and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &mut self,
        purpose: Purpose,
        body: &[u8],
    ) -> Result<T, AskError> {
        let limit = if purpose == Purpose::Report { NEWS } else { ANSWER };
        let exchange = timeout(limit, self.exchange(purpose, body)).await;
        let exchange =
            exchange.map_err(|_| AskError::NoAnswer(format!("not within {} s", limit.as_secs())))?;
        let (status, bytes) = exchange.map_err(|error| AskError::NoAnswer(format!("{error:#}")))?;
        if status != StatusCode::OK {
            let refused = serde_json::from_slice(&bytes);
            return Err(match refused {
                Ok(refused) => AskError::Refused(refused),
                Err(_) => AskError::NoAnswer(format!("it answers {status}: is that where the group is?")),
            });
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| AskError::NoAnswer(format!("it answers otherwise: {error}")))
    }

    async fn exchange(
        &mut self,
        purpose: Purpose,
        body: &[u8],
    ) -> anyhow::Result<(StatusCode, axum::body::Bytes)> {
        self.last_ms = unix_ms().max(self.last_ms + 1);
        let place = self.place.place();
        let signed = Request::sign(purpose, self.last_ms, &place, body, &self.key)
            .context("the group's place, or what there is to say, is too long")?;
        let address = (self.place.host.as_str(), self.place.port);
        let connect = async {
            let stream = TcpStream::connect(address).await.context("cannot connect")?;
            let Some(tls) = &self.tls else { return Ok::<Box<dyn Wire>, anyhow::Error>(Box::new(stream)) };
            let name = ServerName::try_from(self.place.host.clone())?;
            Ok(Box::new(tls.connect(name, stream).await.context("HTTPS")?))
        };
        let stream = timeout(CONNECT, connect).await.context("no connection in time")??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or when this request is given up.
        let connection = tokio::spawn(connection);
        let _end = Abort(connection.abort_handle());
        let request = HttpRequest::post(format!("/api/v1/groups/{}", self.place.name))
            .header(HOST, &self.place.authority)
            .header(CONTENT_TYPE, KIND)
            .body(Body::from(signed))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), LEN_MAX).collect().await;
        let bytes =
            bytes.map_err(|error| anyhow::anyhow!("the answer breaks off, or is too long: {error}"))?;
        Ok((status, bytes.to_bytes()))
    }
}

/// A connection, with HTTPS or without.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Ends a task when it is dropped.
struct Abort(tokio::task::AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn connector(roots: Option<&Path>) -> anyhow::Result<TlsConnector> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(file) => {
            let read = || format!("network.group_ca: cannot read certificates from {}", file.display());
            for certificate in CertificateDer::pem_file_iter(file).with_context(read)? {
                store.add(certificate.with_context(read)?).with_context(read)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
    }
    anyhow::ensure!(
        !store.is_empty(),
        "there are no certificates by which the group's server could be known: \
         install ca-certificates, or name a file with network.group_ca"
    );
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// UNIX time in ms.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
