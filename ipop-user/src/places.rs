//! Where sessions lie: in a map that the kernel's programs share, or in memory of the daemon's own
//! where there are no programs. The user path does not know which.

use std::os::fd::BorrowedFd;

use ipop_common::session::{PLACES, Session, place};
use nix::errno::Errno;

use crate::mapping::Mapping;

/// All places for sessions of one node.
#[derive(Debug)]
pub struct Places(Mapping<Session>);

impl Places {
    /// The places in the sessions map behind `fd`.
    ///
    /// # Errors
    /// The kernel's refusal: not the sessions map.
    pub fn shared(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        // SAFETY: a session is nothing but words that may hold anything.
        Ok(Self(unsafe { Mapping::new(fd, PLACES) }?))
    }

    /// Places that no program sees. One costs memory when a session lies there.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub fn own() -> Result<Self, Errno> {
        // SAFETY: a session is nothing but words that may hold anything; all zeroes is a vacant one.
        Ok(Self(unsafe { Mapping::anonymous(PLACES) }?))
    }

    /// The place of the session that this node knows by `local`, whatever session is there now.
    pub fn of(&self, local: u32) -> &Session {
        // SAFETY: a value of the mapping, which lives as long as `self`; programs change it only as a
        // session may be changed by others.
        unsafe { self.0.at(place(local)).as_ref() }
    }

    /// The sessions that are there now, by their local indices.
    pub fn sessions(&self) -> impl Iterator<Item = u32> + '_ {
        (0..PLACES).filter_map(|place| self.of(place).local())
    }
}
