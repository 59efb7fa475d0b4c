//! One's groups, a new one, and the page by which others join.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};

use super::{Page, Shell, back, groups_find, render, sentence, show};
use crate::app::App;
use crate::error::Error;
use crate::http::visitor::{Submitted, Visitor};
use crate::model::State;
use crate::model::groups::{self, Settings};
use crate::model::users::{self, Role};
use crate::store::now_s;

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    shell: Shell,
    groups: Vec<(String, Role, State)>,
    is_open: bool,
}

#[derive(Template)]
#[template(path = "group_new.html")]
struct NewPage {
    shell: Shell,
    name: String,
    prefix: String,
    bootstrap: String,
    lease_s: String,
    hours: String,
    error: String,
}

#[derive(Template)]
#[template(path = "join.html")]
struct JoinPage {
    shell: Shell,
    name: String,
    command: String,
    /// Where the visitor stands with the group.
    standing: Option<State>,
}

pub(super) async fn home(Shared(app): Shared<Arc<App>>, visitor: Visitor) -> Page {
    let groups = match visitor.account.as_ref().map(|account| account.id) {
        Some(id) => app.store.read(move |connection| users::groups_of(connection, id)).await?,
        None => Vec::new(),
    };
    Ok(show(&visitor, &HomePage { shell: Shell::of(&app, &visitor), groups, is_open: app.site.is_open }))
}

pub(super) async fn new_form(Shared(app): Shared<Arc<App>>, visitor: Visitor) -> Page {
    visitor.account("/groups")?;
    let page = NewPage {
        shell: Shell::of(&app, &visitor),
        name: String::new(),
        prefix: "10.128.0.0/16".to_owned(),
        bootstrap: String::new(),
        lease_s: "3600".to_owned(),
        hours: "24".to_owned(),
        error: String::new(),
    };
    Ok(show(&visitor, &page))
}

pub(super) async fn create(Shared(app): Shared<Arc<App>>, form: Submitted) -> Page {
    let account = form.visitor.account("/groups")?.clone();
    match make(&app, &form, account).await {
        Ok(name) => Ok(back(&format!("/g/{name}/nodes"))),
        Err(error @ (Error::Invalid(_) | Error::Conflict(_))) => Ok(corrected(&app, &form, &error)),
        Err(error) => Err(error.into()),
    }
}

async fn make(
    app: &App,
    form: &Submitted,
    account: crate::model::accounts::Account,
) -> Result<String, Error> {
    let new = groups::New {
        name: form.text("name").to_owned(),
        prefix: form.text("prefix").parse()?,
        settings: settings_of(form)?,
    };
    let (host, master) = (app.site.host().to_owned(), Arc::clone(&app.master));
    let made = app.store.write(move |connection| {
        groups::create(connection, &master, &host, (account.id, account.name.as_str()), &new, now_s())
    });
    Ok(made.await?.name.to_string())
}

/// What the form of a group says of it.
pub(super) fn settings_of(form: &Submitted) -> Result<Settings, Error> {
    Settings::read(
        form.text("lease"),
        form.text("lease_s"),
        form.text("hours"),
        form.text("bootstrap"),
        form.is_checked("sealed_only"),
    )
}

/// The form again, as it was filled in.
fn corrected(app: &App, form: &Submitted, error: &Error) -> Response {
    let text = |name| form.text(name).to_owned();
    let page = NewPage {
        shell: Shell::of(app, &form.visitor),
        name: text("name"),
        prefix: text("prefix"),
        bootstrap: text("bootstrap"),
        lease_s: text("lease_s"),
        hours: text("hours"),
        error: sentence(&error.to_string()),
    };
    (error.status(), render(&page)).into_response()
}

pub(super) async fn join_page(
    Shared(app): Shared<Arc<App>>,
    Path(name): Path<String>,
    visitor: Visitor,
) -> Page {
    let account = visitor.account.as_ref().map(|account| account.id);
    let found = app.store.read(move |connection| {
        let group = groups_find(connection, &name)?;
        let user = account.map(|account| users::find(connection, group.id, account)).transpose()?.flatten();
        Ok((group, user))
    });
    let (group, user) = found.await?;
    let page = JoinPage {
        shell: Shell::of(&app, &visitor),
        name: group.name.to_string(),
        command: app.site.join_command(group.name.as_str()),
        standing: user.map(|user| user.state),
    };
    Ok(show(&visitor, &page))
}

pub(super) async fn ask(Shared(app): Shared<Arc<App>>, Path(name): Path<String>, form: Submitted) -> Page {
    let account = form.visitor.account(&format!("/g/{name}"))?.clone();
    let path = format!("/g/{name}");
    let asked = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        users::ask(connection, &group, (account.id, &account.name), now_s())
    });
    asked.await?;
    Ok(back(&path))
}
