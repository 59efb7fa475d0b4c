//! Talks to the control server: one request on each connection.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::failure::Failure;
use crate::api::{self, paths};

/// Longer than the server takes to give up itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer, thousands of peers, is a few megabytes.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// A control socket and the questions one can ask there.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

type Answer<T> = Result<T, Failure>;

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) async fn status(&self) -> Answer<api::Status> {
        self.fetch(paths::STATUS).await
    }

    pub(super) async fn peers(&self) -> Answer<Vec<api::Peer>> {
        self.fetch(paths::PEERS).await
    }

    pub(super) async fn groups(&self) -> Answer<api::Groups> {
        self.fetch(paths::GROUPS).await
    }

    pub(super) async fn stations(&self) -> Answer<api::Stations> {
        self.fetch(paths::STATIONS).await
    }

    pub(super) async fn links(&self) -> Answer<Vec<api::Link>> {
        self.fetch(paths::LINKS).await
    }

    pub(super) async fn routes(&self) -> Answer<Vec<api::Route>> {
        self.fetch(paths::ROUTES).await
    }

    pub(super) async fn counters(&self) -> Answer<api::Counters> {
        self.fetch(paths::COUNTERS).await
    }

    pub(super) async fn explain(&self, peer: &str) -> Answer<api::Explanation> {
        self.fetch(&format!("{}?peer={}", paths::EXPLAIN, percent_encoded(peer))).await
    }

    pub(super) async fn ping(&self, order: &api::PingOrder) -> Answer<api::Ping> {
        self.post(paths::PING, order).await
    }

    pub(super) async fn trace(&self, order: &api::TraceOrder) -> Answer<api::Hop> {
        self.post(paths::TRACE, order).await
    }

    pub(super) async fn survey(&self, order: &api::SurveyOrder) -> Answer<api::RingNode> {
        self.post(paths::SURVEY, order).await
    }

    pub(super) async fn dht(&self, order: &api::DhtOrder) -> Answer<api::DhtAnswer> {
        self.post(paths::DHT, order).await
    }

    pub(super) async fn dhcp(&self) -> Answer<api::Dhcp> {
        self.fetch(paths::DHCP).await
    }

    pub(super) async fn set_kernel(&self, on: bool) -> Answer<api::Done> {
        self.post(paths::DATAPATH_KERNEL, &api::KernelOrder { on }).await
    }

    pub(super) async fn reload(&self) -> Answer<api::Done> {
        self.exchange(Method::POST, paths::RELOAD, Body::empty()).await
    }

    async fn fetch<T: DeserializeOwned>(&self, resource: &str) -> Answer<T> {
        self.exchange(Method::GET, resource, Body::empty()).await
    }

    async fn post<T: DeserializeOwned>(&self, resource: &str, order: &impl Serialize) -> Answer<T> {
        let body = serde_json::to_vec(order).map_err(|error| Failure::Refused(error.to_string()))?;
        self.exchange(Method::POST, resource, Body::from(body)).await
    }

    async fn exchange<T: DeserializeOwned>(&self, method: Method, resource: &str, body: Body) -> Answer<T> {
        let request = Request::builder()
            .method(method)
            .uri(resource)
            .header(header::HOST, "ipopd")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| Failure::Usage(format!("cannot ask for {resource}: {error}")))?;
        let (status, body) = match timeout(ANSWER_TIMEOUT, self.send(request)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.no_daemon(io::ErrorKind::TimedOut.into())),
        };
        understand(status, &body)
    }

    async fn send(&self, request: Request<Body>) -> Answer<(StatusCode, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_daemon(error))?;
        let broken = |error: hyper::Error| self.no_daemon(io::Error::other(error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // What goes wrong on the connection is told to the request as well.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LEN_MAX)
            .collect()
            .await
            .map_err(|error| self.no_daemon(io::Error::other(error)))?;
        Ok((status, body.to_bytes()))
    }

    fn no_daemon(&self, source: io::Error) -> Failure {
        Failure::NoDaemon { socket: self.socket.clone(), source }
    }
}

fn understand<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Answer<T> {
    let strange = |error: serde_json::Error| {
        Failure::Refused(format!(
            "cannot understand what ipopd answers (HTTP status {}, {error}); use ipopctl and ipopd of one version",
            status.as_u16()
        ))
    };
    if status == StatusCode::OK {
        return serde_json::from_slice(body).map_err(strange);
    }
    let refusal: api::Refusal = serde_json::from_slice(body).map_err(strange)?;
    Err(Failure::Refused(refusal.error))
}

/// RFC 3986, section 2.1, of everything but the unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_holds_any_text() {
        assert_eq!(percent_encoded("beta-1.x_~"), "beta-1.x_~");
        assert_eq!(percent_encoded("a+b/c=&é \n"), "a%2Bb%2Fc%3D%26%C3%A9%20%0A");
    }

    #[test]
    fn answers_are_values_refusals_or_strange() {
        let done: api::Done = understand(StatusCode::OK, br#"{"message":"x"}"#).unwrap();
        assert_eq!(done.message, "x");
        let message = |status, body: &[u8]| understand::<api::Done>(status, body).unwrap_err().to_string();
        assert_eq!(message(StatusCode::CONFLICT, br#"{"error":"no; do that"}"#), "no; do that");
        assert_eq!(
            message(StatusCode::NOT_FOUND, b"hm"),
            "cannot understand what ipopd answers (HTTP status 404, expected value at line 1 column 1); \
             use ipopctl and ipopd of one version"
        );
    }
}
