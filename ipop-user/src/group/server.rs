//! One request of a node to its group's server, signed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::Request as HttpRequest;
use axum::http::header::CONTENT_TYPE;
use ipop_overlay::dht::SigningKey;
use ipop_overlay::group::request::{Purpose, Request};
use serde::de::DeserializeOwned;

use super::https::{ANSWER, AskError, Https};
use super::place::GroupPlace;
use super::shapes::CONTENT_TYPE as KIND;

/// Where the answer may wait for news: the server says that it does for 20 s.
const NEWS: Duration = Duration::from_secs(40);

/// Where a group's server is, and who asks it.
pub(super) struct Server {
    https: Https,
    key: SigningKey,
    /// When the last request was made: each is later than the one before.
    last_ms: u64,
}

impl Server {
    /// `roots`: certificates by which the server is known; `None`: those of this host.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub(super) fn new(place: GroupPlace, roots: Option<&Path>, key: SigningKey) -> anyhow::Result<Self> {
        Ok(Self { https: Https::new(place, roots)?, key, last_ms: 0 })
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
        self.last_ms = unix_ms().max(self.last_ms + 1);
        let place = &self.https.place;
        let signed = Request::sign(purpose, self.last_ms, &place.place(), body, &self.key);
        let request = signed.and_then(|signed| {
            HttpRequest::post(format!("/api/v1/groups/{}", place.name))
                .header(CONTENT_TYPE, KIND)
                .body(Body::from(signed))
                .ok()
        });
        let too_long = || "the group's place, or what there is to say, is too long".to_owned();
        let request = request.ok_or_else(|| AskError::NoAnswer(too_long()))?;
        self.https.ask(request, if purpose == Purpose::Report { NEWS } else { ANSWER }).await
    }
}

/// UNIX time in ms.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
