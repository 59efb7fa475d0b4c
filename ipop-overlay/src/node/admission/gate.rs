//! What decides about the peers of a group, and what is known of each: state, and what follows from it at some time.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::copies::{Fetches, Given};
use crate::group::document::Document;
use crate::group::{
    Assembly, Authority, CertificateError, CertificateId, Distrust, Kind, Member, Numbers, RevocationList,
};
use crate::node::PeerId;
use crate::time::Instant;

/// A peer with a session shows its certificate within this time.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than it says a certificate of a connected peer counts, in s: clocks are not the same.
const EXPIRY_GRACE_S: u64 = 60;
/// So many times it is.
pub(super) const TELLS_MAX: u32 = 8;

/// What decides about the peers of a group.
pub(in crate::node) struct Gate {
    pub(super) authority: Authority,
    pub(super) certificate: Vec<u8>,
    pub(super) id: CertificateId,
    pub(super) list: RevocationList,
    pub(super) numbers: Numbers,
    /// The signed bytes of both.
    pub(super) list_bytes: Vec<u8>,
    pub(super) document_bytes: Vec<u8>,
    /// What time it was, in ms since 1970, and when.
    pub(super) clock: (u64, Instant),
    pub(super) passes: BTreeMap<PeerId, Pass>,
    pub(super) fetches: Fetches,
}

/// What is known of one peer with a session.
pub(super) struct Pass {
    /// Since when there is a session, or nothing has been decided.
    pub(super) since: Instant,
    pub(super) member: Option<(Member, CertificateId)>,
    pub(super) accepts_ours: bool,
    /// [`Output::Admitted`] has been said.
    pub(super) is_admitted: bool,
    pub(super) assembly: Assembly,
    pub(super) looks: Given,
    /// What it says that it has.
    pub(super) numbers: Numbers,
    /// When it is told again that there is something newer, and how often it was.
    pub(super) tell_at: Instant,
    pub(super) tells: u32,
    pub(super) given: Given,
}

impl Pass {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            member: None,
            accepts_ours: false,
            is_admitted: false,
            assembly: Assembly::default(),
            looks: Given::default(),
            numbers: Numbers::default(),
            tell_at: now,
            tells: 0,
            given: Given::default(),
        }
    }

    pub(super) fn accepted(&self) -> CertificateId {
        self.member.as_ref().map(|(_, id)| *id).unwrap_or_default()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.accepts_ours && self.member.is_some()
    }

    pub(super) fn lacks(&self, ours: Numbers) -> bool {
        self.numbers.list < ours.list || self.numbers.document < ours.document
    }
}

impl Gate {
    pub(super) fn unix_s(&self, now: Instant) -> u64 {
        let (unix_ms, at) = self.clock;
        unix_ms / 1000 + now.since(at).as_secs()
    }

    /// When a time comes, by this node's clock.
    pub(super) fn instant_of(&self, unix_s: u64) -> Instant {
        let (unix_ms, at) = self.clock;
        at.after(Duration::from_millis(unix_s.saturating_mul(1000).saturating_sub(unix_ms)))
    }

    pub(super) fn bytes(&self, kind: Kind) -> &[u8] {
        match kind {
            Kind::List => &self.list_bytes,
            Kind::Document => &self.document_bytes,
        }
    }

    /// Takes what the authority has signed, if it is newer; `None` if it is not signed, else whether it was.
    pub(super) fn renew(&mut self, kind: Kind, bytes: &[u8]) -> Option<bool> {
        match kind {
            Kind::List => {
                let list = RevocationList::open(bytes, &self.authority).ok()?;
                let is_newer = list.number > self.numbers.list;
                if is_newer {
                    (self.numbers.list, self.list_bytes) = (list.number, bytes.to_vec());
                    self.list = list;
                }
                Some(is_newer)
            }
            Kind::Document => {
                let document = Document::open(bytes, &self.authority)?;
                let is_newer = document.number > self.numbers.document;
                if is_newer {
                    (self.numbers.document, self.document_bytes) = (document.number, bytes.to_vec());
                }
                Some(is_newer)
            }
        }
    }

    pub(super) fn verify(
        &self,
        certificate: &[u8],
        key: &[u8; 32],
        now: Instant,
    ) -> Result<Member, CertificateError> {
        Member::verify(certificate, &self.authority, key, self.unix_s(now), Some(&self.list))
    }

    /// Why an admitted peer is one no more.
    pub(super) fn fault(&self, pass: &Pass, now: Instant) -> Option<Distrust> {
        let Some((member, _)) = &pass.member else {
            return (now.since(pass.since) >= PATIENCE).then_some(Distrust::NoCertificate);
        };
        let not_after = member.validity.not_after;
        if self.list.contains(member.serial) {
            Some(Distrust::Certificate(CertificateError::Revoked))
        } else if self.unix_s(now) > not_after.saturating_add(EXPIRY_GRACE_S) {
            Some(Distrust::Certificate(CertificateError::Expired { not_after }))
        } else {
            None
        }
    }

    /// When something is to be done about a peer.
    pub(super) fn due(&self, pass: &Pass) -> Instant {
        let tell =
            (pass.is_ready() && pass.lacks(self.numbers) && pass.tells < TELLS_MAX).then_some(pass.tell_at);
        let end = match &pass.member {
            Some((member, _)) if pass.is_ready() => {
                self.instant_of(member.validity.not_after.saturating_add(EXPIRY_GRACE_S + 1))
            }
            _ => pass.since.after(PATIENCE),
        };
        tell.into_iter().fold(end, Instant::min)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let passes = self.passes.values().map(|pass| self.due(pass));
        passes.chain(self.fetches.poll_timeout()).min()
    }
}
