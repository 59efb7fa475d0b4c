//! This node's side of a group: what its server grants, kept on disk, and the conversation with the server. What follows
//! for peers is decided by the overlay core.
//!
//! | file | what |
//! |---|---|
//! | `place` | where a group is |
//! | `membership` | what a member has, checked and kept |
//! | `shapes` | what the server's API says |
//! | `https` | one exchange with the server |
//! | `server` | one request of a node, signed |
//! | `manager` | what a person has the server do |
//! | `conversation` | when which request is made |

mod conversation;
mod https;
mod manager;
mod membership;
mod place;
mod server;
mod shapes;

pub(crate) use conversation::PENDING;
pub use conversation::{Conversation, Known, Word};
pub(crate) use https::AskError;
pub(crate) use manager::Manager;
pub use membership::{Membership, MembershipError};
pub use place::{GroupPlace, PlaceError};
pub use shapes::{Parameters, Report};
