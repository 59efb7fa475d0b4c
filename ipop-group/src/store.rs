//! What the server remembers: one SQLite database, written by one thread.
//!
//! What is asked to be written at about the same time goes into one transaction, each piece of work in a savepoint of its
//! own, and nobody is answered before that transaction is on the disk (`synchronous = FULL`). So what was acknowledged
//! survives a crash at any moment, what failed left nothing behind, and a disk that syncs slowly limits how long one waits
//! and not how many are served.

mod database;
mod writer;

pub use database::{FILE_NAME, backup, check, open, restore};
pub use writer::Store;

/// Seconds since 1970.
pub fn now_s() -> u64 {
    now_ms() / 1000
}

/// Milliseconds since 1970; 0 on a host whose clock is before that.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
