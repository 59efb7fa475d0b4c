//! Who of the peers is a member of the group: certificates within sessions, and what follows from them.
//!
//! Until both ends have accepted each other's certificate, a session carries nothing but hellos and the messages about
//! certificates: the peer is no connection of the ring, has no addresses, and no path leads to it. In a network without a
//! group there is no gate, and every peer has passed it.

mod copies;
mod gate;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipop_common::Counter;

use super::{Node, Output, PeerId, Refusal};
use crate::group::document::Document;
use crate::group::{
    Authority, CertificateError, CertificateId, CertificatePart, Distrust, Kind, Member, Message, Numbers,
    RevocationList, of_certificate,
};
use crate::routes::Subnet;
use crate::time::{Instant, Reason};
use copies::Fetches;
pub(super) use gate::Gate;
use gate::{PATIENCE, Pass, TELLS_MAX};

/// Certificates of one peer that are looked at in a second.
const LOOKS_PER_SECOND: u32 = 4;
/// How often a peer is told of something newer, while it has not said that it has it.
const TELL: Duration = Duration::from_secs(1);

/// What a member of a group has. The bytes are as the authority has signed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub authority: Authority,
    /// This node's.
    pub certificate: Vec<u8>,
    pub list: Vec<u8>,
    pub document: Vec<u8>,
}

/// What of some credentials the authority has not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsError {
    Certificate(CertificateError),
    List,
    Document,
}

impl core::fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "this node's certificate: {error}"),
            Self::List => {
                f.write_str("the group's authority has not signed the list of revoked certificates")
            }
            Self::Document => f.write_str("the group's authority has not signed the group's parameters"),
        }
    }
}

impl core::error::Error for CredentialsError {}

impl Node {
    /// Makes this node a member of a group, or gives it what it has as one by now. Of what is signed for all, what is
    /// newest stays. `unix_ms` is the time, in ms since 1970.
    ///
    /// # Errors
    /// What the authority has not signed; nothing has changed.
    pub fn set_credentials(
        &mut self,
        credentials: &Credentials,
        unix_ms: u64,
        now: Instant,
    ) -> Result<(), CredentialsError> {
        let Credentials { authority, certificate, list, document } = credentials;
        Member::open(certificate, authority).map_err(CredentialsError::Certificate)?;
        let opened = RevocationList::open(list, authority).map_err(|_| CredentialsError::List)?;
        let number = Document::open(document, authority).ok_or(CredentialsError::Document)?.number;
        let id = CertificateId::of(certificate);
        let gate = self.gate.take().filter(|gate| gate.authority == *authority);
        let mut gate = gate.unwrap_or_else(|| {
            alloc::boxed::Box::new(Gate {
                authority: authority.clone(),
                certificate: Vec::new(),
                id: CertificateId::default(),
                numbers: Numbers { list: opened.number, document: number },
                list: opened,
                list_bytes: list.clone(),
                document_bytes: document.clone(),
                clock: (unix_ms, now),
                passes: BTreeMap::new(),
                fetches: Fetches::default(),
            })
        });
        gate.clock = (unix_ms, now);
        let is_other = gate.id != id;
        (gate.certificate, gate.id) = (certificate.clone(), id);
        gate.renew(Kind::List, list);
        gate.renew(Kind::Document, document);
        self.gate = Some(gate);
        for id in self.ids() {
            let is_known = self.gate.as_ref().is_some_and(|gate| gate.passes.contains_key(&id));
            if is_other || !is_known {
                self.admission_session(id, now);
            }
        }
        self.hold_against_list(now);
        Ok(())
    }

    /// Whether a peer may be talked to: both ends have accepted each other's certificate, or there is no group.
    pub fn is_admitted(&self, id: PeerId) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.passes.get(&id).is_some_and(|pass| pass.is_admitted))
    }

    /// What a peer's certificate says, in a group.
    pub fn member(&self, id: PeerId) -> Option<&Member> {
        self.gate.as_ref()?.passes.get(&id)?.member.as_ref().map(|(member, _)| member)
    }

    /// What this node has by now of what is signed for all.
    pub fn signed_for_all(&self, kind: Kind) -> Option<&[u8]> {
        self.gate.as_ref().map(|gate| gate.bytes(kind))
    }

    pub(super) fn set_gate_clock(&mut self, unix_ms: u64, now: Instant) {
        self.gate.iter_mut().for_each(|gate| gate.clock = (unix_ms, now));
    }

    /// Whether a peer may have an address.
    pub(super) fn may_have(&self, id: PeerId, address: IpAddr) -> bool {
        if self.gate.is_none() {
            return true;
        }
        let Some(host) = Subnet::new(address, if address.is_ipv4() { 32 } else { 128 }) else { return false };
        self.member(id).is_some_and(|member| member.grant.nets.iter().any(|net| net.covers(host)))
    }

    /// There may be a session with a peer, or none any more.
    pub(super) fn admission_session(&mut self, id: PeerId, now: Instant) {
        let has_session = self.peer_at(id).is_some_and(super::Peer::has_session);
        let Some(gate) = &mut self.gate else { return };
        if !has_session {
            // What was accepted stays so: the key is the same.
            if gate.passes.get(&id).is_some_and(|pass| !pass.is_admitted) {
                gate.passes.remove(&id);
            }
            return;
        }
        gate.passes.entry(id).or_insert_with(|| Pass::new(now));
        self.show_certificate(id, true);
    }

    pub(super) fn forget_pass(&mut self, id: PeerId) {
        if let Some(gate) = &mut self.gate {
            gate.passes.remove(&id);
            gate.fetches.forget(id);
        }
    }

    /// Shows this node's certificate again to a peer that has not accepted it, or whose own has not come.
    pub(super) fn repeat_certificate(&mut self, id: PeerId) {
        let is_open = self.gate.as_ref().and_then(|gate| gate.passes.get(&id)).is_some_and(|p| !p.is_ready());
        if is_open {
            self.show_certificate(id, true);
        }
    }

    fn show_certificate(&mut self, id: PeerId, wants_answer: bool) {
        if !self.peer_at(id).is_some_and(super::Peer::has_session) {
            return;
        }
        let Some(gate) = &self.gate else { return };
        let accepted = gate.passes.get(&id).map(Pass::accepted).unwrap_or_default();
        let messages = of_certificate(&gate.certificate, wants_answer, accepted, gate.numbers);
        self.outputs.extend(messages.map(|message| Output::Say { peer: id, message }));
    }

    /// A message about certificates has come.
    pub(super) fn handle_admission(&mut self, id: PeerId, text: &[u8], now: Instant) -> Result<(), Refusal> {
        let message = Message::parse(text).ok_or(Refusal(Counter::RxBadHello))?;
        self.peer_mut(id).into_iter().for_each(|peer| peer.is_alive(now));
        match message {
            Message::Certificate { wants_answer, accepted, numbers, part } => {
                self.hear_certificate(id, accepted, numbers, part.as_ref(), now)?;
                let is_known = self.gate.as_ref().is_some_and(|gate| gate.passes.contains_key(&id));
                if wants_answer && is_known {
                    let is_ready = self.is_admitted(id);
                    self.show_certificate(id, !is_ready);
                }
                self.follow_numbers(id, now);
                Ok(())
            }
            Message::Refusal { why, id: refused, clock } => {
                self.hear_refusal(id, why, refused, clock);
                Ok(())
            }
            Message::Ask { .. } | Message::Part { .. } if !self.is_admitted(id) => {
                Err(Refusal(Counter::RxNoCertificate))
            }
            Message::Ask { kind, number, offset, parts } => {
                self.give_parts(id, (kind, number), offset, parts, now)
            }
            Message::Part { kind, number, offset, total, bytes } => {
                self.take_part(id, (kind, number), (offset, total), bytes, now)
            }
        }
    }

    fn hear_certificate(
        &mut self,
        id: PeerId,
        accepted: CertificateId,
        numbers: Numbers,
        part: Option<&CertificatePart<'_>>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(key) = self.peer_at(id).map(|peer| peer.public_key) else { return Ok(()) };
        let Some(gate) = &mut self.gate else { return Ok(()) };
        let own = gate.id;
        let pass = gate.passes.entry(id).or_insert_with(|| Pass::new(now));
        pass.numbers = numbers;
        pass.accepts_ours |= accepted == own;
        let is_new = part.filter(|part| part.id != pass.accepted());
        if let Some(certificate) = is_new.and_then(|part| pass.assembly.take(part)) {
            if !pass.looks.take(1, LOOKS_PER_SECOND, now) {
                return Err(Refusal(Counter::RxHelloFlood));
            }
            match gate.verify(&certificate, &key, now) {
                Ok(member) => self.accept(id, member, CertificateId::of(&certificate)),
                Err(error) => {
                    let refused = CertificateId::of(&certificate);
                    self.refuse(id, Distrust::Certificate(error), refused, now);
                    return Ok(());
                }
            }
        }
        self.admit(id, now);
        Ok(())
    }

    /// A certificate counts. Where it allows other addresses than the one before, what the peer has is found out anew.
    fn accept(&mut self, id: PeerId, member: Member, certificate: CertificateId) {
        let Some(pass) = self.gate.as_mut().and_then(|gate| gate.passes.get_mut(&id)) else { return };
        let nets = |member: &Member| member.grant.nets.clone();
        let is_other = pass.member.as_ref().is_some_and(|(before, _)| nets(before) != nets(&member));
        pass.member = Some((member, certificate));
        if is_other {
            self.outputs.push_back(Output::Unlink { peer: id });
        } else if pass.is_admitted {
            self.outputs.push_back(Output::Admitted { peer: id });
        }
        // It is to know that its newest one counts.
        self.show_certificate(id, false);
    }

    /// Lets a peer in, once both ends have accepted each other.
    fn admit(&mut self, id: PeerId, now: Instant) {
        let Some(pass) = self.gate.as_mut().and_then(|gate| gate.passes.get_mut(&id)) else { return };
        if pass.is_admitted || !pass.is_ready() {
            return;
        }
        pass.is_admitted = true;
        self.outputs.push_back(Output::Admitted { peer: id });
        self.connect_member(id, now);
        self.repeat_addresses(id);
        self.decide(id, now);
    }

    /// Tells a peer that it is not taken for a member, and has the session ended.
    fn refuse(&mut self, id: PeerId, why: Distrust, refused: CertificateId, now: Instant) {
        let Some(gate) = &mut self.gate else { return };
        let clock = gate.unix_s(now);
        gate.passes.remove(&id);
        if self.peer_at(id).is_some_and(super::Peer::has_session) {
            let message = Message::Refusal { why, id: refused, clock }.to_bytes();
            self.outputs.push_back(Output::Say { peer: id, message });
        }
        self.shut_out(id, now);
        self.outputs.push_back(Output::Refused { peer: id, why });
    }

    /// What a peer was in the ring, it is no more; the host ends the session.
    fn shut_out(&mut self, id: PeerId, now: Instant) {
        self.disconnect_member(id, now);
        self.decide(id, now);
    }

    fn hear_refusal(&mut self, id: PeerId, why: Distrust, refused: CertificateId, clock: u64) {
        let Some(gate) = &mut self.gate else { return };
        if refused != gate.id && why != Distrust::NoCertificate {
            // Of one that this node has no more.
            return;
        }
        if let Some(pass) = gate.passes.get_mut(&id) {
            (pass.accepts_ours, pass.is_admitted) = (false, false);
        }
        self.outputs.push_back(Output::RefusedBy { peer: id, why, clock });
    }

    /// Something newer has come: everybody is held against the list, and told.
    fn hold_against_list(&mut self, now: Instant) {
        let Some(gate) = &mut self.gate else { return };
        let mut faults = Vec::new();
        for (id, pass) in &mut gate.passes {
            if let Some((member, certificate)) = &pass.member
                && gate.list.contains(member.serial)
            {
                faults.push((*id, *certificate));
            }
            (pass.tell_at, pass.tells) = (now, 0);
        }
        for (id, certificate) in faults {
            self.refuse(id, Distrust::Certificate(CertificateError::Revoked), certificate, now);
        }
        self.tell_numbers(now);
    }

    /// Tells those of the newest number who have not said that they have it.
    fn tell_numbers(&mut self, now: Instant) {
        let Some(gate) = &mut self.gate else { return };
        let numbers = gate.numbers;
        for (id, pass) in &mut gate.passes {
            let is_due = pass.tell_at <= now && pass.tells < TELLS_MAX;
            if pass.is_admitted && pass.lacks(numbers) && is_due {
                (pass.tell_at, pass.tells) = (now.after(TELL), pass.tells + 1);
                let accepted = pass.accepted();
                let message = Message::Certificate { wants_answer: false, accepted, numbers, part: None };
                self.outputs.push_back(Output::Say { peer: *id, message: message.to_bytes() });
            }
        }
    }

    pub(super) fn admission_timeout(&mut self, now: Instant) {
        let Some(gate) = &mut self.gate else { return };
        let mut faults = Vec::new();
        let mut unanswered = Vec::new();
        for (id, pass) in &gate.passes {
            match gate.fault(pass, now) {
                Some(why) => faults.push((*id, why, pass.accepted())),
                None if !pass.is_ready() && now.since(pass.since) >= PATIENCE => unanswered.push(*id),
                None => {}
            }
        }
        faults.into_iter().for_each(|(id, why, certificate)| self.refuse(id, why, certificate, now));
        for id in unanswered {
            self.forget_pass(id);
            self.outputs.push_back(Output::Unlink { peer: id });
        }
        self.tell_numbers(now);
        self.fetch_timeout(now);
    }

    pub(super) fn admission_deadline(&self) -> Option<(Instant, Reason)> {
        Some((self.gate.as_ref()?.poll_timeout()?, Reason::Certificate))
    }
}
