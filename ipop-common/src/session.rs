//! The transport keys of one WireGuard session, with the counters that must never repeat: shared
//! memory of the kernel programs and the daemon, both of which seal and open with it.
//!
//! Nothing here takes a lock. The send counter is drawn by an atomic addition, so no two packets
//! have the same nonce whoever seals them. What came is remembered in a ring of words that only
//! move forward by compare-and-swap, so no counter is accepted twice whoever opens it.
//!
//! A place is used for one session after another. `local`, the index by which the peer names the
//! session, tells them apart: it is written last and cleared first, and whoever uses the place reads
//! it before and after everything else ([`Session::draw`]).

use crate::aead::Key;
use crate::counter::Counter;
use crate::maps::LinkRef;
use crate::shared::SharedU64;

/// Bits of a local index that say where the session lies; the rest is random.
pub const PLACE_BITS: u32 = 13;
/// Places for sessions: two for each link; beyond that, those that give way go first.
pub const PLACES: u32 = 1 << PLACE_BITS;

/// A session may not send past this many messages (WireGuard whitepaper, section 6.1).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << PLACE_BITS);

/// Counters that may arrive behind the newest: those of [`WINDOW_WORDS`] blocks of 32.
pub const WINDOW: u64 = 32 * WINDOW_WORDS as u64;
const WINDOW_WORDS: usize = 256;

/// Attempts to move one word of the window. Each failure is another CPU's success.
const TRIES: u32 = 8;

/// Where the session with this local index lies.
#[inline(always)]
pub const fn place(local: u32) -> u32 {
    local & (PLACES - 1)
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The index that this node gave the session; not 0.
    pub local: u32,
    /// The index that the peer gave it.
    pub remote: u32,
    pub send_key: Key,
    pub receive_key: Key,
    /// CLOCK_MONOTONIC in nanoseconds; past it nothing is sealed or opened.
    pub expires_ns: u64,
    /// The first counter to send with: 0, unless an earlier owner has sent.
    pub first_counter: u64,
    /// The link to the peer.
    pub link: LinkRef,
}

/// A session's place.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Session {
    local: SharedU64,
    remote: SharedU64,
    expires_ns: SharedU64,
    send_counter: SharedU64,
    send_key: [SharedU64; 4],
    receive_key: [SharedU64; 4],
    /// When data was last sent, by the clock of `expires_ns`; 0: never.
    sent_ns: SharedU64,
    /// When data was last received, from the peer itself.
    received_ns: SharedU64,
    /// A [`LinkRef`]: slot, and epoch in the high half.
    link: SharedU64,
    /// When data last came by a relay.
    relayed_ns: SharedU64,
    window: Window,
}

/// What one packet is sealed with.
#[derive(Debug)]
pub struct Drawn {
    pub remote: u32,
    pub counter: u64,
    pub key: Key,
}

impl Session {
    /// A place without a session.
    pub const fn vacant() -> Self {
        Self {
            local: SharedU64::new(0),
            remote: SharedU64::new(0),
            expires_ns: SharedU64::new(0),
            send_counter: SharedU64::new(0),
            send_key: [const { SharedU64::new(0) }; 4],
            receive_key: [const { SharedU64::new(0) }; 4],
            sent_ns: SharedU64::new(0),
            received_ns: SharedU64::new(0),
            link: SharedU64::new(0),
            relayed_ns: SharedU64::new(0),
            window: Window([const { SharedU64::new(0) }; WINDOW_WORDS]),
        }
    }

    /// Draws a counter for one packet of session `local`, for use at `now_ns`.
    ///
    /// # Errors
    /// The counter of the reason.
    #[inline(always)]
    pub fn draw(&self, local: u32, now_ns: u64) -> Result<Drawn, Counter> {
        if !self.is(local) {
            return Err(Counter::TxNoSession);
        }
        if self.expires_ns.load() <= now_ns {
            return Err(Counter::TxKeyExpired);
        }
        let counter = self.send_counter.fetch_add(1);
        let drawn = Drawn { remote: self.remote.load() as u32, counter, key: load_key(&self.send_key) };
        // What was read above belongs together only if it is still the same session.
        if !self.is(local) {
            return Err(Counter::TxNoSession);
        }
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Counter::TxKeyExpired);
        }
        Ok(drawn)
    }

    /// The key to open a packet of session `local` with.
    ///
    /// # Errors
    /// The counter of the reason.
    #[inline(always)]
    pub fn key_to_open(&self, local: u32, counter: u64, now_ns: u64) -> Result<Key, Counter> {
        if !self.is(local) {
            return Err(Counter::RxUnknownIndex);
        }
        if self.expires_ns.load() <= now_ns || counter >= REJECT_AFTER_MESSAGES {
            return Err(Counter::RxKeyExpired);
        }
        let key = load_key(&self.receive_key);
        if self.is(local) { Ok(key) } else { Err(Counter::RxUnknownIndex) }
    }

    /// Takes note of an authentic packet; once for each counter.
    ///
    /// # Errors
    /// The counter of the reason: the packet is not to be delivered.
    #[inline(always)]
    pub fn accept(&self, counter: u64) -> Result<(), Counter> {
        self.window.accept(counter)
    }

    #[inline(always)]
    pub fn is(&self, local: u32) -> bool {
        self.local.load() == u64::from(local) && local != 0
    }

    /// The link that packets of this session belong to.
    #[inline(always)]
    pub fn link(&self) -> LinkRef {
        let word = self.link.load();
        LinkRef { slot: word as u32, epoch: (word >> 32) as u32 }
    }

    #[inline(always)]
    pub fn note_sent(&self, now_ns: u64) {
        self.sent_ns.store(now_ns);
    }

    #[inline(always)]
    pub fn note_received(&self, now_ns: u64) {
        self.received_ns.store(now_ns);
    }

    /// As [`Session::note_received`], of what a relay has passed on.
    #[inline(always)]
    pub fn note_relayed(&self, now_ns: u64) {
        self.relayed_ns.store(now_ns);
    }
}

/// What only the daemon does.
#[cfg(not(target_arch = "bpf"))]
impl Session {
    /// Puts a session in this place, which must have been vacant for longer than any program runs,
    /// with what the same session has `accepted` elsewhere.
    pub fn install(&self, agreed: &Agreed, accepted: Option<&Self>) {
        self.vacate();
        self.remote.store(u64::from(agreed.remote));
        self.expires_ns.store(agreed.expires_ns);
        self.send_counter.store(agreed.first_counter);
        store_key(&self.send_key, &agreed.send_key);
        store_key(&self.receive_key, &agreed.receive_key);
        self.sent_ns.store(0);
        self.received_ns.store(0);
        self.relayed_ns.store(0);
        self.set_link(agreed.link);
        for (index, word) in self.window.0.iter().enumerate() {
            word.store(accepted.and_then(|other| other.window.0.get(index)).map_or(0, SharedU64::load));
        }
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        self.local.store(u64::from(agreed.local));
    }

    /// Takes note of all that the same session has accepted at another place, whose programs went on
    /// for a moment after it was copied.
    pub fn absorb(&self, other: &Self) {
        for (word, theirs) in self.window.0.iter().zip(&other.window.0) {
            let theirs = theirs.load();
            // Against CPUs that accept meanwhile; each of our failures is a success of theirs.
            loop {
                let ours = word.load();
                let ahead = ((theirs >> 32) as u32).wrapping_sub((ours >> 32) as u32) as i32;
                let merged = match ahead {
                    _ if theirs as u32 == 0 => ours,
                    _ if ours as u32 == 0 => theirs,
                    0 => ours | theirs & 0xffff_ffff,
                    1.. => theirs,
                    _ => ours,
                };
                if word.replace(ours, merged) {
                    break;
                }
            }
        }
    }

    /// Ends whatever session is here, and erases its keys.
    pub fn vacate(&self) {
        self.local.store(0);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        for word in self.send_key.iter().chain(&self.receive_key) {
            word.store(0);
        }
    }

    /// The session here as another owner may go on with it: `skip` counters further, for those that
    /// programs may still draw, and with the window as it is.
    pub fn read(&self, skip: u64) -> Option<Agreed> {
        let local = self.local.load() as u32;
        let agreed = Agreed {
            local,
            remote: self.remote.load() as u32,
            send_key: load_key(&self.send_key),
            receive_key: load_key(&self.receive_key),
            expires_ns: self.expires_ns.load(),
            first_counter: self.send_counter.load().saturating_add(skip),
            link: self.link(),
        };
        self.is(local).then_some(agreed)
    }

    /// Says which link packets of this session belong to from now on.
    pub fn set_link(&self, link: LinkRef) {
        self.link.store(u64::from(link.slot) | u64::from(link.epoch) << 32);
    }

    /// The index of the session here; `None` where there is none.
    pub fn local(&self) -> Option<u32> {
        let local = self.local.load() as u32;
        (local != 0).then_some(local)
    }

    /// Whether session `local` is here and may still seal.
    pub fn is_alive(&self, local: u32, now_ns: u64) -> bool {
        self.is(local) && self.expires_ns.load() > now_ns && self.send_counter.load() < REJECT_AFTER_MESSAGES
    }

    /// How many counters have been drawn.
    pub fn sent(&self) -> u64 {
        self.send_counter.load()
    }

    /// When data was last sent, and when it was last received from the peer itself, by the clock of
    /// `expires_ns`; 0: never.
    pub fn last_traffic(&self) -> (u64, u64) {
        (self.sent_ns.load(), self.received_ns.load())
    }

    /// When data last came by a relay, to the kernel path; 0: never.
    pub fn last_relayed(&self) -> u64 {
        self.relayed_ns.load()
    }
}

#[inline(always)]
fn load_key(words: &[SharedU64; 4]) -> Key {
    let [a, b, c, d] = words;
    let (a, b, c, d) = (a.load(), b.load(), c.load(), d.load());
    let high = |word: u64| (word >> 32) as u32;
    Key([a as u32, high(a), b as u32, high(b), c as u32, high(c), d as u32, high(d)])
}

#[cfg(not(target_arch = "bpf"))]
fn store_key(words: &[SharedU64; 4], key: &Key) {
    for (word, [low, high]) in words.iter().zip(key.0.as_chunks::<2>().0) {
        word.store(u64::from(*low) | u64::from(*high) << 32);
    }
}

/// Which counters have been accepted.
///
/// A word holds the number of a block of 32 counters (its low 32 bits, in the high half) and the
/// bitmap of what came of that block. A word only ever moves to a newer block, so a counter is
/// accepted at most once. Newer is by serial number arithmetic (RFC 1982): to be taken for new, a
/// packet would have to be repeated after its sender has sent 2^36 others with the same key, which
/// lives for three minutes.
#[repr(transparent)]
struct Window([SharedU64; WINDOW_WORDS]);

impl core::fmt::Debug for Window {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Window(..)")
    }
}

impl Window {
    #[inline(always)]
    fn accept(&self, counter: u64) -> Result<(), Counter> {
        let block = (counter >> 5) as u32;
        let bit = 1u64 << (counter & 31);
        // The index is always in range; `get` says so to the compiler, the mask to the verifier.
        let Some(word) = self.0.get(block as usize & (WINDOW_WORDS - 1)) else {
            return Err(Counter::RxTooOld);
        };
        let mut tries = 0;
        while tries < TRIES {
            let found = word.load();
            let behind = block.wrapping_sub((found >> 32) as u32) as i32;
            // An empty bitmap is only found in a word that was never used.
            let new = if found as u32 == 0 || behind > 0 {
                u64::from(block) << 32 | bit
            } else if behind < 0 {
                return Err(Counter::RxTooOld);
            } else if found & bit != 0 {
                return Err(Counter::RxReplay);
            } else {
                found | bit
            };
            if word.replace(found, new) {
                return Ok(());
            }
            tries += 1;
        }
        Err(Counter::RxWindowBusy)
    }
}

#[cfg(test)]
mod tests;
