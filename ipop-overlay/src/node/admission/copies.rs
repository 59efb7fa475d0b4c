//! What is signed for all goes from node to node: who has a higher number gives it to who has a lower one, in parts, and
//! who takes it has checked the signature before it is kept, told of or given on.

use alloc::vec::Vec;
use core::time::Duration;

use ipop_common::Counter;

use super::super::{Node, Output, PeerId, Refusal};
use crate::group::{Kind, Message, PART_LEN_MAX};
use crate::time::Instant;

/// Parts that are asked for at a time.
const PARTS_ASKED: u16 = 32;
/// Parts that one peer is given in a second: the longest list within one.
const PARTS_PER_SECOND: u32 = 256;
/// So long nothing may come before it is asked for again.
const WAIT: Duration = Duration::from_millis(500);
/// So many times; then another may give it.
const TRIES_MAX: u32 = 6;

/// How much of something there was within this second.
#[derive(Debug, Default)]
pub(super) struct Given {
    since: Instant,
    count: u32,
}

impl Given {
    /// Whether there may be so many more.
    pub(super) fn take(&mut self, more: u32, per_second: u32, now: Instant) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.count) = (now, 0);
        }
        let may = self.count.saturating_add(more) <= per_second;
        self.count += if may { more } else { 0 };
        may
    }
}

/// What is being fetched, of each kind from one peer at a time.
#[derive(Debug, Default)]
pub(super) struct Fetches(Vec<Fetch>);

#[derive(Debug)]
struct Fetch {
    kind: Kind,
    number: u64,
    from: PeerId,
    bytes: Vec<u8>,
    /// Where the parts end that have been asked for.
    asked_to: usize,
    again_at: Instant,
    tries: u32,
}

impl Fetch {
    /// Asks for what comes next.
    fn ask(&mut self, now: Instant) -> Output {
        let offset = self.bytes.len();
        self.asked_to = offset + usize::from(PARTS_ASKED) * PART_LEN_MAX;
        self.again_at = now.after(WAIT);
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        let message = Message::Ask { kind: self.kind, number: self.number, offset, parts: PARTS_ASKED };
        Output::Say { peer: self.from, message: message.to_bytes() }
    }
}

impl Fetches {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.iter().map(|fetch| fetch.again_at).min()
    }

    pub(super) fn forget(&mut self, peer: PeerId) {
        self.0.retain(|fetch| fetch.from != peer);
    }
}

impl Node {
    /// Fetches what a peer has and this node has not, unless another gives it.
    pub(super) fn follow_numbers(&mut self, id: PeerId, now: Instant) {
        if !self.is_admitted(id) {
            return;
        }
        let Some(gate) = &mut self.gate else { return };
        let Some(theirs) = gate.passes.get(&id).map(|pass| pass.numbers) else { return };
        for kind in Kind::ALL {
            let number = theirs.of(kind);
            let is_under_way =
                gate.fetches.0.iter().any(|fetch| fetch.kind == kind && fetch.number >= number);
            if number <= gate.numbers.of(kind) || is_under_way {
                continue;
            }
            gate.fetches.0.retain(|fetch| fetch.kind != kind);
            let (bytes, asked_to) = (Vec::new(), 0);
            let mut fetch = Fetch { kind, number, from: id, bytes, asked_to, again_at: now, tries: 0 };
            self.outputs.push_back(fetch.ask(now));
            gate.fetches.0.push(fetch);
        }
    }

    /// Gives a peer what it has asked for.
    pub(super) fn give_parts(
        &mut self,
        id: PeerId,
        (kind, number): (Kind, u64),
        offset: u32,
        parts: u16,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        // There is a newer one, which it is told of.
        if number != gate.numbers.of(kind) {
            return Ok(());
        }
        let bytes = gate.bytes(kind).to_vec();
        let (Some(pass), Ok(from)) = (gate.passes.get_mut(&id), usize::try_from(offset)) else {
            return Ok(());
        };
        let parts = parts.min(PARTS_ASKED);
        let total = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let wanted = bytes.get(from..).unwrap_or_default().chunks(PART_LEN_MAX).take(usize::from(parts));
        if !pass.given.take(wanted.len() as u32, PARTS_PER_SECOND, now) {
            return Err(Refusal(Counter::RxHelloFlood));
        }
        for (bytes, at) in wanted.zip((offset..).step_by(PART_LEN_MAX)) {
            let message = Message::Part { kind, number, offset: at, total, bytes }.to_bytes();
            self.outputs.push_back(Output::Say { peer: id, message });
        }
        Ok(())
    }

    /// A part has come. What is out of turn is asked for again, when its time has come.
    pub(super) fn take_part(
        &mut self,
        id: PeerId,
        (kind, number): (Kind, u64),
        (offset, total): (u32, u32),
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        let is_it = |fetch: &Fetch| (fetch.kind, fetch.number, fetch.from) == (kind, number, id);
        let Some(at) = gate.fetches.0.iter().position(is_it) else { return Ok(()) };
        let Some(fetch) = gate.fetches.0.get_mut(at) else { return Ok(()) };
        if usize::try_from(offset) != Ok(fetch.bytes.len()) || bytes.is_empty() {
            return Ok(());
        }
        fetch.bytes.extend_from_slice(bytes);
        (fetch.tries, fetch.again_at) = (0, now.after(WAIT));
        if fetch.bytes.len() < usize::try_from(total).unwrap_or(usize::MAX) {
            if fetch.bytes.len() >= fetch.asked_to {
                self.outputs.push_back(fetch.ask(now));
            }
            return Ok(());
        }
        let fetch = gate.fetches.0.remove(at);
        self.take_signed(kind, &fetch.bytes, now)
    }

    /// Something signed for all is here as a whole.
    fn take_signed(&mut self, kind: Kind, bytes: &[u8], now: Instant) -> Result<(), Refusal> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        match gate.renew(kind, bytes) {
            None => Err(Refusal(Counter::RxRefusedList)),
            Some(false) => Ok(()),
            Some(true) => {
                self.outputs.push_back(Output::Signed { kind, bytes: bytes.to_vec() });
                self.hold_against_list(now);
                Ok(())
            }
        }
    }

    pub(super) fn fetch_timeout(&mut self, now: Instant) {
        let Some(gate) = &mut self.gate else { return };
        gate.fetches.0.retain(|fetch| fetch.tries < TRIES_MAX);
        for fetch in gate.fetches.0.iter_mut().filter(|fetch| fetch.again_at <= now) {
            fetch.tries += 1;
            self.outputs.push_back(fetch.ask(now));
        }
    }
}
