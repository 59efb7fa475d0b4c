//! The pending sends of a batch and the frames for the TUN device in the form that system calls
//! take: pointers. They are valid while batch, frames and pools stay as they are.

use std::mem;
use std::net::{SocketAddr, SocketAddrV6};

use ipop_common::Cursor;
use libc::{c_int, cmsghdr, iovec, mmsghdr, msghdr};
use socket2::SockAddr;

use crate::userpath::batch::{Batch, PIECES_MAX, Part, SENDS_MAX, Send};
use crate::userpath::coalesce::Frame;
use crate::userpath::pool::{Memory, Piece, Pool};
use crate::userpath::virtio;

/// One control message with an integer.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Control {
    header: cmsghdr,
    value: c_int,
}

impl Control {
    /// UDP_SEGMENT: the kernel cuts what is sent into datagrams of this length.
    fn segment(len: u16) -> Self {
        let mut control = Self::default();
        control.header.cmsg_level = libc::SOL_UDP;
        control.header.cmsg_type = libc::UDP_SEGMENT;
        // SAFETY: CMSG_LEN only adds.
        control.header.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<u16>() as u32) } as _;
        // The field is a u16 at the start of the data.
        let [a, b] = len.to_ne_bytes();
        control.value = c_int::from_ne_bytes([a, b, 0, 0]);
        control
    }
}

impl Default for Control {
    fn default() -> Self {
        // SAFETY: plain data, for which all zeroes is a value.
        unsafe { mem::zeroed() }
    }
}

// The structure has the layout of CMSG_FIRSTHDR with an int as its data.
const _: () = assert!(mem::offset_of!(Control, value) == size_of::<cmsghdr>());

/// What a receive call writes beside the payload: the sender's address and one control message.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) name: [u8; NAME_LEN],
    pub(super) control: [u8; CONTROL_LEN],
}

impl Received {
    pub(super) const EMPTY: Self = Self { name: [0; NAME_LEN], control: [0; CONTROL_LEN] };
}

/// Length of an IPv6 socket address, the longest that a UDP socket has.
pub(super) const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
/// Room for one control message with an integer: CMSG_SPACE.
pub(super) const CONTROL_LEN: usize = size_of::<Control>();

/// The address that the kernel wrote as a sockaddr.
pub(super) fn socket_address(name: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(name.bytes(2)?);
    match i32::from(u16::from_ne_bytes(name.bytes(0)?)) {
        libc::AF_INET => Some(SocketAddr::from((name.bytes::<4>(4)?, port))),
        libc::AF_INET6 => {
            let (flow, scope) = (u32::from_ne_bytes(name.bytes(4)?), u32::from_ne_bytes(name.bytes(24)?));
            Some(SocketAddrV6::new(name.bytes::<16>(8)?.into(), port, flow, scope).into())
        }
        _ => None,
    }
}

/// The segment length of a UDP_GRO control message, if that is what the kernel wrote.
pub(super) fn gro_segment_len(control: &[u8]) -> Option<u32> {
    let int = |at| control.bytes(at).map(c_int::from_ne_bytes);
    let level = int(mem::offset_of!(cmsghdr, cmsg_level))?;
    let kind = int(mem::offset_of!(cmsghdr, cmsg_type))?;
    let len = u32::try_from(int(mem::offset_of!(Control, value))?).ok()?;
    (level == libc::SOL_UDP && kind == libc::UDP_GRO && len > 0).then_some(len)
}

/// Message headers for the sends of a batch, made anew for each, in memory that is kept.
pub(super) struct Messages {
    iovecs: Vec<iovec>,
    /// Of each send.
    iovec_counts: Vec<usize>,
    names: Vec<SockAddr>,
    controls: Vec<Control>,
    headers: Vec<mmsghdr>,
    sockets: Vec<u8>,
}

impl Messages {
    pub(super) fn new() -> Self {
        Self {
            iovecs: Vec::with_capacity(PIECES_MAX),
            iovec_counts: Vec::with_capacity(SENDS_MAX),
            names: Vec::with_capacity(SENDS_MAX),
            controls: Vec::with_capacity(SENDS_MAX),
            headers: Vec::with_capacity(SENDS_MAX),
            sockets: Vec::with_capacity(SENDS_MAX),
        }
    }

    /// Describes the pending sends of a batch.
    pub(super) fn describe(&mut self, batch: &Batch, pool: &Pool) {
        self.iovecs.clear();
        self.names.clear();
        self.controls.clear();
        self.headers.clear();
        self.sockets.clear();
        self.iovec_counts.clear();
        for send in batch.pending() {
            self.iovec_counts.push(describe_parts(batch, send, pool, &mut self.iovecs));
            self.names.push(SockAddr::from(send.route.endpoint));
            self.controls.push(Control::segment(send.segment_len as u16));
            self.sockets.push(send.route.socket);
        }
        let mut first_iovec = 0;
        for (index, send) in batch.pending().iter().enumerate() {
            let iovecs = self.iovec_counts.get(index).copied().unwrap_or(0);
            let header = self.header(index, send, first_iovec, iovecs);
            self.headers.push(mmsghdr { msg_hdr: header, msg_len: 0 });
            first_iovec += iovecs;
        }
    }

    fn header(&mut self, index: usize, send: &Send, first_iovec: usize, iovecs: usize) -> msghdr {
        // SAFETY: plain data, for which all zeroes is a value.
        let mut header: msghdr = unsafe { mem::zeroed() };
        if let Some(name) = self.names.get(index) {
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len();
        }
        if let Some(first) = self.iovecs.get_mut(first_iovec) {
            header.msg_iov = first;
            header.msg_iovlen = iovecs as _;
        }
        if send.segments > 1
            && let Some(control) = self.controls.get_mut(index)
        {
            header.msg_control = (&raw mut *control).cast();
            header.msg_controllen = size_of::<Control>().next_multiple_of(align_of::<cmsghdr>()) as _;
        }
        header
    }

    /// The headers of the sends described, in order.
    pub(super) fn headers(&mut self) -> &mut [mmsghdr] {
        &mut self.headers
    }

    /// The sockets of the sends described, in order.
    pub(super) fn sockets(&self) -> &[u8] {
        &self.sockets
    }
}

/// Appends the buffers of one send and says how many they are: blocks that lie side by side, as those
/// of sealed messages do, are one.
fn describe_parts(batch: &Batch, send: &Send, pool: &Pool, iovecs: &mut Vec<iovec>) -> usize {
    let first = iovecs.len();
    let mut block_end = None;
    for part in batch.parts(send) {
        match part {
            Part::Block { start, len } => {
                match iovecs.last_mut().filter(|_| block_end == Some(*start)) {
                    Some(last) => last.iov_len += *len as usize,
                    None => iovecs.push(iovec_of(batch.block_bytes(*part))),
                }
                block_end = Some(start + len);
            }
            Part::Payload(piece) => {
                iovecs.push(iovec_of_piece(*piece, pool));
                block_end = None;
            }
        }
    }
    iovecs.len() - first
}

/// The buffers of one write of a frame.
pub(super) fn frame_iovecs(frame: &Frame, pool: &Pool, iovecs: &mut Vec<iovec>) {
    iovecs.clear();
    iovecs.push(iovec_of(frame.header()));
    iovecs.extend(frame.pieces().iter().map(|piece| iovec_of_piece(*piece, pool)));
}

/// The buffers of a write of one packet as it came.
pub(super) fn packet_iovecs(packet: Piece, pool: &Pool) -> [iovec; 2] {
    [iovec_of(&virtio::Header::PLAIN), iovec_of_piece(packet, pool)]
}

fn iovec_of(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn iovec_of_piece(piece: Piece, pool: &Pool) -> iovec {
    iovec_of(pool.bytes(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["192.0.2.1:4790", "[2001:db8::1]:15000"] {
            let address: SocketAddr = text.parse().unwrap();
            let name = SockAddr::from(address);
            // SAFETY: as many bytes as the address has.
            let bytes =
                unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len() as usize) };
            assert_eq!(socket_address(bytes), Some(address));
            for len in 0..bytes.len().min(8) {
                assert_eq!(socket_address(&bytes[..len]), None);
            }
        }
        assert_eq!(socket_address(&[0; NAME_LEN]), None);
    }

    #[test]
    fn a_control_message_of_another_kind_is_no_segment_length() {
        let mut control = [0u8; CONTROL_LEN];
        control[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
        control[16..20].copy_from_slice(&1400i32.to_ne_bytes());
        assert_eq!(gro_segment_len(&control), Some(1400));
        assert_eq!(gro_segment_len(&control[..16]), None);
        let mut other = control;
        other[12] ^= 1;
        assert_eq!(gro_segment_len(&other), None);
        control[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(gro_segment_len(&control), None);
    }
}
