//! Where sessions lie, and the filter of handshake messages: in maps that the kernel's programs share, or
//! in memory of the daemon's own where there are no programs. The user path does not know which.

use std::os::fd::BorrowedFd;

use ipop_common::filter::Filter;
use ipop_common::session::{PLACES, Session, place};
use nix::errno::Errno;

use crate::mapping::Mapping;

/// All places for sessions of one node, and its filter.
#[derive(Debug)]
pub struct Places {
    sessions: Mapping<Session>,
    filter: Mapping<Filter>,
}

impl Places {
    /// The places in the maps of sessions and of the filter.
    ///
    /// # Errors
    /// The kernel's refusal: not those maps.
    pub fn shared(sessions: BorrowedFd<'_>, filter: BorrowedFd<'_>) -> Result<Self, Errno> {
        // SAFETY: a session, and a filter, is nothing but words that may hold anything.
        let (sessions, filter) = unsafe { (Mapping::new(sessions, PLACES)?, Mapping::new(filter, 1)?) };
        Ok(Self { sessions, filter })
    }

    /// Places that no program sees. One costs memory when a session lies there.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub fn own() -> Result<Self, Errno> {
        // SAFETY: nothing but words that may hold anything; all zeroes is a vacant session, and a filter
        // that admits everything.
        let (sessions, filter) = unsafe { (Mapping::anonymous(PLACES)?, Mapping::anonymous(1)?) };
        Ok(Self { sessions, filter })
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

    /// Which handshake messages reach the daemon, where there are programs, and whether it is under load.
    pub fn filter(&self) -> &Filter {
        // SAFETY: as above.
        unsafe { self.filter.at(0).as_ref() }
    }
}
