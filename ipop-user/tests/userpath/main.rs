//! The user path between two hosts: real devices, real sockets, both engines by the same code.
//! Needs root: without it each test says that it is skipped, and fails where CI=true or
//! IPOP_REQUIRE_ROOT=1.
#![expect(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "skips and figures are to be seen")]

/// Makes a test for each engine of a function that takes one.
macro_rules! with_both_engines {
    ($($(#[$attribute:meta])* fn $name:ident($io:ident) $body:block)*) => {
        mod io_uring {
            $(#[test] fn $name() { super::$name(ipop_user::userpath::Io::IoUring); })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(ipop_user::userpath::Io::Epoll); })*
        }
        $($(#[$attribute])* fn $name($io: ipop_user::userpath::Io) {
            if crate::wire::is_root() {
                let _turn = crate::wire::alone();
                $body
            }
        })*
    };
}

mod datagrams;
mod figures;
mod hostile;
mod lifecycle;
mod refusals;
mod sealed;
mod transfer;
mod wire;
