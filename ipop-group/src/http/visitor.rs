//! Who asks for a page: where from, by which session; and forms, which are only read when they carry the session's token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::http::header::{COOKIE, ORIGIN, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::limits::Kind;
use super::pages::PageError;
use crate::app::App;
use crate::error::Error;
use crate::model::accounts::{self, Account, SESSION_S};
use crate::secrets::random_text;
use crate::store::now_s;

/// The cookie of a session.
const SESSION: &str = "__Host-ipop-session";
/// The cookie by which forms are bound to a browser that has no session.
const VISIT: &str = "__Host-ipop-visit";
/// Length of what either holds: 256 bits in base64.
const COOKIE_LEN: usize = 43;
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Fields of one form.
const FIELDS_MAX: usize = 32;

/// Where a connection comes from; the server puts it into each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// Where a request comes from: the connection's other end, or whom a trusted proxy names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source(pub(super) IpAddr);

impl FromRequestParts<Arc<App>> for Source {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.to_canonical());
        let peer = peer.ok_or_else(|| {
            PageError::from(Error::Internal("a request without a peer".to_owned())).into_response()
        })?;
        let named = if app.site.proxies.contains(&peer) { last_forwarded(&parts.headers) } else { None };
        Ok(Self(named.unwrap_or(peer)))
    }
}

/// What the proxy itself has added is the last.
fn last_forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let header = headers.get_all(FORWARDED).iter().next_back()?.to_str().ok()?;
    header.rsplit(',').next()?.trim().parse().ok()
}

/// Who looks at a page.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) account: Option<Account>,
    pub(super) source: IpAddr,
    /// Of the session, or of the visit.
    pub(super) cookie: String,
    /// The browser does not have the cookie yet.
    is_new: bool,
}

impl FromRequestParts<Arc<App>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        let Source(source) = Source::from_request_parts(parts, app).await?;
        Self::find(app, source, &parts.headers).await.map_err(|error| PageError::from(error).into_response())
    }
}

impl Visitor {
    async fn find(app: &App, source: IpAddr, headers: &HeaderMap) -> Result<Self, Error> {
        app.limits.take(source, Kind::Page, Instant::now())?;
        if let Some(cookie) = cookie(headers, SESSION)
            && let Some(account) = session(app, &cookie).await?
        {
            return Ok(Self { account: Some(account), source, cookie, is_new: false });
        }
        Ok(match cookie(headers, VISIT) {
            Some(cookie) => Self { account: None, source, cookie, is_new: false },
            None => Self { account: None, source, cookie: random_text()?, is_new: true },
        })
    }

    /// The account.
    ///
    /// # Errors
    /// Sends a visitor without a session to sign in.
    pub(super) fn account(&self, path: &str) -> Result<&Account, PageError> {
        self.account.as_ref().ok_or_else(|| PageError::SignIn(path.to_owned()))
    }

    /// Gives the browser its cookie, if it has none.
    pub(super) fn greet(&self, mut response: Response) -> Response {
        if self.is_new {
            set_cookie(&mut response, VISIT, &self.cookie, 3600);
        }
        response
    }
}

async fn session(app: &App, cookie: &str) -> Result<Option<Account>, Error> {
    let asked = cookie.to_owned();
    let found = app.store.read(move |connection| accounts::session(connection, &asked, now_s())).await?;
    let Some((account, is_to_be_touched)) = found else { return Ok(None) };
    if is_to_be_touched {
        let used = cookie.to_owned();
        app.store.write(move |connection| accounts::touch_session(connection, &used, now_s())).await?;
    }
    Ok(Some(account))
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
    let mut pairs = pairs.flat_map(|header| header.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    (value.len() == COOKIE_LEN).then(|| value.to_owned())
}

/// `__Host-`: of this host alone, by TLS alone, for all paths. Browsers count `localhost` as TLS.
fn set_cookie(response: &mut Response, name: &str, value: &str, seconds: u64) {
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
    if let Ok(header) = HeaderValue::from_str(&text) {
        response.headers_mut().append(SET_COOKIE, header);
    }
}

/// A new session for who has shown who they are; the cookies of before are worth nothing any more.
pub(super) async fn sign_in(app: &App, account: i64, response: Response) -> Result<Response, PageError> {
    let (cookie, mut response) = (random_text()?, response);
    let stored = cookie.clone();
    app.store.write(move |connection| accounts::begin_session(connection, account, &stored, now_s())).await?;
    set_cookie(&mut response, SESSION, &cookie, SESSION_S);
    set_cookie(&mut response, VISIT, "", 0);
    Ok(response)
}

/// Ends the session, in the database and in the browser.
pub(super) async fn sign_out(
    app: &App,
    visitor: &Visitor,
    mut response: Response,
) -> Result<Response, PageError> {
    let cookie = visitor.cookie.clone();
    app.store.write(move |connection| accounts::end_session(connection, &cookie)).await?;
    set_cookie(&mut response, SESSION, "", 0);
    Ok(response)
}

/// A form that this server has given to this visitor.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) visitor: Visitor,
    fields: Vec<(String, String)>,
}

impl FromRequest<Arc<App>> for Submitted {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, app).await?;
        let is_ours = is_same_origin(&parts.headers, &app.site.origin);
        let form = Form::<Vec<(String, String)>>::from_request(Request::from_parts(parts, body), app).await;
        let Form(fields) = form.map_err(IntoResponse::into_response)?;
        let submitted = Self { visitor, fields };
        let token = app.master.form_token(&submitted.visitor.cookie);
        let is_bound: bool = submitted.text("csrf").as_bytes().ct_eq(token.as_bytes()).into();
        if is_ours && is_bound && submitted.fields.len() <= FIELDS_MAX {
            Ok(submitted)
        } else {
            Err(PageError::StaleForm.into_response())
        }
    }
}

impl Submitted {
    /// The first field of that name; empty if there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.fields.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub(super) fn is_checked(&self, name: &str) -> bool {
        !self.text(name).is_empty()
    }
}

/// Browsers say where a form comes from; `null` where they hide it.
fn is_same_origin(headers: &HeaderMap, origin: &str) -> bool {
    headers.get(ORIGIN).is_none_or(|found| found == origin)
}
