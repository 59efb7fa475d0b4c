//! What a person has a group's server do, by an access token of their account.

use std::path::Path;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::https::{ANSWER, AskError, Https};
use super::place::GroupPlace;
use crate::config::Secret;

/// A group's server, and who asks it.
pub(crate) struct Manager {
    https: Https,
    authorization: HeaderValue,
}

impl Manager {
    /// `roots`: certificates by which the server is known; `None`: those of this host.
    ///
    /// # Errors
    /// An access token that is none, certificates that cannot be read.
    pub(crate) fn new(place: GroupPlace, roots: Option<&Path>, access: &Secret) -> anyhow::Result<Self> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", access.expose_text()))
            .map_err(|_| anyhow::anyhow!("the access token has signs that none has"))?;
        authorization.set_sensitive(true);
        Ok(Self { https: Https::new(place, roots)?, authorization })
    }

    /// Has a group made that is called as the place says.
    pub(crate) async fn create<T: DeserializeOwned>(&self, body: &impl Serialize) -> Result<T, AskError> {
        self.ask(Method::POST, "/api/v1/groups".to_owned(), serde_json::to_vec(body)).await
    }

    /// Reads something of the group.
    pub(crate) async fn read<T: DeserializeOwned>(&self, what: &str) -> Result<T, AskError> {
        self.ask(Method::GET, self.path(what), Ok(Vec::new())).await
    }

    /// Has something done in the group.
    pub(crate) async fn order<T: DeserializeOwned>(
        &self,
        what: &str,
        body: &impl Serialize,
    ) -> Result<T, AskError> {
        self.ask(Method::POST, self.path(what), serde_json::to_vec(body)).await
    }

    fn path(&self, what: &str) -> String {
        format!("/api/v1/groups/{}/{what}", self.https.place.name)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: serde_json::Result<Vec<u8>>,
    ) -> Result<T, AskError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/json");
        let request = body
            .map_err(|error| error.to_string())
            .and_then(|body| request.body(Body::from(body)).map_err(|error| error.to_string()));
        let request = request.map_err(AskError::NoAnswer)?;
        self.https.ask(request, ANSWER).await
    }
}
