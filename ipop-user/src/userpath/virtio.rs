//! The virtio-net header (virtio 1.2, 5.1.6) that precedes each packet on the TUN device, as bytes
//! and as valid values. It knows nothing of what the packet holds.

/// Length of the header on the wire to the kernel: 10 bytes of legacy header and the buffer count,
/// which a TUN device ignores but which puts the packet on a four-byte boundary.
pub const HEADER_LEN: usize = 12;

/// `flags`: the transport checksum is still to be completed.
const NEEDS_CSUM: u8 = 1;

/// `gso_type` without its ECN bit.
mod gso {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCPV4: u8 = 1;
    pub(super) const TCPV6: u8 = 4;
    pub(super) const UDP_L4: u8 = 5;
    pub(super) const ECN: u8 = 0x80;
}

/// How a super-packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    TcpV4,
    TcpV6,
    /// UDP over either IP version.
    Udp,
}

/// A super-packet: many segments behind one header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    pub segmentation: Segmentation,
    /// The CWR flag may be set; it belongs to the first segment only.
    pub ecn: bool,
    /// Payload bytes per segment, never zero.
    pub size: u16,
    /// Length of all headers. What a kernel says here is a hint, what it reads must be exact.
    pub header_len: u16,
}

/// A checksum over the bytes from `start` to the packet's end, still to be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    pub start: u16,
    /// Where its field is, from `start`.
    pub offset: u16,
}

/// A valid header. Numbers count bytes of the packet after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Header {
    pub gso: Option<Gso>,
    pub checksum: Option<PartialChecksum>,
}

/// Why twelve bytes are no header that we can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    Truncated,
    /// A segmentation that was not asked for, or segments of no bytes.
    Unsupported,
}

impl Header {
    /// The header of a packet that needs nothing done.
    pub const PLAIN: [u8; HEADER_LEN] = [0; HEADER_LEN];

    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(&[flags, kind, h0, h1, s0, s1, c0, c1, o0, o1, ..]) = bytes.first_chunk::<HEADER_LEN>()
        else {
            return Err(HeaderError::Truncated);
        };
        let checksum = (flags & NEEDS_CSUM != 0).then_some(PartialChecksum {
            start: u16::from_ne_bytes([c0, c1]),
            offset: u16::from_ne_bytes([o0, o1]),
        });
        let segmentation = match kind & !gso::ECN {
            gso::NONE => return Ok(Self { gso: None, checksum }),
            gso::TCPV4 => Segmentation::TcpV4,
            gso::TCPV6 => Segmentation::TcpV6,
            gso::UDP_L4 => Segmentation::Udp,
            _ => return Err(HeaderError::Unsupported),
        };
        let size = u16::from_ne_bytes([s0, s1]);
        if size == 0 {
            return Err(HeaderError::Unsupported);
        }
        let header_len = u16::from_ne_bytes([h0, h1]);
        let gso = Some(Gso { segmentation, ecn: kind & gso::ECN != 0, size, header_len });
        Ok(Self { gso, checksum })
    }

    /// What it says of a packet with `len` bytes more at its start.
    pub fn behind(self, len: u16) -> Self {
        let gso = self.gso.map(|gso| Gso { header_len: gso.header_len.saturating_add(len), ..gso });
        let moved = |partial: PartialChecksum| PartialChecksum {
            start: partial.start.saturating_add(len),
            ..partial
        };
        Self { gso, checksum: self.checksum.map(moved) }
    }

    /// What it says of the packet without the first `len` bytes; `None` where it speaks of those.
    pub fn within(self, len: u16) -> Option<Self> {
        let gso = match self.gso {
            Some(gso) => Some(Gso { header_len: gso.header_len.checked_sub(len)?, ..gso }),
            None => None,
        };
        let checksum = match self.checksum {
            Some(partial) => Some(PartialChecksum { start: partial.start.checked_sub(len)?, ..partial }),
            None => None,
        };
        Some(Self { gso, checksum })
    }

    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        if let Some(gso) = self.gso {
            let kind = match gso.segmentation {
                Segmentation::TcpV4 => gso::TCPV4,
                Segmentation::TcpV6 => gso::TCPV6,
                Segmentation::Udp => gso::UDP_L4,
            };
            bytes[1] = if gso.ecn { kind | gso::ECN } else { kind };
            bytes[2..4].copy_from_slice(&gso.header_len.to_ne_bytes());
            bytes[4..6].copy_from_slice(&gso.size.to_ne_bytes());
        }
        if let Some(checksum) = self.checksum {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&checksum.start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&checksum.offset.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_header_asks_for_nothing() {
        assert_eq!(Header::parse(&Header::PLAIN), Ok(Header::default()));
        assert_eq!(Header::default().to_bytes(), Header::PLAIN);
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..HEADER_LEN {
            assert_eq!(Header::parse(&Header::PLAIN[..len]), Err(HeaderError::Truncated));
        }
    }

    #[test]
    fn segmentations_not_asked_for_are_refused() {
        for kind in [2, 3, 6, 7, 0x20, 0x40, 0x7f] {
            let mut bytes = Header::PLAIN;
            bytes[1] = kind;
            bytes[4..6].copy_from_slice(&1448u16.to_ne_bytes());
            assert_eq!(Header::parse(&bytes), Err(HeaderError::Unsupported), "{kind:#x}");
        }
        let mut no_size = Header::PLAIN;
        no_size[1] = 1;
        assert_eq!(Header::parse(&no_size), Err(HeaderError::Unsupported));
    }

    proptest! {
        #[test]
        fn what_was_written_parses(kind in 0u8..3, ecn: bool, size in 1u16.., header_len: u16, partial: bool, start: u16, offset: u16) {
            let segmentation = [Segmentation::TcpV4, Segmentation::TcpV6, Segmentation::Udp][kind as usize];
            let header = Header {
                gso: Some(Gso { segmentation, ecn, size, header_len }),
                checksum: partial.then_some(PartialChecksum { start, offset }),
            };
            prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..32)) {
            let _ = Header::parse(&bytes);
        }
    }
}
