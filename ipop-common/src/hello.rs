//! The hello: the control message that two nodes exchange inside their session.
//!
//! It is the text of a transport message, told from an IP packet by the version in its first four
//! bits. A stock WireGuard drops it as a packet of no known version.
//!
//! ```text
//!  0      type 1, three zero bytes
//!  4      clear link id: what a clear packet to the sender carries, 24 bits in the low bytes of a
//!         big-endian u32; 0 if the sender takes no clear packets
//!  8      boot: when the sender's daemon started, UNIX time in nanoseconds
//! 16      sent: sender's clock, nanoseconds since its boot; grows with every hello
//! 24      echo boot: `boot` of the last hello received from the peer, 0 if none
//! 32      echo sent: `sent` of that hello
//! 40      echo delay: nanoseconds between its arrival and this hello
//! 48      kernel port: UDP port on which the sender's kernel path receives, 0 if it has none
//! 50      lease: how long that stays true without another hello, seconds
//! 52      MTU: largest inner packet that the sender's end of the wire takes in a clear packet
//! 54      flags: bit 0, answer at once
//! 55      reserved, 9 bytes of zero, so that the message needs no padding
//! ```
//! All numbers are big-endian. Boot and sent together order the hellos of one sender; a receiver
//! acts on none that is not newer than the last.

use crate::cursor::Cursor;
use crate::gpe::LinkId;

/// First byte of the message.
pub const TYPE: u8 = 1;
/// Length of the message, a multiple of the padding.
pub const LEN: usize = 64;
const _: () = assert!(LEN.is_multiple_of(crate::wireguard::PADDING));

/// The content of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub clear: Option<LinkId>,
    pub boot: u64,
    pub sent_ns: u64,
    pub echo_boot: u64,
    pub echo_sent_ns: u64,
    pub echo_delay_ns: u64,
    pub kernel_port: u16,
    pub lease_s: u16,
    pub mtu: u16,
    pub answer: bool,
}

impl Hello {
    /// Reads a message; `None` for another type, length, or reserved bits that are set.
    pub fn parse(message: &[u8]) -> Option<Self> {
        if message.len() != LEN || message.u32_at(0)? != u32::from(TYPE) << 24 {
            return None;
        }
        let link_id = message.u32_at(4)?;
        let (flags, reserved) = (message.u8_at(54)?, message.bytes::<9>(55)?);
        if link_id >> 24 != 0 || flags & !1 != 0 || reserved != [0; 9] {
            return None;
        }
        Some(Self {
            clear: LinkId::new(link_id),
            boot: message.u64_at(8)?,
            sent_ns: message.u64_at(16)?,
            echo_boot: message.u64_at(24)?,
            echo_sent_ns: message.u64_at(32)?,
            echo_delay_ns: message.u64_at(40)?,
            kernel_port: message.u16_at(48)?,
            lease_s: message.u16_at(50)?,
            mtu: message.u16_at(52)?,
            answer: flags & 1 != 0,
        })
    }

    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0] = TYPE;
        out[4..8].copy_from_slice(&self.clear.map_or(0, LinkId::value).to_be_bytes());
        for (field, value) in out[8..48].chunks_exact_mut(8).zip([
            self.boot,
            self.sent_ns,
            self.echo_boot,
            self.echo_sent_ns,
            self.echo_delay_ns,
        ]) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        for (field, value) in out[48..54].chunks_exact_mut(2).zip([self.kernel_port, self.lease_s, self.mtu])
        {
            field.copy_from_slice(&value.to_be_bytes());
        }
        out[54] = u8::from(self.answer);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            clear: LinkId::new(0x0a_0b0c),
            boot: 0x0102_0304_0506_0708,
            sent_ns: 0x1112_1314_1516_1718,
            echo_boot: 0x2122_2324_2526_2728,
            echo_sent_ns: 0x3132_3334_3536_3738,
            echo_delay_ns: 0x4142_4344_4546_4748,
            kernel_port: 4790,
            lease_s: 30,
            mtu: 1464,
            answer: true,
        }
    }

    #[test]
    fn golden_vector() {
        #[rustfmt::skip]
        let expected = [
            1, 0, 0, 0, 0, 0x0a, 0x0b, 0x0c,
            1, 2, 3, 4, 5, 6, 7, 8,
            0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
            0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28,
            0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38,
            0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
            0x12, 0xb6, 0, 30, 0x05, 0xb8, 1, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(hello().to_bytes(), expected);
        assert_eq!(Hello::parse(&expected), Some(hello()));
    }

    #[test]
    fn without_a_link_id_no_clear_packets_are_taken() {
        let hello = Hello { clear: None, ..hello() };
        assert_eq!(hello.to_bytes()[4..8], [0; 4]);
        assert_eq!(Hello::parse(&hello.to_bytes()), Some(hello));
    }

    #[test]
    fn any_other_length_is_refused() {
        let bytes = hello().to_bytes().to_vec();
        for len in 0..bytes.len() {
            assert_eq!(Hello::parse(&bytes[..len]), None);
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(Hello::parse(&longer), None);
    }

    proptest! {
        #[test]
        fn what_parses_is_what_was_written(bytes in prop::collection::vec(any::<u8>(), LEN..=LEN), form: bool) {
            let mut bytes = bytes;
            if form {
                bytes[..5].copy_from_slice(&[TYPE, 0, 0, 0, 0]);
                bytes[54] &= 1;
                bytes[55..].fill(0);
            }
            if let Some(hello) = Hello::parse(&bytes) {
                prop_assert_eq!(&hello.to_bytes()[..], &bytes[..]);
            }
        }
    }
}
