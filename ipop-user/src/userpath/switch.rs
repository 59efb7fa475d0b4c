//! Frames of Ethernet between this node's side of the switch and its links: where they go, and which may come.
//!
//! Stations are learned by the control task; here is only looked up what it has published.

use ipop_common::Counter;
use ipop_common::ethernet::{self, Header, Mac, is_group, station};
use ipop_common::inner::Inner;
use ipop_common::maps::LinkRef;
use ipop_common::multicast::Target;
use ipop_common::rules::{self, Direction};
use ipop_common::switch::{self, Holder};
use ipop_common::tables::Tables;

use super::outbound::{Context, PACKET_START, Refusal, follow_link};
use super::pool::{Memory, Piece, Pool};
use super::segment::{SuperPacket, complete_checksum};
use super::stage::Wanted;
use super::table::UserLink;
use super::virtio;
use super::{GroupPacket, UserEvent};

/// The link that a frame of this node's side goes to.
pub(super) fn look_up<'a>(frame: &[u8], context: &Context<'a>) -> Result<(u32, &'a UserLink), Refusal> {
    let header = Header::parse(frame).ok_or(Refusal::Count(Counter::TxBadFrame))?;
    // By this another node's guard is known, also where nothing else is taken.
    if ethernet::is_guard(&header) {
        return Err(Refusal::Frame);
    }
    if context.table.is_shut() {
        return Err(Refusal::Count(Counter::TxSharedSegment));
    }
    match context.table.by_address(&station(header.source)) {
        Some(LinkRef::LOCAL) => {}
        Some(_) => {
            // It may have moved here.
            let _ = context.listeners.events.try_send(UserEvent::StationHere { mac: header.source });
            return Err(Refusal::Count(Counter::TxForeignStation));
        }
        None => return Err(Refusal::Wait(Wanted::Station(header.source))),
    }
    if is_group(&header.destination) {
        return Err(Refusal::Frame);
    }
    let destination = station(header.destination);
    match context.table.by_address(&destination) {
        // On the same side: it has the frame already.
        Some(LinkRef::LOCAL) => Err(Refusal::Count(Counter::TxNoRoute)),
        Some(reference) => {
            let found = follow_link(reference, context)?.ok_or(Refusal::Count(Counter::TxNoRoute))?;
            let link = &found.1.link;
            rules::permit_frame(frame, &header, link, Direction::Out, context.table, context.now_ns)
                .map_err(|_| Refusal::Count(Counter::TxRefusedRule))?;
            Ok(found)
        }
        None if context.table.may_be_found(&destination) => Err(Refusal::Wait(Wanted::Owner(destination))),
        None => Err(Refusal::Frame),
    }
}

/// The super-packet in a frame, and where it starts.
pub(super) fn super_frame(frame: &[u8], header: &virtio::Header) -> Result<(usize, SuperPacket), Refusal> {
    let bad = || Refusal::Count(Counter::TxBadFrame);
    let (at, family) = ethernet::ip_at(frame).ok_or_else(bad)?;
    let header = header.within(at as u16).ok_or_else(bad)?;
    let packet = frame.get(at..).unwrap_or_default();
    let inner = Inner::parse(packet, 0, family).map_err(|_| bad())?;
    Ok((at, SuperPacket::parse(packet, &inner, &header)?))
}

/// Hands on a frame for all, or to a station of which nobody knows where it is, virtio header included; in segments
/// where it is a super-packet. What goes no further is counted.
pub(super) fn hand_on(read: Piece, pool: &mut Pool, context: &Context<'_>) {
    if let Err(counter) = try_hand_on(read, pool, context) {
        context.counters.add(counter, 1);
    }
}

fn try_hand_on(read: Piece, pool: &mut Pool, context: &Context<'_>) -> Result<(), Counter> {
    let bytes = pool.bytes(read);
    let header = virtio::Header::parse(bytes).map_err(|_| Counter::TxBadFrame)?;
    let frame = bytes.get(virtio::HEADER_LEN..).unwrap_or_default();
    if header.gso.is_some() {
        let (at, whole) = super_frame(frame, &header).map_err(|_| Counter::TxBadFrame)?;
        let (link_header, packet) = frame.split_at_checked(at).ok_or(Counter::TxBadFrame)?;
        for index in 0..whole.segments() {
            let mut segment = [link_header, &vec![0; whole.header_len()]].concat();
            whole.write_header(packet, index, segment.get_mut(at..).unwrap_or_default());
            segment.extend(packet.get(whole.payload(index)).unwrap_or_default());
            send(segment, context)?;
        }
        return Ok(());
    }
    let piece = Piece { buffer: read.buffer, start: PACKET_START, len: frame.len() as u32 };
    if let Some(partial) = header.checksum {
        complete_checksum(pool.bytes_mut(piece), partial).map_err(|_| Counter::TxBadFrame)?;
    }
    send(pool.bytes(piece).to_vec(), context)
}

fn send(bytes: Vec<u8>, context: &Context<'_>) -> Result<(), Counter> {
    let packet = GroupPacket { to: Target::Ethernet, bytes };
    context.listeners.groups.try_send(packet).map_err(|_| Counter::TxGroupFull)
}

/// Frames of stations that nobody knows yet, which may come in a second.
const STRANGERS_MAX: u32 = 64;

/// How many more of those may come.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    second: u64,
    taken: u32,
}

impl Strangers {
    fn admit(&mut self, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            *self = Self { second, taken: 0 };
        }
        self.taken = self.taken.saturating_add(1);
        self.taken <= STRANGERS_MAX
    }
}

/// Whether a frame may come by the link in `slot`: from a station that no other node has.
pub(super) fn admit(
    frame: &[u8],
    slot: u32,
    strangers: &mut Strangers,
    context: &Context<'_>,
) -> Result<(), Counter> {
    if context.table.is_shut() {
        return Err(Counter::RxSharedSegment);
    }
    let header = Header::parse(frame).ok_or(Counter::RxBadInner)?;
    // What is for all comes by the tree, where there are limits.
    if is_group(&header.destination) {
        return Err(Counter::RxBadInner);
    }
    let holder = switch::holder(context.table, header.source, slot);
    if holder != Holder::Peer {
        tell_of(slot, header.source, context);
        if holder == Holder::Other || !strangers.admit(context.now_ns) {
            return Err(Counter::RxWrongInnerSource);
        }
    }
    match switch::is_spoofed(context.table, frame, &header, slot) {
        true => Err(Counter::RxSpoofedAddress),
        false => switch::hold(context.table, frame, &header, slot, context.now_ns),
    }
}

fn tell_of(slot: u32, mac: Mac, context: &Context<'_>) {
    // Where there is no room, the next frame tells.
    let _ = context.listeners.events.try_send(UserEvent::StationThere { slot, mac });
}
