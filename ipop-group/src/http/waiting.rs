//! Reports whose answer waits until something is new: so a node hears of a removal at once, and asks seldom.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::limits::network;
use crate::api::{Known, Reported};
use crate::error::Error;

/// Answers that wait at a time: half of the connections, so that there is room for who asks something else. Nodes
/// without a place report every now and then, and hear of news from those that have one.
const WAITING_MAX: usize = 256;
/// Of one source.
const WAITING_PER_SOURCE_MAX: usize = 64;
/// How long one waits. Less than a request may take, and than a proxy usually grants.
const WAIT: Duration = Duration::from_secs(20);
/// Writes come in bursts; so long after one is looked at what there is.
const SETTLE: Duration = Duration::from_millis(100);

/// The places.
#[derive(Debug, Default)]
pub struct Waiting(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them; gives itself back.
#[derive(Debug)]
pub(super) struct Place(Arc<Mutex<HashMap<IpAddr, usize>>>, IpAddr);

impl Waiting {
    /// `None` if too many wait.
    pub(super) fn take(&self, source: IpAddr) -> Option<Place> {
        let source = network(source);
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = places.values().sum();
        let count = places.get(&source).copied().unwrap_or_default();
        if total >= WAITING_MAX || count >= WAITING_PER_SOURCE_MAX {
            return None;
        }
        places.insert(source, count + 1);
        Some(Place(Arc::clone(&self.0), source))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.1);
            }
        }
    }
}

/// Whether an answer says something that the node does not know.
pub(super) fn is_news(reported: &Reported, known: &Known) -> bool {
    reported.is_stale
        || reported.status != known.status
        || reported.document_number > known.document_number
        || reported.list_number > known.list_number
}

/// Looks again whenever something has been written, until there is news or the time is over.
///
/// # Errors
/// Those of `look`.
pub(super) async fn until_news<F>(
    known: &Known,
    mut written: watch::Receiver<()>,
    mut look: impl FnMut() -> F,
) -> Result<Reported, Error>
where
    F: Future<Output = Result<Reported, Error>>,
{
    let end = Instant::now() + WAIT;
    loop {
        written.mark_unchanged();
        let reported = look().await?;
        if is_news(&reported, known) {
            return Ok(reported);
        }
        if !matches!(timeout_at(end, written.changed()).await, Ok(Ok(()))) {
            return Ok(reported);
        }
        sleep_until((Instant::now() + SETTLE).min(end)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn places_are_bounded_for_each_source_and_in_all_and_are_given_back() {
        let waiting = Waiting::default();
        let one: Vec<_> = (0..WAITING_PER_SOURCE_MAX).map(|_| waiting.take(source(1))).collect();
        assert!(one.iter().all(Option::is_some));
        assert!(waiting.take(source(1)).is_none());
        let others: Vec<_> =
            (0..WAITING_MAX as u32).filter_map(|number| waiting.take(source(10 + number))).collect();
        assert_eq!(others.len(), WAITING_MAX - WAITING_PER_SOURCE_MAX);
        drop(one);
        assert!(waiting.take(source(1)).is_some());
    }
}
