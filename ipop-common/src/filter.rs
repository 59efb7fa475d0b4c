//! Which handshake messages reach the daemon: the kernel's part of what a flood of them meets.
//!
//! A message to the daemon's port wakes the daemon, whatever it is worth; at 50,000 a second that costs
//! more than the daemon's answer to them. So the program that sees them first drops those whose mac1 is
//! wrong, and while this node is under load, those beyond what it would look at. The
//! limits are a little wider than the daemon's own, which has the last word: it knows sources exactly and
//! can tell a cookie from a claim.

use crate::address::Address;
use crate::aead::{read_u64, write_u64};
use crate::blake2s::{BLOCK_LEN, Hash, KEY_LEN};
use crate::counter::Counter;
use crate::shared::SharedU64;
use crate::wireguard::{INITIATION_LEN, Initiation, MAC_LEN, RESPONSE_LEN, Response};

/// Under load, what is admitted is counted anew so often, all at the beginning: who takes it is woken once.
pub const WINDOW_NS: u64 = 10_000_000;
/// Messages without a cookie from where no peer is: 1000 a second.
pub const STRANGERS_MAX: u32 = 10;
/// Messages that show a cookie, or claim to: 5000 a second.
const CLAIMS_MAX: u32 = 50;
/// Messages from where a peer is, of all that share a part: 1000 a second.
const PEERS_MAX: u32 = 10;

/// Load lasts this much longer than what shows it, so that it does not flicker.
pub const HYSTERESIS_NS: u64 = 1_000_000_000;

const PLACE_BITS: u32 = 16;
const PLACE_WORDS: usize = 1 << (PLACE_BITS - 6);
const PART_BITS: u32 = 6;
const PARTS: usize = 1 << PART_BITS;

/// The longest message that has a mac1.
pub const MESSAGE_MAX: usize = INITIATION_LEN;

/// A kind of handshake message that has a mac1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Initiation,
    Response,
}

impl Kind {
    /// Length of the whole message.
    #[inline(always)]
    pub const fn message_len(self) -> usize {
        match self {
            Self::Initiation => INITIATION_LEN,
            Self::Response => RESPONSE_LEN,
        }
    }
}

/// Shared memory of the kernel programs and the daemon (array, key 0).
#[repr(C)]
#[derive(Debug)]
pub struct Filter {
    /// [`Hash::keyed`] with the key of mac1; `ready` says whether it is there.
    key: [SharedU64; 4],
    ready: SharedU64,
    /// Until when this node is under load; CLOCK_MONOTONIC in nanoseconds.
    closed_until_ns: SharedU64,
    /// What makes the places of addresses unpredictable; odd.
    seed: SharedU64,
    strangers: Window,
    claims: Window,
    peers: [Window; PARTS],
    /// A bit for each place where a peer may be: some others share it.
    places: [SharedU64; PLACE_WORDS],
}

/// The number of a window and what it has admitted.
#[repr(transparent)]
#[derive(Debug)]
struct Window(SharedU64);

impl Window {
    const fn new() -> Self {
        Self(SharedU64::new(0))
    }

    /// Whether one more may be admitted.
    #[inline(always)]
    fn has_room(&self, now_ns: u64, max: u32) -> bool {
        let word = self.0.load();
        word >> 32 != number(now_ns) || (word as u32) < max
    }

    /// Counts one; of some that begin a window at the same time, one may go uncounted.
    #[inline(always)]
    fn take(&self, now_ns: u64) {
        let word = self.0.load();
        if word >> 32 == number(now_ns) {
            self.0.fetch_add(1);
        } else {
            self.0.store(number(now_ns) << 32 | 1);
        }
    }
}

#[inline(always)]
const fn number(now_ns: u64) -> u64 {
    (now_ns / WINDOW_NS) & 0xffff_ffff
}

impl Filter {
    /// Admits everything.
    pub const fn open() -> Self {
        Self {
            key: [const { SharedU64::new(0) }; 4],
            ready: SharedU64::new(0),
            closed_until_ns: SharedU64::new(0),
            seed: SharedU64::new(1),
            strangers: Window::new(),
            claims: Window::new(),
            peers: [const { Window::new() }; PARTS],
            places: [const { SharedU64::new(0) }; PLACE_WORDS],
        }
    }

    /// This node is under load until `until_ns`.
    #[inline(always)]
    pub fn close(&self, until_ns: u64) {
        self.closed_until_ns.store(until_ns);
    }

    #[inline(always)]
    pub fn is_closed(&self, now_ns: u64) -> bool {
        self.closed_until_ns.load() > now_ns
    }

    /// Decides about a message from `source`. What mac1 does not cover is overwritten.
    ///
    /// # Errors
    /// The counter of the reason.
    ///
    /// # Safety
    /// `message` is valid for [`MESSAGE_MAX`] bytes.
    #[inline(always)]
    pub unsafe fn admit(
        &self,
        kind: Kind,
        message: *mut u8,
        source: [u64; 2],
        now_ns: u64,
        hash: &mut Hash,
    ) -> Result<(), Counter> {
        if self.ready.load() == 0 {
            return Ok(());
        }
        let window = if !self.is_closed(now_ns) {
            None
        } else {
            // SAFETY: the caller's promise.
            let claims = unsafe { has_cookie(kind, message) };
            let (window, max) = self.window_of(source, claims);
            if !window.has_room(now_ns, max) {
                // The daemon, which sees so few of them, would soon call it over.
                self.close(now_ns.wrapping_add(HYSTERESIS_NS));
                return Err(Counter::RxHandshakeFlood);
            }
            Some(window)
        };
        // SAFETY: the caller's promise.
        if !unsafe { self.is_for_us(kind, message, hash) } {
            return Err(Counter::RxBadMac1);
        }
        if let Some(window) = window {
            window.take(now_ns);
        }
        Ok(())
    }

    #[inline(always)]
    fn window_of(&self, source: [u64; 2], claims: bool) -> (&Window, u32) {
        let place = place(source, self.seed.load());
        // SAFETY: the shift leaves as many bits as there are words; the compiler's own check would let the
        // program end, which the verifier does not believe.
        let word = unsafe { &*self.places.as_ptr().add((place >> (64 - PLACE_BITS + 6)) as usize) };
        if word.load() >> (place >> (64 - PLACE_BITS) & 63) & 1 != 0 {
            let part = place >> (64 - PLACE_BITS - PART_BITS) & (PARTS as u64 - 1);
            // SAFETY: as above, by the mask.
            (unsafe { &*self.peers.as_ptr().add(part as usize) }, PEERS_MAX)
        } else if claims {
            (&self.claims, CLAIMS_MAX)
        } else {
            (&self.strangers, STRANGERS_MAX)
        }
    }

    /// # Safety
    /// As for [`Self::admit`].
    #[inline(always)]
    unsafe fn is_for_us(&self, kind: Kind, message: *mut u8, hash: &mut Hash) -> bool {
        let [a, b, c, d] = &self.key;
        let Hash([h0, h1, h2, h3, h4, h5, h6, h7]) = hash;
        (*h0, *h1) = halves(a.load());
        (*h2, *h3) = halves(b.load());
        (*h4, *h5) = halves(c.load());
        (*h6, *h7) = halves(d.load());
        // SAFETY (all): every offset is below MESSAGE_MAX.
        unsafe {
            let mac = match kind {
                Kind::Initiation => {
                    let mac = words(message.add(Initiation::MAC1_OFFSET));
                    // What mac1 covers ends at 116, its block at 128.
                    write_u64(message.add(Initiation::MAC1_OFFSET), 0);
                    write_u64(message.add(Initiation::MAC1_OFFSET + 4), 0);
                    hash.compress(message, 2 * BLOCK_LEN as u32, false);
                    let until = BLOCK_LEN + Initiation::MAC1_OFFSET;
                    hash.compress(message.add(BLOCK_LEN), until as u32, true);
                    mac
                }
                Kind::Response => {
                    let mac = words(message.add(Response::MAC1_OFFSET));
                    write_u64(message.add(Response::MAC1_OFFSET), 0);
                    let until = BLOCK_LEN + Response::MAC1_OFFSET;
                    hash.compress(message, until as u32, true);
                    mac
                }
            };
            let expected = hash.first_words();
            (mac.0 ^ expected.0) | (mac.1 ^ expected.1) == 0
        }
    }
}

/// What only the daemon does.
#[cfg(not(target_arch = "bpf"))]
impl Filter {
    /// Sets the key of mac1 in messages to this node, and with it the filter to work.
    pub fn set_key(&self, key: &[u8; KEY_LEN], seed: u64) {
        self.ready.store(0);
        let Hash(words) = Hash::keyed(key, MAC_LEN as u8);
        for (to, [low, high]) in self.key.iter().zip(words.as_chunks::<2>().0) {
            to.store(u64::from(*low) | u64::from(*high) << 32);
        }
        self.seed.store(seed | 1);
        self.ready.store(1);
    }

    /// Where peers are, instead of what was said before.
    pub fn set_peers(&self, peers: impl Iterator<Item = Address>) {
        let mut places = [0u64; PLACE_WORDS];
        let seed = self.seed.load();
        for peer in peers {
            let place = place(peer.to_words(), seed);
            if let Some(word) = places.get_mut((place >> (64 - PLACE_BITS + 6)) as usize) {
                *word |= 1 << (place >> (64 - PLACE_BITS) & 63);
            }
        }
        for (to, word) in self.places.iter().zip(places) {
            if to.load() != word {
                to.store(word);
            }
        }
    }
}

/// A hash of an address, whose uppermost bits say where it belongs.
#[inline(always)]
const fn place([a, b]: [u64; 2], seed: u64) -> u64 {
    // Twice, or what differs between addresses of one network would reach few of the bits.
    let mixed = (a ^ b.rotate_left(29)).wrapping_mul(seed);
    (mixed ^ mixed >> 32).wrapping_mul(seed)
}

/// # Safety
/// As for [`Filter::admit`].
#[inline(always)]
unsafe fn has_cookie(kind: Kind, message: *const u8) -> bool {
    let at = match kind {
        Kind::Initiation => Initiation::MAC2_OFFSET,
        Kind::Response => Response::MAC2_OFFSET,
    };
    // SAFETY: the caller's promise; mac2 ends where the message does.
    let (low, high) = unsafe { words(message.add(at)) };
    low | high != 0
}

/// # Safety
/// `at` is valid for 16 bytes.
#[inline(always)]
unsafe fn words(at: *const u8) -> (u64, u64) {
    // SAFETY: the caller's promise.
    unsafe { (read_u64(at), read_u64(at.add(8))) }
}

#[inline(always)]
const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[cfg(test)]
mod tests;
