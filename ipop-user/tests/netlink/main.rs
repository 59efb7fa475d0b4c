//! `ipop_user::netlink` against the running kernel, in network namespaces of the tests' own. Needs
//! root: without it each test says that it is skipped, and fails if `IPOP_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod address;
mod device;
mod monitor;
mod neighbour;
mod net;
mod path;
mod route;
mod xdp;
