//! The host's network as the kernel tells it: devices, addresses, routes, neighbours and their
//! changes, by rtnetlink. Owns the request sockets and the types that the rest of the daemon
//! sees; decides nothing about peers or links, and keeps no state of its own.
//!
//! Sockets belong to the network namespace of the thread that opens them, so [`Netlink::connect`]
//! and [`Monitor::open`] speak of the namespace that their caller is in. Both need a tokio runtime
//! with I/O and time enabled.
//!
//! | file | what |
//! |---|---|
//! | `link` | device state, up and down, MTU, quietness |
//! | `vxlan` | the VXLAN or VXLAN-GPE device: make, recognise |
//! | `address`, `route` | bring addresses and routes of our device to a wanted set |
//! | `rule` | whose packets look into the table of subnets; the mark of those that do not |
//! | `path`, `neighbour` | how packets to a peer leave this host |
//! | `xdp` | XDP attachment that outlives the daemon |
//! | `generic` | what a driver can do with XDP, by generic netlink |
//! | `monitor` | what changed |
//! | `request`, `error` | one request and its answer, errors in words |

mod address;
mod error;
mod generic;
mod link;
mod monitor;
mod neighbour;
mod path;
mod request;
mod route;
mod rule;
mod vxlan;
mod xdp;

pub use error::{Error, Result};
pub use link::{LinkRef, LinkState};
pub use monitor::{Change, Monitor};
pub use path::Path;
pub use route::{ROUTE_METRIC, ROUTE_PROTOCOL, Route, RouteConflict, SUBNETS_TABLE};
pub use rule::{UNDERLAY_MARK, connect_underlay, mark_underlay};
pub use vxlan::Payload;
pub use xdp::{XdpAttachment, XdpMode};

/// A handle to the kernel's rtnetlink and generic netlink. Cheap to clone; all clones share their sockets.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    generic: rtnetlink::proto::ConnectionHandle<generic::Message>,
}
