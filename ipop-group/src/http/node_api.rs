//! What nodes ask: docs/groups.md. One path for each group; what is asked is in the signed request.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipop_overlay::NodeAddress;
use ipop_overlay::group::request::{Purpose, Request};
use rusqlite::Connection;

use super::limits::Kind;
use super::visitor::Source;
use super::waiting;
use crate::api::{self, Granted, Membership, Refused, Reported};
use crate::app::App;
use crate::error::Error;
use crate::model::authority::{self, Issued};
use crate::model::groups::{self, Group};
use crate::model::nodes::{self, Node};
use crate::model::{State, tokens};
use crate::store::{now_ms, now_s};

/// How often a node that waits asks again, in s.
const POLL_S: u64 = 15;
/// How often a member reports, in s.
const REPORT_S: u64 = 30;
const REPORT_TEXT_MAX: usize = 64;
const REPORT_ADDRESSES_MAX: usize = 8;

/// An error, as programs read it.
pub(super) struct ApiError(pub(super) Error);

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.0.log();
        let refused = Refused {
            api: api::VERSION,
            error: self.0.code().to_owned(),
            message: self.0.to_string(),
            time_ms: now_ms(),
        };
        (self.0.status(), Json(refused)).into_response()
    }
}

pub(super) async fn request(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    source: Source,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    app.limits.take(source.0, Kind::Node, Instant::now())?;
    if headers.get(CONTENT_TYPE).is_none_or(|kind| kind != api::CONTENT_TYPE) {
        return Err(ApiError(Error::Invalid(format!(
            "the type of the content is to be {}",
            api::CONTENT_TYPE
        ))));
    }
    let request = Request::open(&body).map_err(|error| Error::Invalid(error.to_string()))?;
    if request.place != api::place(app.site.host(), &name) {
        return Err(ApiError(Error::Invalid(format!(
            "the request is for {}, and this is {}",
            request.place,
            api::place(app.site.host(), &name)
        ))));
    }
    if !request.is_timely(now_ms()) {
        return Err(ApiError(Error::invalid(
            "the clocks of node and server are more than 5 min apart: set them",
        )));
    }
    match request.purpose {
        Purpose::Join => {
            app.limits.take(source.0, Kind::Join, Instant::now())?;
            join(&app, name, request).await
        }
        Purpose::Fetch => fetch(&app, name, request).await,
        Purpose::Report => report(&app, source, name, request).await,
        Purpose::Leave => leave(&app, name, request).await,
    }
}

fn group(connection: &Connection, name: &str) -> Result<Group, Error> {
    groups::find(connection, name)?.ok_or(Error::NotFound("group"))
}

async fn join(app: &App, name: String, request: Request) -> Result<Response, ApiError> {
    let join: api::Join = serde_json::from_slice(&request.body)
        .map_err(|error| Error::Invalid(format!("the body of the request: {error}")))?;
    let token = join.token.map(|token| token.strip_prefix(tokens::PREFIX).map(str::to_owned));
    let token = match token {
        Some(None) => return Err(ApiError(Error::invalid("this is no join token"))),
        Some(token) => token,
        None => None,
    };
    let (key, master) = (request.public_key, Arc::clone(&app.master));
    let answer = app.store.write(move |connection| {
        let (group, now) = (group(connection, &name)?, now_s());
        let node = nodes::join(connection, &group, &key, &join.name, token.as_deref(), now)?;
        membership(connection, &master, &group, &node, now)
    });
    Ok(Json(answer.await?).into_response())
}

async fn fetch(app: &App, name: String, request: Request) -> Result<Response, ApiError> {
    let (key, master) = (request.public_key, Arc::clone(&app.master));
    let found = app.store.read(move |connection| {
        let (group, now) = (group(connection, &name)?, now_s());
        let node = nodes::by_key(connection, group.id, &key)?.ok_or(Error::NotFound("node"))?;
        let needs_one =
            node.state == State::Approved && authority::current(connection, node.id, now)?.is_none();
        Ok((needs_one, node.id, group))
    });
    let (needs_one, node, group) = found.await?;
    app.heard.admit(node, request.time_ms, now_ms())?;
    let answer = move |connection: &Connection| {
        let node = nodes::by_id(connection, group.id, node)?;
        membership(connection, &master, &group, &node, now_s())
    };
    // Only a new certificate is written down.
    let answer = if needs_one { app.store.write(answer).await } else { app.store.read(answer).await };
    Ok(Json(answer?).into_response())
}

async fn leave(app: &App, name: String, request: Request) -> Result<Response, ApiError> {
    let (node, _) = look(app, &name, request.public_key).await?;
    app.heard.admit(node.id, request.time_ms, now_ms())?;
    let master = Arc::clone(&app.master);
    let left = app.store.write(move |connection| {
        let (group, now) = (group(connection, &name)?, now_s());
        let node = nodes::depart(connection, &master, &group, node.id, now)?;
        membership(connection, &master, &group, &node, now)
    });
    Ok(Json(left.await?).into_response())
}

/// Makes a certificate where the node has none that counts for long enough.
fn membership(
    connection: &Connection,
    master: &crate::secrets::MasterKey,
    group: &Group,
    node: &Node,
    now: u64,
) -> Result<Membership, Error> {
    let granted = if node.state == State::Approved {
        let current = authority::current(connection, node.id, now)?;
        let Issued { der, renew_at } = match current {
            Some(issued) => issued,
            None => authority::issue(connection, master, group, node, now)?,
        };
        let published = authority::published(connection, group.id)?;
        Some(Granted {
            certificate: STANDARD.encode(der),
            renew_at,
            authority: STANDARD.encode(&published.authority),
            document: STANDARD.encode(&published.document),
            revocations: STANDARD.encode(&published.list),
            secret: STANDARD.encode(published.secret(master, group)?.as_slice()),
        })
    } else {
        None
    };
    Ok(Membership {
        api: api::VERSION,
        status: node.state.to_string(),
        address: NodeAddress::of_key(&node.key).to_string(),
        poll_s: POLL_S,
        granted,
    })
}

async fn report(
    app: &Arc<App>,
    source: Source,
    name: String,
    request: Request,
) -> Result<Response, ApiError> {
    let mut report: api::Report = serde_json::from_slice(&request.body)
        .map_err(|error| Error::Invalid(format!("the body of the request: {error}")))?;
    let known = report.known.take();
    let is_short = report.addresses.len() <= REPORT_ADDRESSES_MAX
        && report.addresses.iter().all(|address| address.parse::<std::net::IpAddr>().is_ok())
        && report.version.len() <= REPORT_TEXT_MAX;
    if !is_short {
        return Err(ApiError(Error::invalid(
            "the report has too many addresses, or texts that are too long",
        )));
    }
    let key = request.public_key;
    let (node, mut reported) = look(app, &name, key).await?;
    app.heard.admit(node.id, request.time_ms, now_ms())?;
    if node.state == State::Approved {
        app.heard.report(node.id, now_s(), report);
    }
    if let Some(known) = known
        && let Some(_place) = app.waiting.take(source.0)
    {
        let again = || async { look(app, &name, key).await.map(|(_, reported)| reported) };
        reported = waiting::until_news(&known, app.store.written(), again).await?;
        reported.report_s = 0;
    }
    Ok(Json(reported).into_response())
}

/// How a node and its group stand now.
async fn look(app: &App, name: &str, key: [u8; 32]) -> Result<(Node, Reported), Error> {
    let name = name.to_owned();
    let found = app.store.read(move |connection| {
        let (group, now) = (group(connection, &name)?, now_s());
        let node = nodes::by_key(connection, group.id, &key)?.ok_or(Error::NotFound("node"))?;
        let published = authority::published(connection, group.id)?;
        let is_stale =
            node.state == State::Approved && authority::current(connection, node.id, now)?.is_none();
        let reported = Reported {
            api: api::VERSION,
            status: node.state.to_string(),
            report_s: REPORT_S,
            document_number: published.document_number,
            list_number: published.list_number,
            is_stale,
        };
        Ok((node, reported))
    });
    found.await
}
