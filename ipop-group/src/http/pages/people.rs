//! The people of a group.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State as Shared};

use super::{Numbered, Page, Shell, ago, back, groups_find, member, show};
use crate::app::App;
use crate::http::visitor::{Submitted, Visitor};
use crate::model::State;
use crate::model::users::{self, Role, User};
use crate::store::now_s;

/// People that one page shows; those who wait come first.
const SHOWN_MAX: usize = 500;

#[derive(Template)]
#[template(path = "people.html")]
struct PeoplePage {
    shell: Shell,
    people: Vec<(User, String)>,
}

pub(super) async fn page(Shared(app): Shared<Arc<App>>, Path(name): Path<String>, visitor: Visitor) -> Page {
    let account = visitor.account(&format!("/g/{name}/people"))?;
    let (group, role) = member(&app, account, &name, Role::Member).await?;
    let id = group.id;
    let people = app.store.read(move |connection| users::list(connection, id, 0, SHOWN_MAX)).await?;
    let now = now_s();
    // Who has been turned away is for managers to know.
    let is_shown = |user: &User| role >= Role::Manager || user.state == State::Approved;
    let people = people.into_iter().filter(is_shown).map(|user| {
        let since = ago(user.since, now);
        (user, since)
    });
    let page = PeoplePage {
        people: people.collect(),
        shell: Shell::of(&app, &visitor).within(&group, role, "people"),
    };
    Ok(show(&visitor, &page))
}

pub(super) async fn decide(
    Shared(app): Shared<Arc<App>>,
    Path((name, who)): Numbered,
    form: Submitted,
) -> Page {
    let path = format!("/g/{name}/people");
    let account = form.visitor.account(&path)?.clone();
    let state: State = form.text("state").parse()?;
    let master = Arc::clone(&app.master);
    let decided = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        users::decide(connection, &master, &group, (account.id, &account.name), who, state, now_s())
    });
    decided.await?;
    Ok(back(&path))
}

pub(super) async fn promote(
    Shared(app): Shared<Arc<App>>,
    Path((name, who)): Numbered,
    form: Submitted,
) -> Page {
    let path = format!("/g/{name}/people");
    let account = form.visitor.account(&path)?.clone();
    let role: Role = form.text("role").parse()?;
    let promoted = app.store.write(move |connection| {
        let group = groups_find(connection, &name)?;
        users::promote(connection, &group, (account.id, &account.name), who, role, now_s())
    });
    promoted.await?;
    Ok(back(&path))
}
