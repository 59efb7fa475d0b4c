//! What all requests share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipop_overlay::group::request::CLOCKS_APART_MS_MAX;

use crate::api::{self, Report};
use crate::error::Error;
use crate::http::limits::Limits;
use crate::http::waiting::Waiting;
use crate::model::nodes;
use crate::password::Passwords;
use crate::secrets::MasterKey;
use crate::store::Store;

/// Nodes whose last request is remembered.
const HEARD_MAX: usize = 32_768;

/// The server, as its handlers see it.
#[derive(Debug)]
pub struct App {
    pub store: Store,
    pub master: Arc<MasterKey>,
    pub passwords: Passwords,
    pub limits: Limits,
    pub site: Site,
    pub heard: Heard,
    pub waiting: Waiting,
}

/// How the server is known and what it allows.
#[derive(Clone, Debug)]
pub struct Site {
    /// `https://HOST`, as browsers send it.
    pub origin: String,
    /// Whoever comes may make an account.
    pub is_open: bool,
    /// Whose word is taken for where a request comes from.
    pub proxies: Vec<std::net::IpAddr>,
}

impl Site {
    /// The host, with a port if it is not the usual one.
    pub fn host(&self) -> &str {
        self.origin.split_once("://").map_or(self.origin.as_str(), |(_, host)| host)
    }

    /// Where a group is.
    pub fn group_url(&self, group: &str) -> String {
        let scheme = self.origin.split_once("://").map_or("https", |(scheme, _)| scheme);
        format!("{scheme}://{}", api::place(self.host(), group))
    }

    /// By which a machine asks to join a group.
    pub fn join_command(&self, group: &str) -> String {
        format!("ipopctl group join {}", self.group_url(group))
    }
}

/// What nodes have said lately. It is written down every few seconds: nobody was promised that it stays.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// When the last request of a node was made, by its own clock in ms.
    times: HashMap<i64, u64>,
    /// When it last reported, in s, and what.
    reports: HashMap<i64, (u64, Report)>,
}

impl Heard {
    /// Takes a request once: each must be later than the one before.
    ///
    /// # Errors
    /// One that was made before the last, or at the same time.
    pub fn admit(&self, node: i64, time_ms: u64, now_ms: u64) -> Result<(), Error> {
        let mut inner = self.lock();
        if inner.times.len() >= HEARD_MAX && !inner.times.contains_key(&node) {
            // Older requests than these are refused by their time alone.
            inner.times.retain(|_, last| last.abs_diff(now_ms) <= CLOCKS_APART_MS_MAX);
            if inner.times.len() >= HEARD_MAX {
                return Err(Error::Busy);
            }
        }
        let last = inner.times.entry(node).or_default();
        if time_ms <= *last {
            return Err(Error::Conflict(
                "the request is not later than the one before: make a new one".to_owned(),
            ));
        }
        *last = time_ms;
        Ok(())
    }

    pub fn report(&self, node: i64, now_s: u64, report: Report) {
        let mut inner = self.lock();
        if inner.reports.len() < HEARD_MAX || inner.reports.contains_key(&node) {
            inner.reports.insert(node, (now_s, report));
        }
    }

    fn take(&self) -> Vec<(i64, u64, String)> {
        let reports = std::mem::take(&mut self.lock().reports);
        let text = |report: &Report| serde_json::to_string(report).unwrap_or_else(|_| "{}".to_owned());
        reports.into_iter().map(|(node, (seen, report))| (node, seen, text(&report))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Writes down what nodes have reported.
    pub async fn flush_reports(&self) {
        let reports = self.heard.take();
        if reports.is_empty() {
            return;
        }
        let written = self.store.write(move |connection| nodes::record_reports(connection, &reports)).await;
        if let Err(error) = written {
            tracing::warn!("reports of nodes are lost: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_once() {
        let heard = Heard::default();
        assert_eq!(heard.admit(1, 1000, 1000), Ok(()));
        assert!(matches!(heard.admit(1, 1000, 1000), Err(Error::Conflict(_))));
        assert!(matches!(heard.admit(1, 999, 1000), Err(Error::Conflict(_))));
        assert_eq!(heard.admit(2, 1000, 1000), Ok(()));
        assert_eq!(heard.admit(1, 1001, 1000), Ok(()));
    }

    #[test]
    fn requests_that_are_too_old_by_themselves_are_forgotten_when_room_is_needed() {
        let heard = Heard::default();
        for node in 0..HEARD_MAX as i64 {
            assert_eq!(heard.admit(node, 1, 1), Ok(()));
        }
        assert_eq!(heard.admit(-1, 1, 1), Err(Error::Busy));
        assert_eq!(heard.admit(-1, CLOCKS_APART_MS_MAX + 2, CLOCKS_APART_MS_MAX + 2), Ok(()));
    }
}
