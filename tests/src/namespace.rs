//! A network namespace of a test's own.

use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread into a new network namespace, which goes when the thread and what it
/// has opened there are gone: nothing of the machine's own network is seen or changed.
///
/// # Panics
/// Without root.
pub fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
}
