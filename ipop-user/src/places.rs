//! Where sessions lie: in a map that the kernel's programs share, or in memory of the daemon's own
//! where there are no programs. The user path does not know which.

use std::os::fd::BorrowedFd;

use ipop_common::session::{PLACES, Session, place};
use nix::errno::Errno;

use crate::mapping::Mapping;

/// All places for sessions of one node.
#[derive(Debug)]
pub struct Places(Memory);

#[derive(Debug)]
enum Memory {
    Shared(Mapping<Session>),
    Own(Box<[Session]>),
}

impl Places {
    /// The places in the sessions map behind `fd`.
    ///
    /// # Errors
    /// The kernel's refusal: not the sessions map.
    pub fn shared(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        // SAFETY: a session is nothing but words that may hold anything.
        Ok(Self(Memory::Shared(unsafe { Mapping::new(fd, PLACES) }?)))
    }

    /// Places that no program sees.
    pub fn own() -> Self {
        // Fresh from the kernel, so that a place costs memory when a session lies there.
        let memory = Box::<[Session]>::new_zeroed_slice(PLACES as usize);
        // SAFETY: a session is nothing but words that may hold anything, and all zeroes is a vacant one.
        Self(Memory::Own(unsafe { memory.assume_init() }))
    }

    /// The place of the session that this node knows by `local`, whatever session is there now.
    pub fn of(&self, local: u32) -> &Session {
        match &self.0 {
            // SAFETY: a value of the mapping, which lives as long as `self`; programs change it only
            // as a session may be changed by others.
            Memory::Shared(mapping) => unsafe { mapping.at(place(local)).as_ref() },
            Memory::Own(places) => &places[place(local) as usize],
        }
    }

    /// The sessions that are there now, by their local indices.
    pub fn sessions(&self) -> impl Iterator<Item = u32> + '_ {
        (0..PLACES).filter_map(|place| self.of(place).local())
    }
}
