//! The resources: each one asks the daemon and turns its answer into HTTP.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{BODY_LEN_MAX, Limits, Probe, Reply, Request, metrics};
use crate::api::{self, paths};

/// The daemon, as a handler sees it.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    requests: mpsc::Sender<Request>,
    limits: Limits,
}

impl Daemon {
    pub(super) fn new(requests: mpsc::Sender<Request>, limits: Limits) -> Self {
        Self { requests, limits }
    }

    /// Asks for a piece of state.
    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Failure> {
        self.ask_within(self.limits.answer, request).await
    }

    /// Gives an order, which may be refused.
    async fn order<T>(
        &self,
        limit: Duration,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, Failure> {
        self.ask_within(limit, request).await?.map_err(Failure::Refused)
    }

    async fn ask_within<T>(
        &self,
        limit: Duration,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send(request(reply)).await.map_err(|_| Failure::Gone)?;
            answer.await.map_err(|_| Failure::Gone)
        };
        timeout(limit, exchange).await.unwrap_or(Err(Failure::Busy(limit)))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The daemon said no, and why.
    Refused(String),
    /// The request makes no sense.
    Malformed(String),
    /// No answer within the limit.
    Busy(Duration),
    /// The daemon is shutting down.
    Gone,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Failure::Refused(why) => (StatusCode::CONFLICT, why),
            Failure::Malformed(why) => (StatusCode::BAD_REQUEST, why),
            Failure::Busy(limit) => {
                (StatusCode::GATEWAY_TIMEOUT, format!("ipopd gave no answer within {limit:?}; see its log"))
            }
            Failure::Gone => (
                StatusCode::SERVICE_UNAVAILABLE,
                "ipopd is shutting down; try again when it is up".to_owned(),
            ),
        };
        (status, Json(api::Refusal { error })).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failure>;

/// Everything, for the control socket.
pub(super) fn control(daemon: Daemon) -> Router {
    Router::new()
        .route(paths::STATUS, get(status))
        .route(paths::PEERS, get(peers))
        .route(paths::LINKS, get(links))
        .route(paths::GROUPS, get(groups))
        .route(paths::STATIONS, get(stations))
        .route(paths::ROUTES, get(routes))
        .route(paths::EXPLAIN, get(explain))
        .route(paths::COUNTERS, get(counters))
        .route(paths::PING, post(ping))
        .route(paths::TRACE, post(trace))
        .route(paths::SURVEY, post(survey))
        .route(paths::DHT, post(dht))
        .route(paths::DHCP, get(dhcp))
        .route(paths::DATAPATH_KERNEL, post(set_kernel))
        .route(paths::RELOAD, post(reload))
        .route(paths::METRICS, get(scrape))
        .fallback(no_such_resource)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(daemon)
}

/// Metrics alone, for anybody who can reach the TCP address.
pub(super) fn metrics_only(daemon: Daemon) -> Router {
    Router::new()
        .route(paths::METRICS, get(scrape))
        .fallback(no_such_resource)
        .method_not_allowed_fallback(wrong_method)
        .with_state(daemon)
}

async fn status(State(daemon): State<Daemon>) -> Answer<api::Status> {
    daemon.ask(Request::Status).await.map(Json)
}

async fn peers(State(daemon): State<Daemon>) -> Answer<Vec<api::Peer>> {
    daemon.ask(Request::Peers).await.map(Json)
}

async fn groups(State(daemon): State<Daemon>) -> Answer<api::Groups> {
    daemon.ask(Request::Groups).await.map(Json)
}

async fn stations(State(daemon): State<Daemon>) -> Answer<api::Stations> {
    daemon.ask(Request::Stations).await.map(Json)
}

async fn links(State(daemon): State<Daemon>) -> Answer<Vec<api::Link>> {
    daemon.ask(Request::Links).await.map(Json)
}

async fn routes(State(daemon): State<Daemon>) -> Answer<Vec<api::Route>> {
    daemon.ask(Request::Routes).await.map(Json)
}

async fn counters(State(daemon): State<Daemon>) -> Answer<api::Counters> {
    daemon.ask(Request::Counters).await.map(Json)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    peer: String,
}

async fn explain(
    State(daemon): State<Daemon>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Answer<api::Explanation> {
    let Query(ExplainQuery { peer }) = query.map_err(|error| Failure::Malformed(error.body_text()))?;
    let peer = api::Selector::parse(&peer);
    daemon.order(daemon.limits.answer, |reply| Request::Explain { peer, reply }).await.map(Json)
}

async fn ping(
    State(daemon): State<Daemon>,
    order: Result<Json<api::PingOrder>, JsonRejection>,
) -> Answer<api::Ping> {
    let api::PingOrder { peer, count, interval_ms, overlay } = body(order)?;
    if !(1..=api::PING_COUNT_MAX).contains(&count) || interval_ms > api::PING_INTERVAL_MS_MAX {
        return Err(Failure::Malformed(format!(
            "a ping has a count of 1 to {} and an interval of at most {} ms",
            api::PING_COUNT_MAX,
            api::PING_INTERVAL_MS_MAX
        )));
    }
    let interval = Duration::from_millis(interval_ms);
    let answers = Duration::from_millis(api::PING_TIMEOUT_MS + api::LOOKUP_TIMEOUT_MS);
    let limit = interval * count + answers + daemon.limits.answer;
    let node = Some(api::Selector::parse(&peer));
    let probe = |reply| Request::Probe { node, probe: Probe::Ping { count, interval, overlay, reply } };
    daemon.order(limit, probe).await.map(Json)
}

async fn trace(
    State(daemon): State<Daemon>,
    order: Result<Json<api::TraceOrder>, JsonRejection>,
) -> Answer<api::Hop> {
    let api::TraceOrder { node, hop } = body(order)?;
    if hop == 0 {
        return Err(Failure::Malformed("hops are counted from 1".to_owned()));
    }
    let node = Some(api::Selector::parse(&node));
    let probe = |reply| Request::Probe { node, probe: Probe::Trace { hop, reply } };
    daemon.order(daemon.limits.order, probe).await.map(Json)
}

async fn survey(
    State(daemon): State<Daemon>,
    order: Result<Json<api::SurveyOrder>, JsonRejection>,
) -> Answer<api::RingNode> {
    let api::SurveyOrder { node } = body(order)?;
    let node = node.as_deref().map(api::Selector::parse);
    let probe = |reply| Request::Probe { node, probe: Probe::Survey { reply } };
    daemon.order(daemon.limits.survey, probe).await.map(Json)
}

async fn dht(
    State(daemon): State<Daemon>,
    order: Result<Json<api::DhtOrder>, JsonRejection>,
) -> Answer<api::DhtAnswer> {
    let order = body(order)?;
    daemon.order(daemon.limits.order, |reply| Request::Dht { order, reply }).await.map(Json)
}

async fn dhcp(State(daemon): State<Daemon>) -> Answer<api::Dhcp> {
    daemon.ask(Request::Dhcp).await.map(Json)
}

async fn set_kernel(
    State(daemon): State<Daemon>,
    order: Result<Json<api::KernelOrder>, JsonRejection>,
) -> Answer<api::Done> {
    let api::KernelOrder { on } = body(order)?;
    let message = daemon.order(daemon.limits.order, |reply| Request::SetKernel { on, reply }).await?;
    Ok(Json(api::Done { message }))
}

async fn reload(State(daemon): State<Daemon>) -> Answer<api::Done> {
    let message = daemon.order(daemon.limits.order, Request::Reload).await?;
    Ok(Json(api::Done { message }))
}

async fn scrape(State(daemon): State<Daemon>) -> Result<Response, Failure> {
    let text = metrics::scrape(&daemon).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn no_such_resource() -> Response {
    refusal(StatusCode::NOT_FOUND, "no such resource; ipopctl and ipopd should be of one version")
}

async fn wrong_method() -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "the resource has no such method")
}

fn refusal(status: StatusCode, error: &str) -> Response {
    (status, Json(api::Refusal { error: error.to_owned() })).into_response()
}

fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Failure> {
    body.map(|Json(value)| value).map_err(|error| Failure::Malformed(error.body_text()))
}
