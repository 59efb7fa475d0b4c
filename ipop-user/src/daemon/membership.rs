//! This node as a member of a group: what its server and its peers say of certificates, and what follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipop_common::Counter;
use ipop_overlay::dht::SigningKey;
use ipop_overlay::group::rules::Policy;
use ipop_overlay::group::{CertificateError, Distrust, Kind};
use ipop_overlay::{Instant, Path, PeerId};
use tracing::{error, info, warn};

use super::{Daemon, clock};
use crate::api;
use crate::config::Config;
use crate::group::{Conversation, Known, Membership, PENDING, Report, Word};
use crate::key::{PrivateKey, PublicKey};

/// A node whose certificate was refused is not talked to for so long, then twice as long, and so on.
const SHUN: std::time::Duration = std::time::Duration::from_secs(2);
const SHUN_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// Nodes of which it is known that they were refused; then the one goes of which nothing was heard for longest.
const REFUSALS_MAX: usize = 256;
/// Addresses of one report.
const REPORTED_MAX: usize = 8;

/// What the daemon keeps of it.
pub(super) struct InGroup {
    pub(super) conversation: Conversation,
    /// Why the server does not answer.
    trouble: Option<String>,
    refusals: BTreeMap<[u8; 32], Refusal>,
}

/// A node with which there is no link, for its certificate or for this node's.
struct Refusal {
    name: String,
    /// The other node has refused this one.
    is_by_other: bool,
    reason: String,
    at: Instant,
    until: Instant,
    times: u32,
}

/// What comes from the group's server; nothing ever, where there is no group.
pub(super) async fn next_word(group: &mut Option<InGroup>) -> Word {
    let word = match group {
        Some(group) => group.conversation.next_word().await,
        None => None,
    };
    match word {
        Some(word) => word,
        None => std::future::pending().await,
    }
}

/// Begins the conversation with the group's server, where the configuration names one.
pub(super) fn begin(config: &Config, key: &PrivateKey) -> anyhow::Result<Option<Conversation>> {
    let Some(group) = &config.group else { return Ok(None) };
    let membership = group.membership.as_deref().cloned();
    let key = SigningKey::new(&(*key.expose()).into());
    Conversation::begin(group, &config.node.name, key, membership).map(Some)
}

impl InGroup {
    pub(super) fn new(conversation: Conversation) -> Self {
        Self { conversation, trouble: None, refusals: BTreeMap::new() }
    }

    fn note(&mut self, key: [u8; 32], name: String, is_by_other: bool, reason: String, now: Instant) {
        let times = self.refusals.get(&key).map_or(0, |before| before.times);
        let wait = SHUN.saturating_mul(1 << times.min(8)).min(SHUN_MAX);
        let (until, times) = (now.after(wait), times.saturating_add(1));
        if self.refusals.len() >= REFUSALS_MAX && !self.refusals.contains_key(&key) {
            let oldest = self.refusals.iter().min_by_key(|(_, refusal)| refusal.at).map(|(key, _)| *key);
            oldest.map(|oldest| self.refusals.remove(&oldest));
        }
        self.refusals.insert(key, Refusal { name, is_by_other, reason, at: now, until, times });
    }
}

impl Daemon {
    fn membership(&self) -> Option<&Membership> {
        self.config.group.as_ref()?.membership.as_deref()
    }

    /// Whether a node was refused shortly before.
    pub(super) fn is_shunned(&self, key: &PublicKey) -> bool {
        let refusal = self.group.as_ref().and_then(|group| group.refusals.get(key.as_bytes()));
        refusal.is_some_and(|refusal| refusal.until > clock::now())
    }

    /// A peer is a member of the group, and so it has a name.
    pub(super) fn admitted(&mut self, id: PeerId) {
        let Some(name) = self.node.member(id).map(|member| member.grant.node.to_string()) else { return };
        let is_taken = self.peers.values().any(|peer| peer.id != id && peer.config.name == name);
        self.follow_rules(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.config.name != name && !is_taken {
            info!(peer = peer.config.name, name, "member of the group");
            peer.config.name = name;
            self.stale.peers.insert(id);
            self.stale.names = true;
        }
        let key = *peer.config.public_key.as_bytes();
        self.group.iter_mut().for_each(|group| drop(group.refusals.remove(&key)));
    }

    /// Whether the group has rules, readable or not.
    pub(super) fn has_rules(&self) -> bool {
        self.membership().is_some_and(|membership| !membership.parameters.rules.is_empty())
    }

    /// Finds out what may begin between this node and a peer, as their certificates and the group's rules are now.
    fn follow_rules(&mut self, id: PeerId) {
        let Some(membership) = self.membership() else { return };
        let policy = match self.node.member(id) {
            Some(member) => membership.policy(&member.grant),
            None => Policy::closed(),
        };
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| *peer.policy != policy) else { return };
        if policy.cut > 0 {
            let (name, cut) = (&peer.config.name, policy.cut);
            warn!(peer = name, cut, "more rules than can be held: some ranges of ports are refused");
        }
        info!(peer = peer.config.name, may_begin = %policy.out, peer_may_begin = %policy.come, "the group's rules");
        peer.policy = Arc::new(policy);
        self.stale.peers.insert(id);
    }

    /// A peer is no member of the group: its link ends, in the kernel too.
    pub(super) fn refused(&mut self, id: PeerId, why: Distrust) {
        self.counters.add(Counter::RxRefusedCertificate, 1);
        self.part(id, false, why.to_string());
    }

    /// A peer takes this node for none.
    pub(super) fn refused_by(&mut self, id: PeerId, why: Distrust, their_clock: u64) {
        let own = clock::unix_s();
        let is_of_time = matches!(
            why,
            Distrust::Certificate(CertificateError::NotYetValid { .. } | CertificateError::Expired { .. })
        );
        let clocks = if is_of_time {
            format!("; its clock is at {their_clock}, this node's at {own}")
        } else {
            String::new()
        };
        self.part(id, true, format!("it refuses this node: {why}{clocks}"));
        if let Some(group) = &self.group {
            group.conversation.fetch();
        }
    }

    fn part(&mut self, id: PeerId, is_by_other: bool, reason: String) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (key, name) = (*peer.config.public_key.as_bytes(), peer.config.name.clone());
        warn!(peer = name, node = %peer.node_address(), reason, "no link with this node");
        if let Some(group) = &mut self.group {
            group.note(key, name, is_by_other, reason, clock::now());
        }
        self.remove_peer(id);
    }

    /// Something newer that the group's authority has signed has come from a peer.
    pub(super) async fn signed(&mut self, kind: Kind, bytes: &[u8]) {
        let Some(group) = &self.config.group else { return };
        let Some(mut membership) = group.membership.as_deref().cloned() else { return };
        match membership.take_signed(kind, bytes, &group.place) {
            Ok(()) => self.keep(membership).await,
            Err(error) => warn!(%error, "what the group has signed is of no use here"),
        }
    }

    /// Says whether this node stays in the group.
    pub(super) async fn hear_server(&mut self, word: Word) -> bool {
        let Some(group) = &mut self.group else { return true };
        match word {
            Word::Trouble(reason) => {
                warn!(reason, "the group's server");
                group.trouble = Some(reason);
            }
            Word::Well => group.trouble = None,
            // A server whose database is an older one does not know its newest members: their certificates count.
            Word::Other(status) if status == PENDING => {
                let reason = "it does not know this node as a member: a manager has to approve it again";
                warn!(reason, "the group's server");
                group.trouble = Some(reason.to_owned());
            }
            Word::Other(status) => {
                error!(status, "this node is no member of the group any more");
                return false;
            }
            Word::Member(mut membership) => {
                let newest = [Kind::List, Kind::Document]
                    .map(|kind| (kind, self.node.signed_for_all(kind).map(<[u8]>::to_vec)));
                if let Err(error) = self.set_credentials(&membership) {
                    warn!(%error, "what the group's server has granted is of no use here");
                    return true;
                }
                // Peers may have given what is newer.
                let place = self.config.group.as_ref().map(|group| group.place.clone());
                for (kind, before) in newest {
                    let now = self.node.signed_for_all(kind);
                    if let (Some(before), Some(place)) = (before.filter(|b| Some(&b[..]) == now), &place) {
                        drop(membership.take_signed(kind, &before, place));
                    }
                }
                self.keep(*membership).await;
            }
        }
        true
    }

    fn set_credentials(&mut self, membership: &Membership) -> anyhow::Result<()> {
        let unix_ms = clock::unix_ns() / 1_000_000;
        Ok(self.node.set_credentials(&membership.credentials, unix_ms, clock::now())?)
    }

    /// Keeps what this node has by now, for the next run, and follows what has changed in it.
    async fn keep(&mut self, membership: Membership) {
        let folder = &self.config.node.state_dir;
        if let Err(error) = membership.write(folder) {
            warn!(folder = %folder.display(), %error, "what this node has of the group is not kept for the next run");
        }
        let Some(group) = &mut self.config.group else { return };
        let before = group.membership.replace(Box::new(membership));
        let after = group.membership.as_ref();
        let is_same = before.as_ref().map(|of| (&of.parameters, &of.member.grant.nets))
            == after.map(|of| (&of.parameters, &of.member.grant.nets));
        self.follow_report();
        self.ids().into_iter().for_each(|id| self.follow_rules(id));
        if !is_same {
            match self.reload().await {
                Ok(message) => info!("the group's parameters have changed; {message}"),
                Err(error) => {
                    warn!("the group's parameters have changed: {error}");
                    self.warnings.push(format!("the group's parameters have changed: {error}"));
                }
            }
        }
    }

    /// What the server is told, with the next report.
    pub(super) fn follow_report(&self) {
        let (Some(group), Some(membership)) = (&self.group, self.membership()) else { return };
        let mut report = Report { version: env!("CARGO_PKG_VERSION").to_owned(), ..Report::default() };
        report.addresses =
            self.addresses.iter().take(REPORTED_MAX).map(|prefix| prefix.addr().to_string()).collect();
        for view in self.peers.values().filter_map(|peer| self.node.peer(peer.id)) {
            match view.path {
                Path::Kernel { .. } => report.direct_kernel += 1,
                Path::User { .. } => report.direct_user += 1,
                Path::Relay { .. } => report.relay += 1,
                Path::Overlay { .. } => report.overlay += 1,
                Path::None(_) => {}
            }
        }
        let (document_number, list_number) = (membership.document_number, membership.list_number);
        group.conversation.tell(Known { report, document_number, list_number });
    }

    /// What an operator should know.
    pub(super) fn group_warnings(&self) -> Vec<String> {
        let rules = self.membership().and_then(|membership| membership.rules().err()).map(|error| {
            format!("the group's rules cannot be read, so nothing may begin between members: {error}")
        });
        let now = clock::unix_s();
        let own = self.membership().and_then(|membership| {
            let validity = membership.member.validity;
            if now < validity.not_before {
                Some(format!(
                    "this node's certificate is not valid before {}: is its clock right?",
                    validity.not_before
                ))
            } else if now > validity.not_after {
                Some(format!(
                    "this node's certificate has expired at {}: others refuse it",
                    validity.not_after
                ))
            } else {
                None
            }
        });
        rules.into_iter().chain(own).collect()
    }

    /// What of this node's membership an operator sees.
    pub(super) fn membership_status(&self) -> Option<api::Membership> {
        let (group, config) = (self.group.as_ref()?, self.config.group.as_ref()?);
        let now = clock::now();
        let membership = config.membership.as_ref()?;
        let refused = group.refusals.iter().map(|(key, refusal)| api::RefusedNode {
            address: PublicKey::from_bytes(*key).node_address(),
            name: refusal.name.clone(),
            by_other: refusal.is_by_other,
            reason: refusal.reason.clone(),
            since_s: now.since(refusal.at).as_secs(),
        });
        Some(api::Membership {
            group: config.place.to_string(),
            state: api::MembershipState::Member,
            reason: format!("a member as {}", membership.member.grant.node),
            expires_at: Some(membership.member.validity.not_after),
            serial: Some(membership.member.serial.to_string()),
            user: membership.member.grant.user.as_ref().map(ToString::to_string),
            tags: membership.member.grant.tags.iter().map(ToString::to_string).collect(),
            document_number: membership.document_number,
            list_number: membership.list_number,
            rules: membership.rules().iter().flatten().map(ToString::to_string).collect(),
            rules_trouble: membership.rules().err(),
            trouble: group.trouble.clone(),
            refused: refused.collect(),
        })
    }

    /// Why there is no link with a node that an operator means, where it was refused or has refused this one.
    pub(super) fn why_refused(&self, selector: &api::Selector) -> Option<String> {
        let refusals = &self.group.as_ref()?.refusals;
        let is_meant = |(key, refusal): &(&[u8; 32], &Refusal)| {
            let (name, public_key) = (refusal.name.clone(), PublicKey::from_bytes(**key));
            let (addresses, endpoint, line) = (Vec::new(), None, 0);
            selector.matches(&crate::config::Peer { name, public_key, addresses, endpoint, line })
        };
        let (_, refusal) = refusals.iter().find(is_meant)?;
        Some(format!("there is no link with {}: {}", refusal.name, refusal.reason))
    }
}
