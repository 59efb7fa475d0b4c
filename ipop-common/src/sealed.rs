//! Packets of sealed links in the kernel path: which of them it seals, how, and what it makes of
//! what it has opened. The cipher is [`crate::aead`], the keys are a [`crate::session`].
//!
//! Sealing costs the kernel more per byte than it costs the daemon, which has vector instructions;
//! but the daemon costs system calls and wake-ups. So single packets are sealed here, and
//! super-packets are left to the daemon. A flow never uses both at a time, or its packets would
//! overtake one another: what follows a super-packet goes the same way until the flow has been
//! quiet for [`QUIET_NS`].

use crate::address::Family;
use crate::aead;
use crate::checksum::fold;
use crate::counter::Counter;
use crate::cursor::{Behind, Cursor};
use crate::encapsulation::{complete_v4, complete_v6};
use crate::ethernet;
use crate::ingress::{ETHERNET_LEN, UDP_LEN, hold};
use crate::inner::{Inner, protocol};
use crate::maps::{Link, LinkStats};
use crate::relay;
use crate::session::Drawn;
use crate::shared::SharedU64;
use crate::switch;
use crate::tables::Tables;
use crate::wireguard::{TAG_LEN, TRANSPORT_HEADER_LEN, TransportHeader, padded_len};

/// The longest packet, with its padding, that a program seals or opens in bytes.
pub const TEXT_MAX: usize = 1536;
/// Where it does that.
pub type Memory = aead::Memory<{ TEXT_MAX + 2 * aead::BLOCK_LEN }>;

/// Length of everything before the ciphertext over IPv4, from Ethernet on.
pub const V4_LEN: usize = ETHERNET_LEN + 20 + UDP_LEN + TRANSPORT_HEADER_LEN;
/// As [`V4_LEN`], over IPv6.
pub const V6_LEN: usize = ETHERNET_LEN + 40 + UDP_LEN + TRANSPORT_HEADER_LEN;
/// As [`V4_LEN`], in a relay frame.
pub const RELAYED_V4_LEN: usize = V4_LEN + relay::HEADER_LEN;
/// As [`V6_LEN`], in a relay frame.
pub const RELAYED_V6_LEN: usize = V6_LEN + relay::HEADER_LEN;

/// Bytes that sealing adds to an IP packet, without padding: what an MTU has to leave free.
pub const fn overhead(outer: Family) -> u16 {
    (outer.header_len() + UDP_LEN + TRANSPORT_HEADER_LEN + TAG_LEN) as u16
}

/// How long a flow must be quiet before it moves from the user path to the kernel path, in
/// nanoseconds: longer than packets wait in the daemons of both ends.
pub const QUIET_NS: u64 = 64_000_000;
const FLOWS_BITS: u32 = 12;
/// Flows that are told apart.
pub const FLOWS: u32 = 1 << FLOWS_BITS;

/// Forms of packets that the kernel path seals: those whose checksum it can complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub family: Family,
    pub transport: Transport,
}

/// What is behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    /// Nothing whose checksum a device would complete.
    Other,
}

impl Shape {
    /// The shape of an IP packet at the cursor; `None` for options, fragments and extension headers.
    #[inline(always)]
    pub fn of<C: Cursor>(cursor: C, inner: &Inner) -> Option<Self> {
        let transport = match inner.protocol {
            protocol::TCP => Transport::Tcp,
            protocol::UDP => Transport::Udp,
            _ => Transport::Other,
        };
        match inner.family {
            Family::V4 => {
                if inner.header_len != 20 || cursor.u16_at(6)? & 0x3fff != 0 {
                    return None;
                }
            }
            Family::V6 => {
                if transport == Transport::Other && inner.protocol != protocol::ICMPV6 {
                    return None;
                }
            }
        }
        Some(Self { family: inner.family, transport })
    }
}

/// A hash of what a flow is told by, addresses, protocol and ports: a number below [`FLOWS`].
#[inline(always)]
pub fn flow_hash<C: Cursor>(cursor: C, inner: &Inner) -> u32 {
    let [a, b] = inner.source.to_words();
    let [c, d] = inner.destination.to_words();
    let ports = match (inner.family, inner.header_len) {
        (Family::V4, 20) => cursor.u32_at(20),
        (Family::V6, _) => cursor.u32_at(40),
        _ => None,
    };
    let ports = match ports {
        Some(ports) if inner.protocol == protocol::TCP || inner.protocol == protocol::UDP => ports,
        _ => 0,
    };
    let rest = u64::from(ports) << 8 | u64::from(inner.protocol);
    let mixed = (a ^ b.rotate_left(17) ^ c.rotate_left(31) ^ d.rotate_left(47)).wrapping_add(rest);
    // Fibonacci hashing (Knuth, TAOCP 6.4): the uppermost bits depend on all others.
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FLOWS_BITS)) as u32
}

/// Whether packets of this flow belong to the user path at `now_ns`.
#[inline(always)]
pub fn is_with_user(flow: &SharedU64, now_ns: u64) -> bool {
    let left = flow.load();
    left != 0 && now_ns.wrapping_sub(left) < QUIET_NS
}

/// How to seal one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealing {
    /// Of the link.
    pub slot: u32,
    pub outer: Family,
    /// Local index of the session.
    pub session: u32,
    pub shape: Shape,
    /// Length of the packet or frame in bytes.
    pub len: u16,
}

/// What [`prepare`] has made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Length with padding; the memory knows it too.
    pub padded: u64,
    /// The transport checksum was still to be computed, and now is.
    pub completed: bool,
}

/// Makes the packet in the memory ready to be sealed: completes its transport checksum where that
/// was left to the device, and pads it with zeroes.
///
/// `None` where it is longer than the memory.
#[inline(always)]
pub fn prepare(memory: &mut Memory, shape: Shape, mtu: u16) -> Option<Prepared> {
    let completed = match shape.transport {
        Transport::Other => false,
        Transport::Tcp | Transport::Udp => complete_checksum::<0>(memory, shape)?,
    };
    pad(memory, completed, mtu)
}

/// As [`prepare`], of a frame behind room for the prefix, which it writes.
///
/// `None` where it is longer than the memory.
#[inline(always)]
pub fn prepare_frame(memory: &mut Memory, shape: Shape, mtu: u16) -> Option<Prepared> {
    let completed = match shape.transport {
        Transport::Other => false,
        Transport::Tcp | Transport::Udp => complete_checksum::<FRAME_BLOCKS>(memory, shape)?,
    };
    let len = memory.text_len()?;
    let prepared = pad(memory, completed, mtu)?;
    // SAFETY: the text has room for more than two bytes; aligned to 8.
    unsafe { *memory.text().cast() = ethernet::sealed_prefix(prepared.padded.wrapping_sub(len) as usize) };
    Some(prepared)
}

/// What precedes the IP packet in a frame, in blocks of 16 bytes.
const FRAME_BLOCKS: usize = 1;
const _: () = assert!(ethernet::SEALED_PREFIX_LEN + ETHERNET_LEN == FRAME_BLOCKS * 16);

#[inline(always)]
fn pad(memory: &mut Memory, completed: bool, mtu: u16) -> Option<Prepared> {
    let len = memory.text_len()?;
    // SAFETY: behind `text_len` there are 64 bytes.
    unsafe { aead::pad(memory.text(), len) };
    let padded = padded_len(len as usize, mtu as usize) as u64;
    memory.set_text_len(padded).then_some(Prepared { padded, completed })
}

/// Completes a transport checksum that holds only the sum of the pseudo-header, as the stack leaves
/// it for a device to complete (CHECKSUM_PARTIAL); false where it holds anything else.
///
/// A finished checksum can happen to be that very number. Completing it again yields it again. The IP packet starts
/// after so many blocks of 16 bytes.
#[inline(never)]
fn complete_checksum<const BLOCKS: usize>(memory: &mut Memory, shape: Shape) -> Option<bool> {
    let text = memory.text();
    let text_len = memory.text_len()?;
    let len = text_len.checked_sub(BLOCKS as u64 * 16)?;
    // SAFETY (all reads and writes below): a program's text has room for TEXT_MAX + 64 bytes, and
    // the offsets are below 80.
    let word = |at: usize| unsafe { u64::from(*text.add(BLOCKS * 16 + at).cast::<u32>()) };
    let field_at = match (shape.family, shape.transport) {
        (Family::V4, Transport::Tcp) => 36,
        (Family::V4, _) => 26,
        (Family::V6, Transport::Tcp) => 56,
        (Family::V6, _) => 46,
    };
    let header_len = shape.family.header_len() as u64;
    if len < header_len + if shape.transport == Transport::Tcp { 20 } else { 8 } {
        return Some(false);
    }
    let protocol = if shape.transport == Transport::Tcp { protocol::TCP } else { protocol::UDP };
    // Sums are over words as they lie; the one's complement sum does not mind (RFC 1071, 2B).
    let mut pseudo = u64::from(u16::from(protocol).to_be()) + u64::from(((len - header_len) as u16).to_be());
    let before = match shape.family {
        Family::V4 => {
            pseudo += word(12) + word(16);
            word(16)
        }
        Family::V6 => {
            pseudo += word(8) + word(12) + word(16) + word(20) + word(24) + word(28) + word(32) + word(36);
            word(16) + word(20) + word(24) + word(28) + word(32) + word(36)
        }
    };
    // SAFETY: see above; aligned to 2.
    let field = unsafe { &mut *text.add(BLOCKS * 16 + field_at).cast::<u16>() };
    if *field != fold64(pseudo) {
        return Some(false);
    }
    // SAFETY: behind `text_len` there are 64 bytes.
    unsafe { aead::pad(text, text_len) };
    let mut sum = 0;
    let mut index = BLOCKS as u64 + 1;
    while index < (TEXT_MAX / 16 + 1) as u64 {
        let block = aead::hide(index);
        if block * 16 >= text_len {
            break;
        }
        // SAFETY: block * 16 is below the length.
        let (a, b) = unsafe {
            let at = text.add(block as usize * 16);
            (aead::read_u64(at), aead::read_u64(at.add(8)))
        };
        sum += (a & 0xffff_ffff) + (a >> 32) + (b & 0xffff_ffff) + (b >> 32);
        index = block + 1;
    }
    let complete = !fold64(sum - before);
    // Zero would say that UDP has no checksum; the other zero is the same number.
    *field = if complete == 0 && shape.transport == Transport::Udp { 0xffff } else { complete };
    Some(true)
}

#[inline(always)]
const fn fold64(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    fold((sum & 0xffff) as u32 + (sum >> 16) as u32)
}

/// Writes all headers of a sealed packet over IPv4, `N` bytes ([`V4_LEN`] or [`RELAYED_V4_LEN`], as the
/// link is): the link's template, completed for `padded` bytes of text, and the transport message.
#[inline(always)]
pub fn write_v4<const N: usize>(out: &mut [u8; N], link: &Link, drawn: &Drawn, padded: u16) {
    complete_v4(out, link, padded.wrapping_add((N - ETHERNET_LEN + TAG_LEN) as u16));
    write_transport(out, drawn);
}

/// As [`write_v4`], over IPv6.
#[inline(always)]
pub fn write_v6<const N: usize>(out: &mut [u8; N], link: &Link, drawn: &Drawn, padded: u16) {
    complete_v6(out, link, padded.wrapping_add((N - ETHERNET_LEN - 40 + TAG_LEN) as u16));
    write_transport(out, drawn);
}

#[inline(always)]
fn write_transport<const N: usize>(out: &mut [u8; N], drawn: &Drawn) {
    let header = TransportHeader { receiver: drawn.remote, counter: drawn.counter };
    if let Some(end) = out.last_chunk_mut::<TRANSPORT_HEADER_LEN>() {
        *end = header.to_bytes();
    }
}

/// A sealed packet that this node's kernel path can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Of the link.
    pub slot: u32,
    pub outer: Family,
    /// It is in a relay frame.
    pub relayed: bool,
    /// Local index of the session.
    pub session: u32,
    pub counter: u64,
    /// Length of the text in bytes.
    pub text_len: u16,
}

impl Opening {
    /// Bytes between the Ethernet header and the ciphertext.
    #[inline(always)]
    pub const fn overhead(&self) -> usize {
        let before = if self.relayed { relay::HEADER_LEN } else { 0 };
        self.outer.header_len() + UDP_LEN + before + TRANSPORT_HEADER_LEN
    }
}

/// What was in a sealed packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub family: Family,
    /// Length of the IP packet or of the frame, without padding.
    pub len: u16,
}

/// Checks the text in the memory of a packet that has been opened; see [`admit`].
///
/// # Errors
/// The counter of the reason.
#[inline(always)]
pub fn opened<T: Tables>(
    tables: &T,
    memory: &mut Memory,
    opening: &Opening,
    now_ns: u64,
) -> Result<Opened, Counter> {
    let text = Head::of(memory, opening.text_len);
    match admit(tables, text, u32::from(opening.text_len), opening.slot, now_ns) {
        Ok(inner) => Ok(Opened { family: inner.family, len: inner.total_len }),
        Err(counter) => Err(counter),
    }
}

/// As [`opened`], of a frame behind its prefix. Where it is too little of one, or not from a station of the link's peer,
/// the daemon is to judge it.
///
/// # Errors
/// The counter of the reason.
#[inline(always)]
pub fn opened_frame<T: Tables>(
    tables: &T,
    memory: &mut Memory,
    opening: &Opening,
    now_ns: u64,
) -> Result<Opened, Counter> {
    let text = Head::of(memory, opening.text_len);
    let Some(len) = ethernet::sealed_frame_len(text, opening.text_len.into()) else {
        return Err(Counter::RxBadInner);
    };
    let frame = Behind { cursor: text, at: ethernet::SEALED_PREFIX_LEN };
    match switch::admit(tables, frame, opening.slot, now_ns) {
        Ok(header) => {
            let family = switch::family(header.ethertype).unwrap_or(opening.outer);
            Ok(Opened { family, len: len as u16 })
        }
        Err(counter) => Err(counter),
    }
}

/// Whether a text that starts with this byte is a control message: no IP packet is of version 0.
#[inline(always)]
pub const fn is_message(first: u8) -> bool {
    first >> 4 == 0
}

/// Checks the text of an authentic packet, `text_len` bytes: an IP packet whose source may be used by
/// the peer in `slot`, and that the group's rules allow.
///
/// # Errors
/// The counter of the reason.
#[inline(always)]
pub fn admit<C: Cursor, T: Tables>(
    tables: &T,
    text: C,
    text_len: u32,
    slot: u32,
    now_ns: u64,
) -> Result<Inner, Counter> {
    let Ok(inner) = Inner::parse_any(text, 0) else { return Err(Counter::RxBadInner) };
    if u32::from(inner.total_len) > text_len {
        return Err(Counter::RxBadLength);
    }
    match tables.by_address(&inner.source) {
        Some(owner) if LinkStats::index(owner.slot) == LinkStats::index(slot) => {}
        _ => return Err(Counter::RxWrongInnerSource),
    }
    let Some(link) = tables.link(slot) else { return Err(Counter::RxStaleEpoch) };
    hold(text, &inner, link, tables, now_ns)?;
    Ok(inner)
}

/// What is looked at of a text: the prefix, a tagged frame's header, and a neighbour advertisement in IPv6.
const HEAD_LEN: usize = 96;

/// The start of the text in a memory.
#[derive(Clone, Copy)]
struct Head<'a> {
    bytes: &'a [u8; HEAD_LEN],
    len: u16,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn of(memory: &'a mut Memory, len: u16) -> Self {
        // SAFETY: the text has room for more than that.
        Self { bytes: unsafe { &*memory.text().cast() }, len }
    }
}

impl Cursor for Head<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        if !self.holds(offset + N) {
            return None;
        }
        // SAFETY: inside the array, as just compared.
        Some(unsafe { *self.bytes.as_ptr().add(offset).cast() })
    }

    #[inline(always)]
    fn holds(self, len: usize) -> bool {
        len <= self.bytes.len() && len <= usize::from(self.len)
    }

    #[inline(always)]
    fn readable(self) -> usize {
        self.bytes.len().min(self.len.into())
    }
}

#[cfg(test)]
mod tests;
