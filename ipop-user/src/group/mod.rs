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

use std::path::Path;

use ipop_overlay::dht::SigningKey;
use ipop_overlay::group::request::Purpose;

/// Tells a group's server that this node leaves; what it is there then.
///
/// # Errors
/// A server that does not answer, or refuses.
pub(crate) async fn leave(
    place: GroupPlace,
    roots: Option<&Path>,
    key: SigningKey,
) -> Result<String, AskError> {
    let server = server::Server::new(place, roots, key);
    let mut server = server.map_err(|error| AskError::NoAnswer(format!("{error:#}")))?;
    let answer: shapes::Answer = server.ask(Purpose::Leave, b"").await?;
    Ok(answer.status)
}
