//! The pages: HTML that the server writes, which works without a script.

mod account;
mod dashboard;
mod groups;
mod manage;
mod people;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use super::visitor::Visitor;
use crate::app::App;
use crate::error::Error;
use crate::model::accounts::Account;
use crate::model::groups::Group;
use crate::model::users::{self, Role};

/// Rows of one page of a table.
const PAGE_ROWS: usize = 100;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(groups::home))
        .route("/login", get(account::login_form).post(account::login))
        .route("/register", get(account::register_form).post(account::register))
        .route("/logout", post(account::logout))
        .route("/account", get(account::page).post(account::change_password))
        .route("/account/access", post(account::make_access))
        .route("/account/access/{id}/take-back", post(account::take_access_back))
        .route("/groups", get(groups::new_form).post(groups::create))
        .route("/g/{group}", get(groups::join_page))
        .route("/g/{group}/ask", post(groups::ask))
        .route("/g/{group}/nodes", get(dashboard::page))
        .route("/g/{group}/ring.svg", get(dashboard::ring))
        .route("/g/{group}/nodes/{id}", get(dashboard::node).post(dashboard::tag))
        .route("/g/{group}/nodes/{id}/state", post(dashboard::decide))
        .route("/g/{group}/people", get(people::page))
        .route("/g/{group}/people/{account}/state", post(people::decide))
        .route("/g/{group}/people/{account}/role", post(people::promote))
        .route("/g/{group}/tokens", get(manage::tokens).post(manage::make_token))
        .route("/g/{group}/tokens/{id}/take-back", post(manage::take_back))
        .route("/g/{group}/rules", get(manage::rules).post(manage::add_rule))
        .route("/g/{group}/rules/{id}/remove", post(manage::remove_rule))
        .route("/g/{group}/settings", get(manage::settings).post(manage::change_settings))
        .route("/g/{group}/log", get(manage::log))
        .fallback(async || PageError::from(Error::NotFound("page")))
}

/// Why a page is not shown.
#[derive(Debug)]
pub(super) enum PageError {
    /// It takes an account; this is the page that was asked for.
    SignIn(String),
    /// A form that this server did not give to this browser, or too long ago.
    StaleForm,
    Refused(Error),
}

impl From<Error> for PageError {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::SignIn(path) => return Redirect::to(&format!("/login?next={path}")).into_response(),
            Self::StaleForm => (
                StatusCode::FORBIDDEN,
                "This form is too old, or from elsewhere: load its page again.".to_owned(),
            ),
            Self::Refused(error) => {
                error.log();
                (error.status(), sentence(&error.to_string()))
            }
        };
        let page = ErrorPage { shell: Shell::default(), status: status.as_u16(), message };
        (status, render(&page)).into_response()
    }
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut signs = text.chars();
    let first = signs.next().map(|sign| sign.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", signs.as_str().trim_end_matches('.'))
}

type Page = Result<Response, PageError>;

/// What is around each page.
#[derive(Debug, Default)]
struct Shell {
    /// The display name of who has signed in.
    user: String,
    csrf: String,
    /// The group of the page, and what the visitor is there.
    group: String,
    role: Option<Role>,
    /// Which of the group's pages it is.
    tab: &'static str,
}

impl Shell {
    fn of(app: &App, visitor: &Visitor) -> Self {
        let user = visitor.account.as_ref().map(|account| account.display.clone()).unwrap_or_default();
        Self { user, csrf: app.master.form_token(&visitor.cookie), ..Self::default() }
    }

    fn within(self, group: &Group, role: Role, tab: &'static str) -> Self {
        Self { group: group.name.to_string(), role: Some(role), tab, ..self }
    }

    fn is_manager(&self) -> bool {
        self.role >= Some(Role::Manager)
    }

    fn is_owner(&self) -> bool {
        self.role == Some(Role::Owner)
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    shell: Shell,
    status: u16,
    message: String,
}

fn render(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!("a template: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A page for this visitor.
fn show(visitor: &Visitor, page: &impl Template) -> Response {
    visitor.greet(render(page))
}

/// Back to a page after something was done.
fn back(path: &str) -> Response {
    Redirect::to(path).into_response()
}

/// A group, for a member of it who may do what takes that role.
async fn member(app: &App, account: &Account, name: &str, least: Role) -> Result<(Group, Role), PageError> {
    let (id, name) = (account.id, name.to_owned());
    let found = app.store.read(move |connection| {
        let group = groups_find(connection, &name)?;
        let role = users::require(connection, group.id, id, least)?;
        Ok((group, role))
    });
    Ok(found.await?)
}

fn groups_find(connection: &rusqlite::Connection, name: &str) -> Result<Group, Error> {
    crate::model::groups::find(connection, name)?.ok_or(Error::NotFound("group"))
}

/// How long ago, as people say it.
fn ago(then: u64, now: u64) -> String {
    let seconds = now.saturating_sub(then);
    match seconds {
        _ if then == 0 => "never".to_owned(),
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// The group and a number, out of a path.
type Numbered = Path<(String, i64)>;
