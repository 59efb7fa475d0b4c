//! Signing in and out, and one's account.

use std::sync::Arc;
use std::time::Instant;

use askama::Template;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{Page, PageError, Shell, back, render, sentence, show};
use crate::app::App;
use crate::error::Error;
use crate::http::limits::Kind;
use crate::http::visitor::{Submitted, Visitor, sign_in, sign_out};
use crate::model::access::{self, Access};
use crate::model::accounts::{self, Account};
use crate::secrets::random_text;
use crate::store::now_s;

#[derive(Debug, Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    shell: Shell,
    next: String,
    name: String,
    error: String,
    is_open: bool,
}

#[derive(Template)]
#[template(path = "register.html")]
struct RegisterPage {
    shell: Shell,
    name: String,
    display: String,
    error: String,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    shell: Shell,
    name: String,
    /// What is wrong with a new password.
    error: String,
    /// An access token that was made just now; it is shown this once.
    made: String,
    /// Access tokens, and how long each counts.
    access: Vec<(Access, String)>,
}

pub(super) async fn login_form(
    Shared(app): Shared<Arc<App>>,
    Query(Next { next }): Query<Next>,
    visitor: Visitor,
) -> Response {
    let shell = Shell::of(&app, &visitor);
    let page =
        LoginPage { shell, next, name: String::new(), error: String::new(), is_open: app.site.is_open };
    show(&visitor, &page)
}

pub(super) async fn login(Shared(app): Shared<Arc<App>>, form: Submitted) -> Page {
    app.limits.take(form.visitor.source, Kind::Login, Instant::now())?;
    let name = form.text("name").trim().to_owned();
    let asked = name.clone();
    let found = app.store.read(move |connection| accounts::find(connection, &asked)).await?;
    let (account, stored) = found.map_or((None, None), |(account, stored)| (Some(account), Some(stored)));
    let is_right = app.passwords.is_right(form.text("password").to_owned(), stored).await?;
    let next = form.text("next").to_owned();
    match account.filter(|_| is_right) {
        Some(account) => sign_in(&app, account.id, back(local(&next))).await,
        None => {
            tracing::info!("{}: a wrong name or password", form.visitor.source);
            let error = "The name or the password is wrong.".to_owned();
            let shell = Shell::of(&app, &form.visitor);
            let page = LoginPage { shell, next, name, error, is_open: app.site.is_open };
            Ok((StatusCode::UNPROCESSABLE_ENTITY, render(&page)).into_response())
        }
    }
}

/// A path on this server; the start page for anything else.
fn local(next: &str) -> &str {
    let is_plain = next.bytes().all(|sign| sign.is_ascii_alphanumeric() || b"/-_.".contains(&sign));
    if is_plain && next.starts_with('/') && !next.starts_with("//") { next } else { "/" }
}

pub(super) async fn register_form(Shared(app): Shared<Arc<App>>, visitor: Visitor) -> Page {
    if !app.site.is_open {
        return Err(PageError::from(Error::NotFound("page: the operator of this server makes the accounts")));
    }
    let shell = Shell::of(&app, &visitor);
    let page = RegisterPage { shell, name: String::new(), display: String::new(), error: String::new() };
    Ok(show(&visitor, &page))
}

pub(super) async fn register(Shared(app): Shared<Arc<App>>, form: Submitted) -> Page {
    if !app.site.is_open {
        return Err(PageError::from(Error::Forbidden));
    }
    app.limits.take(form.visitor.source, Kind::Register, Instant::now())?;
    let (name, display) = (form.text("name").to_owned(), form.text("display").to_owned());
    match create(&app, &form).await {
        Ok(account) => sign_in(&app, account, back("/")).await,
        Err(error @ (Error::Invalid(_) | Error::Conflict(_))) => {
            let error_text = sentence(&error.to_string());
            let page =
                RegisterPage { shell: Shell::of(&app, &form.visitor), name, display, error: error_text };
            Ok((error.status(), render(&page)).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

async fn create(app: &App, form: &Submitted) -> Result<i64, Error> {
    let hash = app.passwords.hash(form.text("password").to_owned()).await?;
    let (name, display) = (form.text("name").to_owned(), form.text("display").to_owned());
    app.store.write(move |connection| accounts::create(connection, &name, &display, &hash, now_s())).await
}

pub(super) async fn logout(Shared(app): Shared<Arc<App>>, form: Submitted) -> Page {
    sign_out(&app, &form.visitor, back("/")).await
}

pub(super) async fn page(Shared(app): Shared<Arc<App>>, visitor: Visitor) -> Page {
    account_page(&app, &visitor, "", String::new()).await
}

async fn account_page(app: &App, visitor: &Visitor, error: &str, made: String) -> Page {
    let Account { id, name, .. } = visitor.account("/account")?.clone();
    let now = now_s();
    let access = app.store.read(move |connection| access::list(connection, id, now)).await?;
    let access = access.into_iter().map(|access| {
        let left = format!("{} days", access.expires.saturating_sub(now).div_ceil(86_400));
        (access, left)
    });
    let page = AccountPage {
        shell: Shell::of(app, visitor),
        name,
        error: error.to_owned(),
        made,
        access: access.collect(),
    };
    Ok(show(visitor, &page))
}

/// A new password ends all sessions, and begins one here.
pub(super) async fn change_password(Shared(app): Shared<Arc<App>>, form: Submitted) -> Page {
    let account = form.visitor.account("/account")?.clone();
    app.limits.take(form.visitor.source, Kind::Login, Instant::now())?;
    match replace_password(&app, &form, account.name.clone()).await {
        Ok(()) => sign_in(&app, account.id, back("/account")).await,
        Err(error @ Error::Invalid(_)) => {
            let said = sentence(&error.to_string());
            let page = account_page(&app, &form.visitor, &said, String::new()).await?;
            Ok((error.status(), page).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn make_access(Shared(app): Shared<Arc<App>>, form: Submitted) -> Page {
    let account = form.visitor.account("/account")?.id;
    let text = random_text()?;
    let (stored, label, days) = (text.clone(), form.text("label").to_owned(), form.text("days").to_owned());
    let made = app
        .store
        .write(move |connection| access::create(connection, account, &stored, &label, &days, now_s()));
    made.await?;
    account_page(&app, &form.visitor, "", format!("{}{text}", access::PREFIX)).await
}

pub(super) async fn take_access_back(
    Shared(app): Shared<Arc<App>>,
    Path(id): Path<i64>,
    form: Submitted,
) -> Page {
    let account = form.visitor.account("/account")?.id;
    app.store.write(move |connection| access::take_back(connection, account, id)).await?;
    Ok(back("/account"))
}

async fn replace_password(app: &App, form: &Submitted, name: String) -> Result<(), Error> {
    let asked = name.clone();
    let found = app.store.read(move |connection| accounts::find(connection, &asked)).await?;
    let stored = found.map(|(_, stored)| stored);
    if !app.passwords.is_right(form.text("old").to_owned(), stored).await? {
        return Err(Error::invalid("the old password is wrong"));
    }
    let hash = app.passwords.hash(form.text("new").to_owned()).await?;
    app.store.write(move |connection| accounts::set_password(connection, &name, &hash)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_server() {
        for path in ["/", "/g/lab/nodes", "/account"] {
            assert_eq!(local(path), path);
        }
        for path in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nb",
            "javascript:alert(1)",
        ] {
            assert_eq!(local(path), "/", "{path}");
        }
    }
}
