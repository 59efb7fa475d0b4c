//! The group's nodes: who is there, who asks, each one by itself, and the picture of the ring.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Deserialize;

use super::{Numbered, PAGE_ROWS, Page, Shell, ago, back, groups_find, member, show};
use crate::api::Report;
use crate::app::App;
use crate::http::ring;
use crate::http::visitor::{Submitted, Visitor};
use crate::model::nodes::{self, Filter, Node};
use crate::model::users::Role;
use crate::model::{State, tokens};
use crate::store::now_s;

/// Signs that a search has at most: those of a name.
const SEARCH_LEN_MAX: usize = 63;

#[derive(Debug, Deserialize)]
pub(super) struct Search {
    #[serde(default)]
    q: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    page: usize,
}

/// A node, as a row shows it.
struct Row {
    id: i64,
    name: String,
    address: String,
    virtual_addresses: String,
    user: String,
    tags: String,
    state: State,
    is_up: bool,
    seen: String,
    path: String,
}

impl Row {
    fn of(node: &Node, now: u64) -> Self {
        let report: Report = serde_json::from_str(&node.report).unwrap_or_default();
        let assigned = node.virtual_address.map(|address| address.to_string());
        Self {
            id: node.id,
            name: node.name.to_string(),
            address: node.address().to_string(),
            virtual_addresses: assigned.unwrap_or_else(|| report.addresses.join(", ")),
            user: node.user.clone().unwrap_or_default(),
            tags: node.tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            state: node.state,
            is_up: ring::is_up(node.seen, now),
            seen: ago(node.seen, now),
            path: paths(&report),
        }
    }
}

/// How many links take which path.
fn paths(report: &Report) -> String {
    let counts = [
        (report.direct_kernel, "kernel"),
        (report.direct_user, "user"),
        (report.relay, "relay"),
        (report.overlay, "overlay"),
    ];
    let told: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, path)| format!("{count} {path}"))
        .collect();
    told.join(", ")
}

#[derive(Template)]
#[template(path = "nodes.html")]
struct NodesPage {
    shell: Shell,
    command: String,
    ring: String,
    pending: Vec<Row>,
    rows: Vec<Row>,
    count: usize,
    query: String,
    state: State,
    page: usize,
    pages: usize,
}

#[derive(Template)]
#[template(path = "node.html")]
struct NodePage {
    shell: Shell,
    node: Row,
    is_own: bool,
    since: String,
}

pub(super) async fn page(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    Query(search): Query<Search>,
    visitor: Visitor,
) -> Page {
    let account = visitor.account(&format!("/g/{name}/nodes"))?;
    let (group, role) = member(&app, account, &name, Role::Member).await?;
    let state = search.state.parse().unwrap_or(State::Approved);
    let query: String = search.q.trim().to_lowercase().chars().take(SEARCH_LEN_MAX).collect();
    let filter = Filter { state, text: query.clone() };
    let offset = search.page.min(1000) * PAGE_ROWS;
    let id = group.id;
    let found = app.store.read(move |connection| {
        let waiting = Filter { state: State::Pending, text: String::new() };
        let pending = nodes::list(connection, id, &waiting, 0, PAGE_ROWS)?;
        let rows = nodes::list(connection, id, &filter, offset, PAGE_ROWS)?;
        Ok((pending, rows, nodes::count(connection, id, &filter)?, nodes::ring(connection, id)?))
    });
    let (pending, rows, count, members) = found.await?;
    let now = now_s();
    let page = NodesPage {
        command: app.site.join_command(&name),
        ring: ring::picture(&members, now),
        shell: Shell::of(&app, &visitor).within(&group, role, "nodes"),
        pending: pending.iter().map(|node| Row::of(node, now)).collect(),
        rows: rows.iter().map(|node| Row::of(node, now)).collect(),
        count,
        query,
        state,
        page: search.page,
        pages: count.div_ceil(PAGE_ROWS),
    };
    Ok(show(&visitor, &page))
}

pub(super) async fn ring(Shared(app): Shared<Arc<App>>, Path(name): Path<String>, visitor: Visitor) -> Page {
    let account = visitor.account(&format!("/g/{name}/nodes"))?;
    let (group, _) = member(&app, account, &name, Role::Member).await?;
    let members = app.store.read(move |connection| nodes::ring(connection, group.id)).await?;
    Ok(([(CONTENT_TYPE, "image/svg+xml")], ring::picture(&members, now_s())).into_response())
}

pub(super) async fn node(
    Shared(app): Shared<Arc<App>>,
    Path((name, id)): Numbered,
    visitor: Visitor,
) -> Page {
    let account = visitor.account(&format!("/g/{name}/nodes/{id}"))?;
    let (group, role) = member(&app, account, &name, Role::Member).await?;
    let group_id = group.id;
    let node = app.store.read(move |connection| nodes::by_id(connection, group_id, id)).await?;
    let now = now_s();
    let page = NodePage {
        is_own: node.user.as_deref() == Some(account.name.as_str()),
        since: ago(node.since, now),
        node: Row::of(&node, now),
        shell: Shell::of(&app, &visitor).within(&group, role, "nodes"),
    };
    Ok(show(&visitor, &page))
}

pub(super) async fn decide(
    Shared(app): Shared<Arc<App>>,
    Path((name, id)): Numbered,
    form: Submitted,
) -> Page {
    let path = format!("/g/{name}/nodes");
    let account = form.visitor.account(&path)?.clone();
    let state: State = form.text("state").parse()?;
    let master = Arc::clone(&app.master);
    let decided = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        nodes::decide(connection, &master, &group, (account.id, &account.name), id, state, now_s())
    });
    decided.await?;
    Ok(back(&path))
}

pub(super) async fn tag(Shared(app): Shared<Arc<App>>, Path((name, id)): Numbered, form: Submitted) -> Page {
    let path = format!("/g/{name}/nodes/{id}");
    let account = form.visitor.account(&path)?.clone();
    let tags = tokens::read_tags(form.text("tags"))?;
    let master = Arc::clone(&app.master);
    let tagged = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        nodes::set_tags(connection, &master, &group, (account.id, &account.name), id, &tags, now_s())
    });
    tagged.await?;
    Ok(back(&path))
}
