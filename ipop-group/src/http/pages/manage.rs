//! Join tokens, rules, settings and the log of a group.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State as Shared};
use serde::Deserialize;

use super::groups::settings_of;
use super::{Numbered, PAGE_ROWS, Page, Shell, ago, back, groups_find, member, show};
use crate::api::Rule;
use crate::app::App;
use crate::http::visitor::{Submitted, Visitor};
use crate::model::audit::{self, Entry};
use crate::model::groups::{self, Group};
use crate::model::rules;
use crate::model::tokens::{self, Token};
use crate::model::users::{self, Role};
use crate::secrets::random_text;
use crate::store::now_s;

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    shell: Shell,
    /// With a token that was made just now; it is shown this once.
    command: String,
    tokens: Vec<(Token, String)>,
}

#[derive(Template)]
#[template(path = "rules.html")]
struct RulesPage {
    shell: Shell,
    rules: Vec<(i64, Rule)>,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    shell: Shell,
    group: Group,
    hours: u64,
}

#[derive(Template)]
#[template(path = "log.html")]
struct LogPage {
    shell: Shell,
    entries: Vec<(Entry, String)>,
    page: usize,
    has_more: bool,
}

pub(super) async fn tokens(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    visitor: Visitor,
) -> Page {
    tokens_page(&app, &visitor, &name, String::new()).await
}

async fn tokens_page(app: &App, visitor: &Visitor, name: &str, command: String) -> Page {
    let account = visitor.account(&format!("/g/{name}/tokens"))?;
    let (group, role) = member(app, account, name, Role::Member).await?;
    let (id, account) = (group.id, account.id);
    let tokens = app.store.read(move |connection| tokens::list(connection, id, account, role)).await?;
    let now = now_s();
    let state = |token: &Token| match token.used {
        Some(used) => format!("used {}", ago(used, now)),
        None if token.expires < now => "expired".to_owned(),
        None => format!("open, {} h left", (token.expires - now).div_ceil(3600)),
    };
    let tokens = tokens.into_iter().map(|token| {
        let state = state(&token);
        (token, state)
    });
    let shell = Shell::of(app, visitor).within(&group, role, "tokens");
    Ok(show(visitor, &TokensPage { command, tokens: tokens.collect(), shell }))
}

pub(super) async fn make_token(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    form: Submitted,
) -> Page {
    let account = form.visitor.account(&format!("/g/{name}/tokens"))?.clone();
    let (text, tags) = (random_text()?, tokens::read_tags(form.text("tags"))?);
    let (stored, hours, group_name) = (text.clone(), form.text("hours").to_owned(), name.clone());
    let made = app.store.write(move |connection| {
        let group = groups_find(connection, &group_name)?;
        tokens::create(connection, &group, (account.id, &account.name), &stored, &tags, &hours, now_s())
    });
    made.await?;
    let command = format!("{} --token {}{text}", app.site.join_command(&name), tokens::PREFIX);
    tokens_page(&app, &form.visitor, &name, command).await
}

pub(super) async fn take_back(
    Shared(app): Shared<Arc<App>>,
    Path((name, id)): Numbered,
    form: Submitted,
) -> Page {
    let path = format!("/g/{name}/tokens");
    let account = form.visitor.account(&path)?.clone();
    let taken = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        tokens::take_back(connection, &group, (account.id, &account.name), id, now_s())
    });
    taken.await?;
    Ok(back(&path))
}

pub(super) async fn rules(Shared(app): Shared<Arc<App>>, Path(name): Path<String>, visitor: Visitor) -> Page {
    let account = visitor.account(&format!("/g/{name}/rules"))?;
    let (group, role) = member(&app, account, &name, Role::Member).await?;
    let id = group.id;
    let rules = app.store.read(move |connection| rules::numbered(connection, id)).await?;
    Ok(show(&visitor, &RulesPage { shell: Shell::of(&app, &visitor).within(&group, role, "rules"), rules }))
}

pub(super) async fn add_rule(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    form: Submitted,
) -> Page {
    let path = format!("/g/{name}/rules");
    let account = form.visitor.account(&path)?.clone();
    let rule = rules::read(form.text("from"), form.text("to"), form.text("protocol"), form.text("ports"))?;
    let (master, host) = (Arc::clone(&app.master), app.site.host().to_owned());
    let added = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        rules::add(connection, &master, &host, &group, (account.id, &account.name), &rule, now_s())
    });
    added.await?;
    Ok(back(&path))
}

pub(super) async fn remove_rule(
    Shared(app): Shared<Arc<App>>,
    Path((name, id)): Numbered,
    form: Submitted,
) -> Page {
    let path = format!("/g/{name}/rules");
    let account = form.visitor.account(&path)?.clone();
    let (master, host) = (Arc::clone(&app.master), app.site.host().to_owned());
    let removed = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        rules::remove(connection, &master, &host, &group, (account.id, &account.name), id, now_s())
    });
    removed.await?;
    Ok(back(&path))
}

pub(super) async fn settings(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    visitor: Visitor,
) -> Page {
    let account = visitor.account(&format!("/g/{name}/settings"))?;
    let (group, role) = member(&app, account, &name, Role::Owner).await?;
    let shell = Shell::of(&app, &visitor).within(&group, role, "settings");
    let hours = group.settings.certificate_s / 3600;
    Ok(show(&visitor, &SettingsPage { shell, group, hours }))
}

pub(super) async fn change_settings(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    form: Submitted,
) -> Page {
    let path = format!("/g/{name}/settings");
    let account = form.visitor.account(&path)?.clone();
    let settings = settings_of(&form)?;
    let (master, host) = (Arc::clone(&app.master), app.site.host().to_owned());
    let changed = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        users::require(connection, group.id, account.id, Role::Owner)?;
        groups::change(connection, &master, &host, &group, settings, &account.name, now_s())
    });
    changed.await?;
    Ok(back(&path))
}

#[derive(Debug, Deserialize)]
pub(super) struct Paged {
    #[serde(default)]
    page: usize,
}

pub(super) async fn log(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    Query(Paged { page }): Query<Paged>,
    visitor: Visitor,
) -> Page {
    let account = visitor.account(&format!("/g/{name}/log"))?;
    let (group, role) = member(&app, account, &name, Role::Manager).await?;
    let (id, offset) = (group.id, page.min(1000) * PAGE_ROWS);
    let entries =
        app.store.read(move |connection| audit::list(connection, id, offset, PAGE_ROWS + 1)).await?;
    let (now, has_more) = (now_s(), entries.len() > PAGE_ROWS);
    let entries = entries.into_iter().take(PAGE_ROWS).map(|entry| {
        let at = ago(entry.at, now);
        (entry, at)
    });
    let shell = Shell::of(&app, &visitor).within(&group, role, "log");
    Ok(show(&visitor, &LogPage { shell, entries: entries.collect(), page, has_more }))
}
