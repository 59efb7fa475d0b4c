//! Packets for tests, written out from the RFCs. Nothing of the code under test is used here: a
//! mistake there must not hide behind the same mistake in what it is tested with.

use std::net::IpAddr;

pub const ETHERTYPE_V4: u16 = 0x0800;
pub const ETHERTYPE_V6: u16 = 0x86dd;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The Ethernet type of an address's family.
pub const fn ethertype(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => ETHERTYPE_V4,
        IpAddr::V6(_) => ETHERTYPE_V6,
    }
}

pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// An IP packet with right lengths and, over IPv4, a right checksum and DF.
///
/// # Panics
/// Where the families differ or the payload is too long.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = u16::try_from(20 + payload.len()).expect("at most 64 KiB");
            let [high, low] = len.to_be_bytes();
            let mut header = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0].to_vec();
            header.extend(source.octets());
            header.extend(destination.octets());
            let check = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&check);
            [&header[..], payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = u16::try_from(payload.len()).expect("at most 64 KiB").to_be_bytes();
            let start = [0x60, 0, 0, 0, high, low, protocol, 64];
            [&start[..], &source.octets(), &destination.octets(), payload].concat()
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// A UDP datagram in an IP packet, its checksum right.
pub fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("at most 64 KiB");
    let mut datagram =
        [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat();
    let check = udp_checksum(source, destination, &datagram).to_be_bytes();
    datagram[6..8].copy_from_slice(&check);
    ip(source, destination, UDP, &datagram)
}

/// A TCP segment (ACK, PSH) in an IP packet, its checksum right.
pub fn tcp(source: IpAddr, destination: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut segment = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    let check = transport_checksum(source, destination, TCP, &segment).to_be_bytes();
    segment[16..18].copy_from_slice(&check);
    ip(source, destination, TCP, &segment)
}

/// A clear frame as a peer sends it, in parts that a test can change before it is put together.
#[derive(Clone, Debug)]
pub struct ClearFrame {
    pub destination_mac: Mac,
    pub source_mac: Mac,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub port: u16,
    pub link_id: u32,
    pub inner: Vec<u8>,
}

impl ClearFrame {
    /// Bytes from the Ethernet header to the inner packet.
    pub const fn header_len(&self) -> usize {
        14 + self.ip_len() + 8 + 8
    }

    /// Where the UDP header starts.
    pub const fn udp_at(&self) -> usize {
        14 + self.ip_len()
    }

    /// Where the VXLAN-GPE header starts.
    pub const fn gpe_at(&self) -> usize {
        self.udp_at() + 8
    }

    const fn ip_len(&self) -> usize {
        match self.source {
            IpAddr::V4(_) => 20,
            IpAddr::V6(_) => 40,
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let next_protocol = if self.inner.first().is_some_and(|byte| byte >> 4 == 6) { 2 } else { 1 };
        let [_, a, b, c] = self.link_id.to_be_bytes();
        let gpe = [0x0c, 0, 0, next_protocol, a, b, c, 0];
        let len = u16::try_from(8 + 8 + self.inner.len()).expect("at most 64 KiB");
        let udp = [
            &self.source_port.to_be_bytes()[..],
            &self.port.to_be_bytes(),
            &len.to_be_bytes(),
            &[0, 0],
            &gpe,
            &self.inner,
        ]
        .concat();
        let packet = ip(self.source, self.destination, UDP, &udp);
        ethernet(self.destination_mac, self.source_mac, ethertype(self.source), &packet)
    }
}

/// The Internet checksum (RFC 1071), word by word.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a transport header and payload with its pseudo-header (RFC 793, RFC 8200 8.1);
/// 0 over a packet that already carries its own.
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let mut all = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => [source.octets(), destination.octets()].concat(),
        _ => panic!("{source} and {destination} are of two families"),
    };
    let len = u32::try_from(bytes.len()).expect("a packet's length");
    all.extend(len.to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all.extend(bytes);
    checksum(&all)
}

/// As [`transport_checksum`], of a UDP datagram: 0 would say that there is none (RFC 768).
pub fn udp_checksum(source: IpAddr, destination: IpAddr, datagram: &[u8]) -> u16 {
    match transport_checksum(source, destination, UDP, datagram) {
        0 => 0xffff,
        check => check,
    }
}

/// `bytes` as rows of offset, hexadecimal and text.
pub fn hexdump(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for (row, chunk) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            chunk.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect();
        let _ = writeln!(out, "  {:04x}  {:<47}  {text}", row * 16, hex.join(" "));
    }
    out
}
