//! Where sessions lie, and the filter of handshake messages: in maps that the kernel's programs share, or
//! in memory of the daemon's own where there are no programs. The user path does not know which.

use std::os::fd::BorrowedFd;

use ipop_common::filter::Filter;
use ipop_common::rules::{BUCKETS, BUCKETS_AND_SEED, Bucket, Seed};
use ipop_common::session::{PLACES, Session, place};
use nix::errno::Errno;

use crate::mapping::Mapping;

/// All places for sessions of one node, and its filter.
#[derive(Debug)]
pub struct Places {
    sessions: Mapping<Session>,
    filter: Mapping<Filter>,
    begun: Mapping<Bucket>,
}

impl Places {
    /// The places in the maps of sessions, of the filter and of flows.
    ///
    /// # Errors
    /// The kernel's refusal: not those maps.
    pub fn shared(
        sessions: BorrowedFd<'_>,
        filter: BorrowedFd<'_>,
        begun: BorrowedFd<'_>,
    ) -> Result<Self, Errno> {
        // SAFETY: a session, a filter, and a bucket of flows, is nothing but words that may hold anything.
        let (sessions, filter) = unsafe { (Mapping::new(sessions, PLACES)?, Mapping::new(filter, 1)?) };
        // SAFETY: as above.
        let begun = unsafe { Mapping::new(begun, BUCKETS_AND_SEED)? };
        Ok(Self { sessions, filter, begun })
    }

    /// Places that no program sees. One costs memory when a session lies there.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub fn own() -> Result<Self, Errno> {
        // SAFETY: nothing but words that may hold anything; all zeroes is a vacant session, and a filter
        // that admits everything.
        let (sessions, filter) = unsafe { (Mapping::anonymous(PLACES)?, Mapping::anonymous(1)?) };
        // SAFETY: as above.
        let begun = unsafe { Mapping::anonymous(BUCKETS_AND_SEED)? };
        Ok(Self { sessions, filter, begun })
    }

    /// The place of the session that this node knows by `local`, whatever session is there now.
    pub fn of(&self, local: u32) -> &Session {
        // SAFETY: a value of the mapping, which lives as long as `self`; programs change it only as a
        // session may be changed by others.
        unsafe { self.sessions.at(place(local)).as_ref() }
    }

    /// The sessions that are there now, by their local indices.
    pub fn sessions(&self) -> Vec<u32> {
        self.sessions.find(Session::local)
    }

    /// A bucket of flows that await answers, and behind the last the secret by which they are named; see
    /// [`ipop_common::rules`].
    pub fn begun(&self, index: u32) -> Option<&Bucket> {
        // SAFETY: a value of the mapping, as just compared; programs change single words of it.
        (index < BUCKETS_AND_SEED).then(|| unsafe { self.begun.at(index).as_ref() })
    }

    /// Takes over the flows of an earlier daemon, with the secret by which they are named.
    pub fn copy_begun(&self, from: &Self) {
        for index in 0..BUCKETS_AND_SEED {
            if let (Some(to), Some(from)) = (self.begun(index), from.begun(index)) {
                to.iter().zip(from).for_each(|(to, from)| to.store(from.load()));
            }
        }
    }

    /// Sets the secret, if there is none yet.
    pub fn begin_flows(&self, seed: Seed) {
        if let Some(place) = self.begun(BUCKETS)
            && Seed::of(place) == Seed(0, 0)
        {
            seed.put(place);
        }
    }

    /// Which handshake messages reach the daemon, where there are programs, and whether it is under load.
    pub fn filter(&self) -> &Filter {
        // SAFETY: as above.
        unsafe { self.filter.at(0).as_ref() }
    }
}
