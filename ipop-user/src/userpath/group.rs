//! What this host sends to groups, on its way to the control task.

use ipop_common::Counter;
use ipop_common::inner::Inner;
use ipop_common::multicast::{Outgoing, Target, outgoing};

use super::outbound::{Context, PACKET_START};
use super::pool::{Memory, Piece, Pool};
use super::segment::{SuperPacket, complete_checksum};
use super::virtio;
use super::{GroupPacket, UserEvent};

/// Hands on a packet for many that the TUN device has delivered, virtio header included; in segments where it is a
/// super-packet. What goes no further is counted.
pub(super) fn hand_on(read: Piece, pool: &mut Pool, context: &Context<'_>) {
    if let Err(counter) = try_hand_on(read, pool, context) {
        context.counters.add(counter, 1);
    }
}

fn try_hand_on(read: Piece, pool: &mut Pool, context: &Context<'_>) -> Result<(), Counter> {
    let bytes = pool.bytes(read);
    let header = virtio::Header::parse(bytes).map_err(|_| Counter::TxNotIp)?;
    let packet = bytes.get(virtio::HEADER_LEN..).unwrap_or_default();
    let inner = Inner::parse_any(packet, 0).map_err(|_| Counter::TxNotIp)?;
    let packet = packet.get(..usize::from(inner.total_len)).ok_or(Counter::TxTruncated)?;
    if !context.table.carries_groups() {
        return Err(Counter::TxNoGroup);
    }
    let to = match outgoing(packet, &inner) {
        _ if context.table.is_broadcast(&inner.destination) => Target::All,
        Outgoing::Send(to) => to,
        Outgoing::Membership => {
            // Where there is no room, the list is looked at somewhat later.
            let _ = context.listeners.events.try_send(UserEvent::MembershipSaid);
            return Err(Counter::TxMembership);
        }
        Outgoing::Refuse(counter) => return Err(counter),
    };
    if header.gso.is_some() {
        let whole = SuperPacket::parse(packet, &inner, &header).map_err(|_| Counter::TxNotIp)?;
        for index in 0..whole.segments() {
            let mut bytes = vec![0; whole.header_len()];
            whole.write_header(packet, index, &mut bytes);
            bytes.extend(packet.get(whole.payload(index)).unwrap_or_default());
            send(to, bytes, context);
        }
        return Ok(());
    }
    let piece = Piece { buffer: read.buffer, start: PACKET_START, len: u32::from(inner.total_len) };
    if let Some(partial) = header.checksum {
        complete_checksum(pool.bytes_mut(piece), partial).map_err(|_| Counter::TxNotIp)?;
    }
    send(to, pool.bytes(piece).to_vec(), context);
    Ok(())
}

fn send(to: Target, bytes: Vec<u8>, context: &Context<'_>) {
    if context.listeners.groups.try_send(GroupPacket { to, bytes }).is_err() {
        context.counters.add(Counter::TxGroupFull, 1);
    }
}
