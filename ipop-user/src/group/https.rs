//! One exchange with a group's server: by HTTPS, with a bounded answer and within a bounded time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::{Body, Bytes};
use axum::http::header::HOST;
use axum::http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipop_group_api::Refused;
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

/// For the connection with its handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// For everything, where the answer comes at once.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

/// Where a group's server is.
pub(super) struct Https {
    pub(super) place: GroupPlace,
    tls: Option<TlsConnector>,
}

/// Why there is no answer that counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
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

impl Https {
    /// `roots`: certificates by which the server is known; `None`: those of this host.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub(super) fn new(place: GroupPlace, roots: Option<&Path>) -> anyhow::Result<Self> {
        let tls = place.is_tls.then(|| connector(roots)).transpose()?;
        Ok(Self { place, tls })
    }

    /// Sends a request, and reads the answer if it comes within `limit`.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        request: Request<Body>,
        limit: Duration,
    ) -> Result<T, AskError> {
        let exchange = timeout(limit, self.exchange(request)).await;
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

    async fn exchange(&self, mut request: Request<Body>) -> anyhow::Result<(StatusCode, Bytes)> {
        request.headers_mut().insert(HOST, HeaderValue::from_str(&self.place.authority)?);
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
