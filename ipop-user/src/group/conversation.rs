//! The conversation with a group's server, in a task of its own: joining, waiting to be approved, news, renewal. It goes
//! on whatever the server does; what comes of it are [`Word`]s.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipop_overlay::dht::SigningKey;
use ipop_overlay::group::request::Purpose;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::https::AskError;
use super::membership::Membership;
use super::place::GroupPlace;
use super::server::{Server, unix_ms};
use super::shapes::{Answer, Join, Report, Reported, Status, Waiting};
use crate::config;
use crate::key::random_u64;

/// So long after a failure the next try comes, at first; each time twice as long.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Answers that come at once are not asked for more often.
const PACE: Duration = Duration::from_millis(200);
/// Words that wait to be heard.
const WORDS_MAX: usize = 16;
const APPROVED: &str = "approved";
pub(crate) const PENDING: &str = "pending";

/// What is heard of the server.
#[derive(Debug)]
pub enum Word {
    /// This node is a member, with what it has by now.
    Member(Box<Membership>),
    /// It is none: pending, denied or removed.
    Other(String),
    /// The server does not answer, or refuses.
    Trouble(String),
    /// The server has answered.
    Well,
}

/// What the node itself knows meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub report: Report,
    pub document_number: u64,
    pub list_number: u64,
}

/// The task; it ends when this is dropped.
#[derive(Debug)]
pub struct Conversation {
    words: mpsc::Receiver<Word>,
    known: watch::Sender<Known>,
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Conversation {
    /// Begins it: with what this node has as a member, or to become one.
    ///
    /// # Errors
    /// Certificates of the server's that cannot be read.
    pub fn begin(
        group: &config::Group,
        node_name: &str,
        key: SigningKey,
        membership: Option<Membership>,
    ) -> anyhow::Result<Self> {
        let roots = group.ca.as_deref().map(Path::new);
        let server = Server::new(group.place.clone(), roots, key)?;
        let (said, words) = mpsc::channel(WORDS_MAX);
        let (known, heard) = watch::channel(Known::default());
        let wanted = Arc::new(Notify::new());
        let speaker = Speaker {
            name: node_name.to_ascii_lowercase(),
            token: group.token.clone(),
            place: group.place.clone(),
            server,
            is_joined: membership.is_some(),
            status: if membership.is_some() { APPROVED.to_owned() } else { String::new() },
            membership,
            said,
            known: heard,
            wanted: Arc::clone(&wanted),
        };
        Ok(Self { words, known, wanted, task: tokio::spawn(speaker.run()) })
    }

    pub async fn next_word(&mut self) -> Option<Word> {
        self.words.recv().await
    }

    /// What the node is to report, and what others have given it.
    pub fn tell(&self, known: Known) {
        self.known.send_if_modified(|before| {
            let is_other = *before != known;
            *before = known;
            is_other
        });
    }

    /// Has the certificate fetched now: others do not take it any more.
    pub fn fetch(&self) {
        self.wanted.notify_one();
    }
}

/// The task's side.
struct Speaker {
    name: String,
    token: Option<config::Secret>,
    place: GroupPlace,
    server: Server,
    /// The server knows this node.
    is_joined: bool,
    /// As the server has said last.
    status: String,
    membership: Option<Membership>,
    said: mpsc::Sender<Word>,
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
}

impl Speaker {
    /// Until nobody listens.
    async fn run(mut self) {
        let (mut retry, mut is_wanted) = (RETRY, true);
        let mut trouble = None;
        while !self.said.is_closed() {
            let step =
                if is_wanted { self.fetch().await.map(|()| Duration::ZERO) } else { self.news().await };
            match step {
                Ok(wait) => {
                    retry = RETRY;
                    if trouble.take().is_some() {
                        self.say(Word::Well).await;
                    }
                    is_wanted = self.pause(PACE + spread(wait)).await;
                }
                Err(error) => {
                    let text = error.to_string();
                    if trouble.as_ref() != Some(&text) {
                        self.say(Word::Trouble(text.clone())).await;
                        trouble = Some(text);
                    }
                    self.is_joined &= !error.is_unknown();
                    self.pause(spread(retry)).await;
                    retry = (retry * 2).min(RETRY_MAX);
                    is_wanted |= self.is_fetch_due();
                }
            }
            is_wanted |= self.is_fetch_due();
        }
    }

    /// Waits; whether something is wanted that cannot.
    async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = sleep(time) => false,
            () = self.wanted.notified() => true,
        }
    }

    async fn say(&self, word: Word) {
        // Who does not listen any more has ended.
        drop(self.said.send(word).await);
    }

    /// Whether the certificate is to be fetched: the server has said something new, or its time has come.
    fn is_fetch_due(&self) -> bool {
        let is_member = self.status == APPROVED;
        let renew_at = self.membership.as_ref().map_or(0, |membership| membership.renew_at);
        !self.is_joined || is_member && renew_at <= unix_ms() / 1000
    }

    /// Joins, or fetches what this node is granted.
    async fn fetch(&mut self) -> Result<(), AskError> {
        let answer: Answer = if self.is_joined {
            self.server.ask(Purpose::Fetch, b"").await?
        } else {
            let token = self.token.as_ref().map(config::Secret::expose_text);
            let join = serde_json::to_vec(&Join { name: &self.name, token }).unwrap_or_default();
            self.server.ask(Purpose::Join, &join).await?
        };
        self.is_joined = true;
        self.status = answer.status;
        let Some(granted) = answer.granted.filter(|_| self.status == APPROVED) else {
            // One that is pending may be a member again: of the same authority, then.
            if self.status != PENDING {
                self.membership = None;
            }
            self.say(Word::Other(self.status.clone())).await;
            return Ok(());
        };
        let newer = Membership::granted(&granted, &self.place, &self.server.public_key());
        let newer = newer.and_then(|newer| match &self.membership {
            Some(before) => before.renewed(newer),
            None => Ok(newer),
        });
        let newer = newer.map_err(|error| AskError::NoAnswer(error.to_string()))?;
        if self.membership.as_ref() != Some(&newer) {
            self.membership = Some(newer.clone());
            self.say(Word::Member(Box::new(newer))).await;
        }
        Ok(())
    }

    /// Reports, and waits with the server for news; how long to wait before the next time.
    async fn news(&mut self) -> Result<Duration, AskError> {
        let known = self.known.borrow_and_update().clone();
        let own = self.membership.as_ref().map_or((0, 0), |own| (own.document_number, own.list_number));
        let (document_number, list_number) = (known.document_number.max(own.0), known.list_number.max(own.1));
        let status = Status { status: &self.status, document_number, list_number };
        let body = serde_json::to_vec(&Waiting { report: &known.report, known: status }).unwrap_or_default();
        let reported: Reported = tokio::select! {
            reported = self.server.ask(Purpose::Report, &body) => reported?,
            () = self.wanted.notified() => {
                self.fetch().await?;
                return Ok(Duration::ZERO);
            }
        };
        // Others may have given this node what is new.
        let now = self.known.borrow().clone();
        let is_news = reported.status != self.status
            || reported.is_stale
            || reported.document_number > document_number.max(now.document_number)
            || reported.list_number > list_number.max(now.list_number);
        if is_news {
            self.fetch().await?;
            return Ok(Duration::ZERO);
        }
        Ok(Duration::from_secs(reported.report_s))
    }
}

/// Up to an eighth more, so that nodes do not stay in step.
fn spread(time: Duration) -> Duration {
    let part = u64::try_from(time.as_nanos() / 8).unwrap_or(u64::MAX).max(1);
    time + Duration::from_nanos(random_u64().unwrap_or_default() % part)
}
