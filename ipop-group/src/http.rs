//! HTTP: what nodes ask, what people's programs ask, and the pages.

mod assets;
pub mod limits;
mod manage_api;
mod node_api;
mod pages;
pub mod ring;
pub mod server;
pub mod tls;
mod visitor;
pub mod waiting;

use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY};
use axum::http::header::{STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ipop_overlay::group::request::REQUEST_LEN_MAX;

use crate::app::App;

/// Length of a form in bytes.
const FORM_LEN_MAX: usize = 32 * 1024;
/// Length of any body.
const LEN_MAX: usize = if FORM_LEN_MAX > REQUEST_LEN_MAX { FORM_LEN_MAX } else { REQUEST_LEN_MAX };
/// Nothing but what this server sends itself, and no script or style within a page.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// All that the server answers.
pub fn router(app: Arc<App>) -> Router {
    let is_tls = app.site.origin.starts_with("https:");
    let api = Router::new()
        .route("/api/v1/groups/{group}", post(node_api::request))
        .route("/api/v1/groups", post(manage_api::create))
        .route("/api/v1/groups/{group}/members", get(manage_api::members).post(manage_api::decide))
        .route("/api/v1/groups/{group}/tokens", post(manage_api::token))
        .layer(DefaultBodyLimit::max(REQUEST_LEN_MAX));
    pages::routes()
        .layer(DefaultBodyLimit::max(FORM_LEN_MAX))
        .merge(api)
        .route("/health", get(async || "ok\n"))
        .route("/assets/style.css", get(assets::style))
        .route("/assets/page.js", get(assets::script))
        .layer(middleware::from_fn(move |request: Request, next: Next| async move {
            // Who announces more than any of it takes need not begin to send it.
            let is_long = request.body().size_hint().lower() > LEN_MAX as u64;
            let response = match is_long {
                true => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
                false => next.run(request).await,
            };
            protect(response, is_tls)
        }))
        .with_state(app)
}

fn protect(mut response: Response, is_tls: bool) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if is_tls {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
