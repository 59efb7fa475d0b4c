//! One ICMP echo at a time over a raw socket: what `ping -f` measures, without a process in
//! between. Owns the message format; the far end's kernel answers.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Header and payload: the same 64 bytes as `ping` without options.
const MESSAGE_BYTES: usize = 64;
const HEADER_BYTES: usize = 8;

/// A raw socket that exchanges echoes with one address.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: OwnedFd,
    identifier: u16,
    sequence: u16,
}

impl Echo {
    pub(crate) fn open(target: Ipv4Addr, answer_timeout: Duration) -> Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
            .context("cannot open a raw socket (needs root)")?;
        let [a, b, c, d] = target.octets();
        connect(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0))
            .context("cannot connect a raw socket")?;
        let timeout =
            TimeVal::new(answer_timeout.as_secs() as i64, i64::from(answer_timeout.subsec_micros()));
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).context("cannot set a timeout")?;
        // Its own namespace has no other user of ICMP: any fixed identifier will do.
        Ok(Self { socket, identifier: 0x1b0b, sequence: 0 })
    }

    /// Sends one request and waits for its own reply; false when none comes in time.
    pub(crate) fn exchange(&mut self) -> Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.identifier, self.sequence);
        retry(|| send(self.socket.as_raw_fd(), &request, MsgFlags::empty()))
            .context("cannot send an echo request")?;
        let mut packet = [0u8; 256];
        loop {
            match retry(|| recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty())) {
                Ok(count) if is_reply(&packet[..count], self.identifier, self.sequence) => return Ok(true),
                // Another's, or the answer to a request that had been given up.
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(errno) => return Err(errno).context("no answer to an echo request"),
            }
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome,
        }
    }
}

fn request(identifier: u16, sequence: u16) -> [u8; MESSAGE_BYTES] {
    let mut message = [0u8; MESSAGE_BYTES];
    message[0] = ECHO_REQUEST;
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let checksum = checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// Whether `packet`, an IPv4 packet as a raw socket delivers it, answers that request.
fn is_reply(packet: &[u8], identifier: u16, sequence: u16) -> bool {
    let Some(first) = packet.first() else { return false };
    let header_bytes = usize::from(first & 0x0f) * 4;
    let Some(message) = packet.get(header_bytes..).filter(|message| message.len() >= HEADER_BYTES) else {
        return false;
    };
    message[0] == ECHO_REPLY
        && message[4..6] == identifier.to_be_bytes()
        && message[6..8] == sequence.to_be_bytes()
}

/// The Internet checksum (RFC 1071) of a message of even length.
fn checksum(message: &[u8]) -> u16 {
    let mut sum: u32 =
        message.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_a_valid_checksum() {
        let message = request(0x1234, 7);
        assert_eq!(checksum(&message), 0);
        assert_eq!(message[0], ECHO_REQUEST);
    }

    #[test]
    fn only_the_own_reply_counts() {
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        packet.extend_from_slice(&request(1, 2));
        assert!(!is_reply(&packet, 1, 2), "a request is not a reply");
        packet[20] = ECHO_REPLY;
        assert!(is_reply(&packet, 1, 2));
        assert!(!is_reply(&packet, 1, 3));
        assert!(!is_reply(&packet, 2, 2));
        assert!(!is_reply(&packet[..25], 1, 2));
        assert!(!is_reply(&[], 1, 2));
    }
}
