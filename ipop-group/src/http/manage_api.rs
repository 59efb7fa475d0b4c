//! What a person's program asks, by an access token of theirs: docs/groups.md.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, State as Shared};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::limits::Kind;
use super::node_api::ApiError;
use super::visitor::Source;
use crate::api::{
    self, Decide, Decided, MadeGroup, MadeToken, Members, NewGroup, NewToken, NodeMember, PersonMember,
};
use crate::app::App;
use crate::error::Error;
use crate::model::accounts::Account;
use crate::model::groups::{self, Settings};
use crate::model::nodes::{self, Filter, Node};
use crate::model::users::{self, Role, User};
use crate::model::{State, access, tokens};
use crate::secrets::random_text;
use crate::store::now_s;

/// Machines of each state, and people, that one answer names.
const ROWS_MAX: usize = 1000;

/// Whose access token came with a request.
pub(super) struct Caller(Account);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        let Source(source) = Source::from_request_parts(parts, app).await?;
        let header = parts.headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
        find(app, source, token).await.map(Self).map_err(|error| ApiError(error).into_response())
    }
}

async fn find(app: &App, source: std::net::IpAddr, token: String) -> Result<Account, Error> {
    app.limits.take(source, Kind::Page, Instant::now())?;
    let text = token.strip_prefix(access::PREFIX).unwrap_or_default().to_owned();
    let found = app.store.read(move |connection| access::find(connection, &text, now_s())).await?;
    found.ok_or(Error::NoAccess)
}

type Answer<T> = Result<Json<T>, ApiError>;

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Invalid(format!("the body of the request: {error}")))
}

fn answer<T: Serialize>(of: T) -> Answer<T> {
    Ok(Json(of))
}

pub(super) async fn create(
    Shared(app): Shared<Arc<App>>,
    Caller(account): Caller,
    body: Bytes,
) -> Answer<MadeGroup> {
    let new: NewGroup = read(&body)?;
    let new = groups::New {
        name: new.name,
        prefix: new.prefix.parse()?,
        settings: Settings::read(
            &new.lease.policy,
            &new.lease.seconds.to_string(),
            &new.certificate_hours.to_string(),
            &new.bootstrap.join("\n"),
            new.security.sealed_only,
        )?,
    };
    let (host, master) = (app.site.host().to_owned(), Arc::clone(&app.master));
    let made = app.store.write(move |connection| {
        groups::create(connection, &master, &host, (account.id, &account.name), &new, now_s())
    });
    let url = app.site.group_url(made.await?.name.as_str());
    answer(MadeGroup { api: api::VERSION, url })
}

pub(super) async fn members(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    Caller(account): Caller,
) -> Answer<Members> {
    let found = app.store.read(move |connection| {
        let group = groups::find(connection, &name)?.ok_or(Error::NotFound("group"))?;
        let role = users::require(connection, group.id, account.id, Role::Member)?;
        let is_told = |state: &State| role >= Role::Manager || *state == State::Approved;
        let mut told = Vec::new();
        for state in State::ALL.into_iter().filter(is_told) {
            let filter = Filter { state, text: String::new() };
            told.extend(nodes::list(connection, group.id, &filter, 0, ROWS_MAX + 1)?);
        }
        let mut people = users::list(connection, group.id, 0, ROWS_MAX + 1)?;
        people.retain(|user| is_told(&user.state));
        Ok((told, people))
    });
    let (nodes, people) = found.await?;
    answer(Members {
        api: api::VERSION,
        is_cut: nodes.len() > ROWS_MAX || people.len() > ROWS_MAX,
        nodes: nodes.iter().take(ROWS_MAX).map(node_member).collect(),
        people: people.iter().take(ROWS_MAX).map(person_member).collect(),
    })
}

fn node_member(node: &Node) -> NodeMember {
    let reported = || serde_json::from_str::<api::Report>(&node.report).unwrap_or_default().addresses;
    NodeMember {
        name: node.name.to_string(),
        address: node.address().to_string(),
        status: node.state.to_string(),
        user: node.user.clone(),
        tags: node.tags.iter().map(ToString::to_string).collect(),
        virtual_addresses: node.virtual_address.map_or_else(reported, |own| vec![own.to_string()]),
        seen: node.seen,
    }
}

fn person_member(user: &User) -> PersonMember {
    PersonMember {
        name: user.name.clone(),
        display: user.display.clone(),
        role: user.role.to_string(),
        status: user.state.to_string(),
    }
}

pub(super) async fn decide(
    Shared(app): Shared<Arc<App>>,
    Path(group): Path<String>,
    Caller(account): Caller,
    body: Bytes,
) -> Answer<Decided> {
    let Decide { who, status } = read(&body)?;
    let state: State = status.parse()?;
    let master = Arc::clone(&app.master);
    let decided = app.store.write(move |connection| {
        let group = groups::find(connection, &group)?.ok_or(Error::NotFound("group"))?;
        let actor = (account.id, account.name.as_str());
        users::require(connection, group.id, account.id, Role::Member)?;
        if let Some(name) = who.strip_prefix("user:") {
            let user = users::by_name(connection, group.id, name)?.ok_or(Error::NotFound("user"))?;
            users::decide(connection, &master, &group, actor, user.account, state, now_s())?;
            return Ok(Decided { api: api::VERSION, name: user.name, address: None, status });
        }
        let node = node_of(connection, group.id, &who, state)?;
        nodes::decide(connection, &master, &group, actor, node.id, state, now_s())?;
        let address = Some(node.address().to_string());
        Ok(Decided { api: api::VERSION, name: node.name.to_string(), address, status })
    });
    answer(decided.await?)
}

/// The machine that is meant. Many may ask by one name, and whoever approves one is to have compared its address.
fn node_of(connection: &Connection, group: i64, who: &str, state: State) -> Result<Node, Error> {
    let named = nodes::called(connection, group, who)?;
    // Of one name, those come first that the decision is usually about.
    let usual = if state == State::Removed { State::Approved } else { State::Pending };
    let (likely, others): (Vec<Node>, Vec<Node>) = named.into_iter().partition(|node| node.state == usual);
    let mut meant = if likely.is_empty() { others } else { likely };
    match meant.len() {
        0 | 1 => meant.pop().ok_or(Error::NotFound("node")),
        count => {
            Err(Error::Conflict(format!("{count} machines ask as {who}: name the address of the right one")))
        }
    }
}

pub(super) async fn token(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    Caller(account): Caller,
    body: Bytes,
) -> Answer<MadeToken> {
    let NewToken { tags, hours } = read(&body)?;
    let (text, tags) = (random_text()?, tokens::read_tags(&tags.join(" "))?);
    let (stored, group_name) = (text.clone(), name.clone());
    let made = app.store.write(move |connection| {
        let group = groups::find(connection, &group_name)?.ok_or(Error::NotFound("group"))?;
        let (actor, hours) = ((account.id, account.name.as_str()), hours.to_string());
        tokens::create(connection, &group, actor, &stored, &tags, &hours, now_s())
    });
    made.await?;
    let token = format!("{}{text}", tokens::PREFIX);
    let command = format!("{} --token {token}", app.site.join_command(&name));
    answer(MadeToken { api: api::VERSION, token, command })
}
