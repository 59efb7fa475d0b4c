//! Sealing and opening, as TC programs: bytes from the packet into this CPU's memory and back.
//!
//! A length that a helper is to take must be bounded in the very register that is passed, and
//! verifiers before Linux 6.8 learn nothing from a comparison with zero; hence [`positive`].

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use ipop_common::aead::{TAG_LEN, hide};
use ipop_common::blake2s::Hash;
use ipop_common::filter::Kind;
use ipop_common::ingress::{ETHERNET_LEN, Handshake, Relaying, UDP_LEN};
use ipop_common::inner::protocol;
use ipop_common::maps::Link;
use ipop_common::sealed::{
    Memory, Opened, Opening, RELAYED_V4_LEN, RELAYED_V6_LEN, Sealing, Shape, TEXT_MAX, Transport, V4_LEN,
    V6_LEN, is_message, opened, opened_frame, prepare, prepare_frame, write_v4, write_v6,
};
use ipop_common::session::Drawn;
use ipop_common::tables::Tables;
use ipop_common::wireguard::RESPONSE_LEN;
use ipop_common::{Counter, Family, ethernet};

use crate::egress::miss;
use crate::ingress::{deliver, leave_to_user};
use crate::maps::{Maps, count, count_rx, count_tx};
use crate::skb::{DROP, PASS, Skb, redirect};
use crate::trace::refuse;

#[btf_map]
static IPOP_MEMORY: PerCpuArray<Work, 1> = PerCpuArray::new();

/// What one CPU seals and opens in, and what it is about to.
///
/// Sealing and opening are functions of their own, which find what was decided here and not in
/// arguments: the stack of one program, 512 bytes with all calls, has no room for the decision and
/// the cipher at a time.
#[repr(C)]
pub struct Work {
    pub job: Job,
    /// Where a handshake message comes from.
    pub source: [u64; 2],
    pub hash: Hash,
    pub memory: Memory,
}

/// A [`Sealing`], an [`Opening`], a [`Relaying`] or a [`Handshake`] without its source, as plain words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Job {
    slot: u32,
    session: u32,
    counter: u64,
    /// Of the packet, or of the text; at the end that of the frame in it.
    len: u32,
    /// IP version of the outer header: 4 or 6.
    outer: u16,
    /// Not 0: a packet to be opened is in a relay frame.
    relayed: u16,
    /// IP version of a packet to be sealed, or in a frame that has been opened.
    inner: u32,
    /// Its protocol, or 0 where that is of no interest.
    protocol: u32,
}

const fn family(version: u32) -> Family {
    if version == 6 { Family::V6 } else { Family::V4 }
}

const fn version(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

impl From<&Sealing> for Job {
    #[inline(always)]
    fn from(sealing: &Sealing) -> Self {
        Self {
            slot: sealing.slot,
            session: sealing.session,
            counter: 0,
            len: u32::from(sealing.len),
            outer: version(sealing.outer) as u16,
            relayed: 0,
            inner: version(sealing.shape.family),
            protocol: match sealing.shape.transport {
                Transport::Tcp => u32::from(protocol::TCP),
                Transport::Udp => u32::from(protocol::UDP),
                Transport::Other => 0,
            },
        }
    }
}

impl From<&Opening> for Job {
    #[inline(always)]
    fn from(opening: &Opening) -> Self {
        Self {
            slot: opening.slot,
            session: opening.session,
            counter: opening.counter,
            len: u32::from(opening.text_len),
            outer: version(opening.outer) as u16,
            relayed: u16::from(opening.relayed),
            inner: 0,
            protocol: 0,
        }
    }
}

impl From<&Relaying> for Job {
    #[inline(always)]
    fn from(relaying: &Relaying) -> Self {
        Self {
            slot: relaying.label,
            session: u32::from(relaying.from),
            counter: 0,
            len: 0,
            outer: version(relaying.outer) as u16,
            relayed: 0,
            inner: 0,
            protocol: 0,
        }
    }
}

impl From<&Handshake> for Job {
    #[inline(always)]
    fn from(handshake: &Handshake) -> Self {
        Self {
            slot: 0,
            session: 0,
            counter: 0,
            len: handshake.kind.message_len() as u32,
            outer: version(handshake.outer) as u16,
            relayed: 0,
            inner: 0,
            protocol: 0,
        }
    }
}

impl Job {
    #[inline(always)]
    fn shape(&self) -> Shape {
        let transport = if self.protocol == u32::from(protocol::TCP) {
            Transport::Tcp
        } else if self.protocol == u32::from(protocol::UDP) {
            Transport::Udp
        } else {
            Transport::Other
        };
        Shape { family: family(self.inner), transport }
    }

    #[inline(always)]
    fn opening(&self) -> Opening {
        Opening {
            slot: self.slot,
            outer: family(self.outer.into()),
            relayed: self.relayed != 0,
            session: self.session,
            counter: self.counter,
            text_len: self.len as u16,
        }
    }

    /// The label of a [`Relaying`], and whether the frame comes from the first of the ends.
    #[inline(always)]
    pub fn relaying(&self) -> (u32, bool) {
        (self.slot, self.session == 0)
    }

    /// What a [`Handshake`] is, and where in the frame.
    #[inline(always)]
    pub fn handshake(&self) -> (Kind, usize) {
        let kind = if self.len == RESPONSE_LEN as u32 { Kind::Response } else { Kind::Initiation };
        (kind, ETHERNET_LEN + family(self.outer.into()).header_len() + UDP_LEN)
    }
}

/// Leaves a job to [`seal`] or [`open`] in the same run of the program.
#[inline(always)]
pub fn set<T>(job: &T)
where
    for<'a> Job: From<&'a T>,
{
    if let Some(work) = IPOP_MEMORY.get_ptr_mut(0) {
        // SAFETY: an element of the map, this CPU's own.
        unsafe { (*work).job = Job::from(job) };
    }
}

/// Leaves a handshake message to [`crate::handshake::admit`].
#[inline(always)]
pub fn set_handshake(handshake: &Handshake) {
    if let Some(work) = IPOP_MEMORY.get_ptr_mut(0) {
        // SAFETY: as in [`set`].
        unsafe { (*work).source = handshake.source.to_words() };
        set(handshake);
    }
}

/// This CPU's job and memory. Programs on one CPU do not nest, so nobody else touches them meanwhile.
#[inline(always)]
pub fn work<'a>() -> Option<&'a mut Work> {
    let work = IPOP_MEMORY.get_ptr_mut(0)?;
    // SAFETY: an element of the map, this CPU's own; each program takes it once.
    unsafe { Some(&mut *work) }
}

/// A length from 1 to `MAX`, seen to be so.
#[inline(always)]
fn positive<const MAX: u64>(len: u64) -> Option<u32> {
    let rest = hide(len.wrapping_sub(1));
    if rest >= MAX { None } else { Some(rest as u32 + 1) }
}

const TEXT_MAX_U64: u64 = TEXT_MAX as u64;
const FRAME_MAX_U64: u64 = (TEXT_MAX - PREFIX_LEN) as u64;
/// What stands before a frame.
const PREFIX_LEN: usize = ethernet::SEALED_PREFIX_LEN;
const SEALED_MAX: u64 = (TEXT_MAX + TAG_LEN) as u64;

/// Bytes before a packet that a local socket has sent: the stack leaves 80 on any VXLAN device. (A
/// virtual machine's packet has NET_SKB_PAD and its Ethernet header.)
const HEADROOM: usize = 78;

/// Copies bytes of the packet into the text, from `at` on.
#[inline(always)]
fn load<const MAX: u64>(skb: Skb, offset: u32, memory: &mut Memory, at: usize, len: u64) -> bool {
    let Some(len) = positive::<MAX>(len) else { return false };
    // SAFETY: the text has room for TEXT_MAX + 64 bytes, and MAX and a prefix are less.
    unsafe { helpers::bpf_skb_load_bytes(skb.raw.cast(), offset, memory.text().add(at).cast(), len) == 0 }
}

/// Copies the text from `at` on into the packet.
#[inline(always)]
fn store<const MAX: u64>(skb: Skb, offset: u32, memory: &mut Memory, at: usize, len: u64) -> bool {
    let Some(len) = positive::<MAX>(len) else { return false };
    // SAFETY: as above.
    unsafe { skb.store(offset, memory.text().add(at), len) }
}

/// Seals a packet of the virtual device and sends it out.
#[inline(never)]
pub fn seal<const L2: bool>(raw: *mut __sk_buff) -> i32 {
    let (ctx, skb) = (&TcContext::new(raw), Skb { raw });
    let (Some(maps), Some(Work { job, memory, .. })) = (&Maps::open(), work()) else { return PASS };
    let (Some(link), Some(session)) = (maps.link(job.slot), maps.session(job.session)) else {
        return miss(maps, Counter::TxStaleEpoch);
    };
    let (shape, outer) = (job.shape(), family(job.outer.into()));
    let len = u64::from(job.len);
    let loaded = if L2 {
        memory.set_text_len(len + PREFIX_LEN as u64) && load::<FRAME_MAX_U64>(skb, 0, memory, PREFIX_LEN, len)
    } else {
        memory.set_text_len(len) && load::<TEXT_MAX_U64>(skb, 0, memory, 0, len)
    };
    if !loaded {
        return refuse(ctx, Counter::TxTruncated);
    }
    let prepared = if L2 { prepare_frame(memory, shape, link.mtu) } else { prepare(memory, shape, link.mtu) };
    let Some(prepared) = prepared else {
        return miss(maps, Counter::TxComplex);
    };
    let now_ns = maps.now_ns();
    // From here on the packet is sent or dropped: its counter is used up.
    let drawn = match session.draw(job.session, now_ns) {
        Ok(drawn) => drawn,
        Err(counter) => return miss(maps, counter),
    };
    if !memory.seal(&drawn.key, drawn.counter) {
        return refuse(ctx, Counter::TxTruncated);
    }
    session.note_sent(now_ns);
    let header_len = match (outer, link.is_relayed()) {
        (Family::V4, false) => V4_LEN,
        (Family::V6, false) => V6_LEN,
        (Family::V4, true) => RELAYED_V4_LEN,
        (Family::V6, true) => RELAYED_V6_LEN,
    };
    let sealed_len = prepared.padded + TAG_LEN as u64;
    let resized = if prepared.completed {
        resize_partial::<L2>(skb, shape.family, len as usize, header_len, sealed_len as usize)
    } else {
        skb.resize(sealed_len as u32) && skb.push(header_len)
    };
    if !resized
        || !write_header(skb, outer, link, &drawn, prepared.padded as u16)
        || !store::<SEALED_MAX>(skb, header_len as u32, memory, 0, sealed_len)
    {
        count(Counter::TxNoRoom);
        return DROP;
    }
    count(Counter::TxSealed);
    count_tx(job.slot, 1, job.len);
    redirect(link.ifindex)
}

/// Makes room in a packet of `len` bytes whose checksum a device was to complete, and lets the buffer
/// forget that: it does where the place that was to be summed is pulled off its start.
#[inline(always)]
fn resize_partial<const L2: bool>(
    skb: Skb,
    family: Family,
    len: usize,
    header_len: usize,
    sealed_len: usize,
) -> bool {
    // What is pulled is behind the header of a frame.
    let link_header = if L2 { ETHERNET_LEN } else { 0 };
    let pulled = link_header + family.header_len() + 4;
    let grown = header_len + sealed_len - len;
    // All bytes are written anew, so that the packet may as well grow at its start alone: one step
    // less. What is left in between has to hold an IP header.
    if grown <= HEADROOM && len >= link_header + pulled + family.header_len() {
        skb.shrink(pulled) && skb.push(pulled + grown)
    } else {
        skb.resize((sealed_len + pulled) as u32) && skb.shrink(pulled) && skb.push(header_len)
    }
}

#[inline(always)]
fn write_header(skb: Skb, outer: Family, link: &Link, drawn: &Drawn, padded: u16) -> bool {
    match (outer, link.is_relayed()) {
        (Family::V4, false) => write_header_v4::<V4_LEN>(skb, link, drawn, padded),
        (Family::V6, false) => write_header_v6::<V6_LEN>(skb, link, drawn, padded),
        (Family::V4, true) => write_header_v4::<RELAYED_V4_LEN>(skb, link, drawn, padded),
        (Family::V6, true) => write_header_v6::<RELAYED_V6_LEN>(skb, link, drawn, padded),
    }
}

#[inline(always)]
fn write_header_v4<const N: usize>(skb: Skb, link: &Link, drawn: &Drawn, padded: u16) -> bool {
    match skb.packet().head_mut::<N>() {
        Some(head) => {
            write_v4(head, link, drawn, padded);
            true
        }
        None => false,
    }
}

#[inline(always)]
fn write_header_v6<const N: usize>(skb: Skb, link: &Link, drawn: &Drawn, padded: u16) -> bool {
    match skb.packet().head_mut::<N>() {
        Some(head) => {
            write_v6(head, link, drawn, padded);
            true
        }
        None => false,
    }
}

/// Opens a frame and hands what is in it to the virtual device.
#[inline(never)]
pub fn open<const L2: bool>(raw: *mut __sk_buff) -> i32 {
    let (ctx, skb) = (&TcContext::new(raw), Skb { raw });
    let (Some(maps), Some(Work { job, memory, .. })) = (&Maps::open(), work()) else { return PASS };
    let Some(session) = maps.session(job.session) else { return leave_to_user() };
    let opening = &job.opening();
    let now_ns = maps.now_ns();
    let key = match session.key_to_open(opening.session, opening.counter, now_ns) {
        Ok(key) => key,
        Err(counter) => return refuse(ctx, counter),
    };
    let text_len = u64::from(opening.text_len);
    let offset = (ETHERNET_LEN + opening.overhead()) as u32;
    if !memory.set_text_len(text_len)
        || !load::<SEALED_MAX>(skb, offset, memory, 0, text_len + TAG_LEN as u64)
    {
        return refuse(ctx, Counter::RxTruncated);
    }
    if memory.open(&key, opening.counter).is_err() {
        return refuse(ctx, Counter::RxBadTag);
    }
    let opened = if L2 { judge_frame(job, memory) } else { opened(maps, memory, opening, now_ns) };
    let opened = match opened {
        Ok(opened) => opened,
        // Its station may be new there.
        Err(_) if L2 => return leave_to_user(),
        // Of a peer whose stack leaves UDP checksums out; the daemon finds it as it came.
        // SAFETY: the text has room for more than a byte.
        Err(_) if is_message(unsafe { *memory.text() }) => return leave_to_user(),
        Err(counter) => return refuse(ctx, counter),
    };
    // All bytes are written anew, so that what is too much behind the packet goes at its start too.
    let kept = usize::from(opened.len) + if L2 { 0 } else { ETHERNET_LEN };
    let removed = (skb.len() as usize).wrapping_sub(kept);
    // Before Linux 6.3 the families cannot change here; the daemon can do it.
    if !skb.shrink_tunnel(removed, opening.outer, opened.family) {
        return leave_to_user();
    }
    // After the last reason to leave the packet to the daemon, which would find its counter used.
    if let Err(counter) = session.accept(opening.counter) {
        return refuse(ctx, counter);
    }
    if opening.relayed {
        session.note_relayed(now_ns);
    } else {
        session.note_received(now_ns);
    }
    let stored = if L2 {
        store::<FRAME_MAX_U64>(skb, 0, memory, PREFIX_LEN, u64::from(opened.len))
    } else {
        store::<TEXT_MAX_U64>(skb, ETHERNET_LEN as u32, memory, 0, u64::from(opened.len))
    };
    if !stored {
        return refuse(ctx, Counter::RxNoRoom);
    }
    count(Counter::RxOpened);
    count_rx(opening.slot, 1, u32::from(opened.len));
    deliver(skb, maps)
}

/// What is in the text of a frame that has been opened.
#[inline(always)]
fn judge_frame(job: &mut Job, memory: &mut Memory) -> Result<Opened, Counter> {
    if !note_frame(job, memory) {
        return Err(Counter::RxBadInner);
    }
    // SAFETY: a field of the map's element. The verifier must not know from which of its paths the number is.
    let len = unsafe { core::ptr::read_volatile(&raw const job.len) };
    Ok(Opened { family: family(job.inner), len: len as u16 })
}

/// Notes the length of a frame in the job, and its version of IP. A function of its own: the verifier would follow what
/// is done with the frame once for each path by which it may be admitted.
#[inline(never)]
fn note_frame(job: &mut Job, memory: &mut Memory) -> bool {
    let Some(maps) = &Maps::open() else { return false };
    match opened_frame(maps, memory, &job.opening(), maps.now_ns()) {
        Ok(opened) => {
            job.len = u32::from(opened.len);
            job.inner = version(opened.family);
            true
        }
        Err(_) => false,
    }
}
