//! The hand-made inputs of the corpus: one for each thing that a parser distinguishes. The corpus
//! holds them as files, beside what the fuzzer has found; here is what they mean.

mod config;
mod control;
mod dns;
mod group;
mod packets;
mod ring;
mod routes;
mod sealed;
mod sessions;
mod stun;
mod userpath;

/// A file of the corpus.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) target: &'static str,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Names and inputs of one target.
type Inputs = Vec<(String, Vec<u8>)>;

pub(crate) fn all() -> Vec<Seed> {
    let targets: [(&'static str, Inputs); 20] = [
        ("aead", sealed::aead()),
        ("clear", packets::clear()),
        ("config", config::texts()),
        ("cut", userpath::cut()),
        ("dns", dns::messages()),
        ("egress", packets::egress()),
        ("frame", packets::frame()),
        ("group", group::signed()),
        ("hello", control::hello()),
        ("inner", packets::inner()),
        ("merge", userpath::merge()),
        ("names", config::names()),
        ("node", control::node()),
        ("ring", ring::runs()),
        ("routes", routes::announcements()),
        ("sealed", sealed::frames()),
        ("sessions", sessions::runs()),
        ("stun", stun::messages()),
        ("token", config::tokens()),
        ("wireguard", sealed::wireguard()),
    ];
    let seeds = targets.into_iter().flat_map(|(target, inputs)| {
        inputs.into_iter().map(move |(name, bytes)| Seed { target, name, bytes })
    });
    seeds.collect()
}
