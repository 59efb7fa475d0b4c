//! The messages of the ring, byte by byte. They are texts of transport messages inside a session, as
//! hellos are, and told from those by their first byte.
//!
//! Big-endian throughout. A message that is longer or shorter than it says is refused, but for the
//! zeros with which a session pads it, as is one with a bit set that has no meaning.
//!
//! ```text
//! beat        0 type 2 · 1 flags: 1 answer wanted, 2 answers, 4 anybody reaches the sender · 2 roles · 3 zero
//!             4 stamp u32 · 8 the stamp that is answered u32 · 12 digest of the sender's neighbours u32
//! neighbours  0 type 3 · 1 flags: 1 answer wanted · 2 how many addresses · 3 zero
//!             4 log2 of the network's size as the sender sees it, 8 bits behind the point, u16
//!             6 coordinates: x i32, y i32, height u32, microseconds · 18 the coordinates' error, u16
//!             20 addresses, the nearest below first, then those above
//! routed      0 type 4 · 1 mode in bits 0-2, kind of payload in bits 3-5, bit 6: went uphill,
//!             bit 7: by way of a node · 2 hops u16 · 4 most hops u16 · 6 length of the payload u16
//!             8 source · 28 destination · 48 the node by way of which, where flagged · then the payload
//! close       0 type 5 · 1 reason · 2 zero u16
//! ask seen    0 type 7 · 1 zeros, 3 bytes
//! ask relay   0 type 9 · 1 zeros, 3 bytes · 4 the node to which to pass on ·
//!             24 zeros, 8 bytes
//! relay       0 type 10 · 1 status: 0 granted, 1 not by this node, 2 no connection to that node, 3 too many ·
//!             2 the largest clear packet that its wires to both take u16, or 0 · 4 label u32 · 8 that node · 28 round trip to it, microseconds u32
//! seen        0 type 8 · 1 zeros, 3 bytes · 4 endpoint (family 4 or 6, address, port u16)
//! group       0 type 11 · 1 version 1 · 2 word: 0 join, 1 leave, 2 joined, 3 full · 3 kind of the group's address ·
//!             4 zeros, 4 bytes · 8 address of the group, 16 bytes
//! datagram    0 type 12 · 1 version 1 · 2 flags: 1 away from the root · 3 hops · 4 length of the frame u16 · 6 zero ·
//!             7 kind of the group's address · 8 that address, 16 bytes · 24 public key of the origin ·
//!             56 number u64 · 64 signature, 64 bytes · 128 frame
//! ```
//!
//! Payloads of routed messages:
//!
//! ```text
//! connect     0 flags: 1 answers, 2 relays wanted · 1 role · 2 how many of the endpoints, the last ones, are addresses
//!             at a TURN server · 3 zero · 4 token u64 · 12 public key · 44 flags: 1 the
//! (1)         answer is to go by way of a node · 45 that node, or zeros · 65 how many endpoints ·
//!             66 how many neighbours · 67 how many relays · then endpoints (family 4 or 6, address, port
//!             u16), then neighbours (address, coordinates as above), then relays (address)
//! echo (2)    0 kind: 0 asks, 1 answers, 2 asks wherever it ends, 3 its hops are used up, 4 no way
//!             further · 1 zero · 2 in an answer, nodes that the request came to u16 · 4 token u64 · then
//!             anything
//! carried (3) a WireGuard message
//! claim (4)   0 kind: 1 makes, 2 asks, 3 known, 4 unknown, 5 taken · 1 zeros, 7 bytes · 8 address, an
//!             IPv4 one mapped into IPv6 · 24 public key of who has it · 56 since UNIX time in seconds u64
//! survey (5)  0 kind 0: asks · 1 page · 2 zero u16 · 4 token u64 · 12 zeros, to 732 bytes
//!             0 kind 1: answers · 1 page · 2 how many connections u16 · 4 token u64 · 12 log2 of the
//!             network's size u16 · 14 coordinates · 26 how many of them here · 27 zero · 28 for each its
//!             address, the sender's roles, the other's roles
//! broadcast (6) 0 token u64 · 8 text
//! dht (7)     see `dht::wire`
//! ```

mod groups;
mod probes;
mod traversal;

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipop_common::wireguard::PADDING;

use crate::address::{ADDRESS_LEN, NodeAddress};

pub(crate) use groups::{Datagram, GroupMessage, GroupWord};
pub use groups::{FRAME_MAX, Group};
pub(crate) use probes::{Echo, EchoKind, SURVEY_PAGE, Survey, SurveyAnswer, SurveyAsk};
pub(crate) use traversal::{AskRelay, AskSeen, Relay, RelayStatus, Seen};

pub(crate) const BEAT: u8 = 2;
pub(crate) const NEIGHBOURS: u8 = 3;
pub(crate) const ROUTED: u8 = 4;
pub(crate) const CLOSE: u8 = 5;
// 6 is the node's: see `ADDRESSES` there.
pub(crate) const ASK_SEEN: u8 = 7;
pub(crate) const SEEN: u8 = 8;
pub(crate) const ASK_RELAY: u8 = 9;
pub(crate) const RELAY: u8 = 10;
pub(crate) const GROUP: u8 = 11;
pub(crate) const DATAGRAM: u8 = 12;
// 13 to 16 are about certificates: see `group::message`.

/// Length of a beat, a multiple of the padding.
pub(crate) const BEAT_LEN: usize = 16;
/// Addresses in a list of neighbours.
pub(crate) const NEIGHBOURS_MAX: usize = 8;
/// Addresses at which a node may be reached, in one message.
pub const ENDPOINTS_MAX: usize = 12;
/// Of them, those at a TURN server.
pub(crate) const TURNED_MAX: usize = 2;
/// Nodes that may relay, in one message.
pub(crate) const RELAYS_MAX: usize = 4;
/// Length of the header of a routed message without and with a node by way of which it goes.
pub(crate) const ROUTED_LEN: usize = 48;
pub(crate) const ROUTED_VIA_LEN: usize = ROUTED_LEN + ADDRESS_LEN;
/// The largest payload: a carried packet of the least MTU that IPv6 needs, sealed.
pub(crate) const PAYLOAD_MAX: usize = 1280 + 64;

/// The longest text for all nodes.
pub const BROADCAST_MAX: usize = 512;

/// Why a node keeps a connection; several reasons at a time.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles(pub(crate) u8);

impl Roles {
    pub const NONE: Self = Self(0);
    /// The other is among the nearest on the ring.
    pub const NEAR: Self = Self(1);
    /// A shortcut across the ring.
    pub const FAR: Self = Self(2);
    /// The physically closest of the ring's neighbourhood.
    pub const BYPASS: Self = Self(4);
    /// A way into the network.
    pub const LEAF: Self = Self(8);
    /// There is traffic.
    pub const DEMAND: Self = Self(16);
    /// The operator has configured it.
    pub const MANAGED: Self = Self(32);
    /// The other relays between the node and a third one.
    pub const RELAY: Self = Self(64);

    const ALL: [(Self, &str); 7] = [
        (Self::NEAR, "near"),
        (Self::FAR, "far"),
        (Self::BYPASS, "bypass"),
        (Self::LEAF, "leaf"),
        (Self::DEMAND, "on-demand"),
        (Self::MANAGED, "managed"),
        (Self::RELAY, "relay"),
    ];

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        if bits < 128 { Some(Self(bits)) } else { None }
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().filter(move |(role, _)| self.contains(*role)).map(|(_, name)| name)
    }
}

impl core::fmt::Debug for Roles {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Where a node is in the space in which distances are round-trip times, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coordinates {
    pub x: i32,
    pub y: i32,
    /// What is added on the way to anywhere: the node's own last mile.
    pub height: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) wants_answer: bool,
    pub(crate) answers: bool,
    /// Others reach the sender uninvited.
    pub(crate) is_open: bool,
    pub(crate) roles: Roles,
    pub(crate) stamp: u32,
    pub(crate) echo: u32,
    pub(crate) digest: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Neighbours {
    pub(crate) wants_answer: bool,
    pub(crate) log2_size: u16,
    pub(crate) coordinates: Coordinates,
    pub(crate) error: u16,
    pub(crate) addresses: Vec<NodeAddress>,
}

/// How a routed message finds its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// To the destination itself, or nowhere.
    Exact = 0,
    /// To the node nearest to the destination.
    Nearest = 1,
    /// To the nodes on both sides of the destination, which itself is left out.
    Flanks = 2,
    /// Up the ring from neighbour to neighbour, for as many hops as it may take.
    Up = 3,
    /// Down the ring.
    Down = 4,
    /// To all from the node that it came to up to the destination, which itself is left out.
    Part = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Connect = 1,
    Echo = 2,
    Carried = 3,
    Claim = 4,
    Survey = 5,
    Broadcast = 6,
    Dht = 7,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) mode: Mode,
    pub(crate) hops: u16,
    pub(crate) hops_max: u16,
    pub(crate) kind: Kind,
    pub(crate) went_uphill: bool,
    pub(crate) source: NodeAddress,
    pub(crate) destination: NodeAddress,
    pub(crate) via: Option<NodeAddress>,
}

/// Where a node may be reached, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) own: Vec<SocketAddr>,
    /// Its addresses at a TURN server, which sends on to it what comes from those that it has permitted.
    pub(crate) turned: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) answers: bool,
    /// The answer is to name nodes that may relay.
    pub(crate) wants_relays: bool,
    pub(crate) role: Roles,
    pub(crate) token: u64,
    pub(crate) public_key: [u8; 32],
    /// The node by way of which the answer is to go.
    pub(crate) answer_via: Option<NodeAddress>,
    pub(crate) places: Places,
    pub(crate) neighbours: Vec<(NodeAddress, Coordinates)>,
    /// Where they are wanted: nodes to which the sender has a direct connection, by way of which it may be reached.
    pub(crate) relays: Vec<NodeAddress>,
}

/// A text for all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broadcast<'a> {
    /// By which it is known when it comes again.
    pub(crate) token: u64,
    pub(crate) text: &'a [u8],
}

/// What a claim message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ClaimKind {
    /// The sender has the address.
    Make = 1,
    /// Who has it?
    Ask = 2,
    Known = 3,
    Unknown = 4,
    /// Another claims it as well.
    Taken = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) kind: ClaimKind,
    pub(crate) address: [u8; 16],
    pub(crate) public_key: [u8; 32],
    pub(crate) since: u64,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CloseReason {
    /// The node leaves the network.
    Leaving = 1,
    /// Neither side has a use for it.
    Unused = 2,
    /// There are more than the node keeps.
    Full = 3,
}

/// Reads from the front of a slice.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    /// A byte in which nothing but `known` may be set.
    fn flags(&mut self, known: u8) -> Option<u8> {
        self.u8().filter(|flags| flags & !known == 0)
    }

    fn zeros<const N: usize>(&mut self) -> Option<()> {
        self.take::<N>().filter(|bytes| *bytes == [0; N]).map(|_| ())
    }

    fn address(&mut self) -> Option<NodeAddress> {
        let bytes = self.take::<ADDRESS_LEN>()?;
        (bytes[ADDRESS_LEN - 1] & 1 == 0).then_some(NodeAddress(bytes))
    }

    fn coordinates(&mut self) -> Option<Coordinates> {
        Some(Coordinates { x: self.i32()?, y: self.i32()?, height: self.u32()? })
    }

    fn endpoint(&mut self) -> Option<SocketAddr> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.take::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.take::<16>()?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, self.u16()?))
    }

    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    /// Nothing is left but padding.
    fn end(self) -> Option<()> {
        (self.0.len() < PADDING && self.0.iter().all(|byte| *byte == 0)).then_some(())
    }
}

fn put_coordinates(out: &mut Vec<u8>, at: &Coordinates) {
    out.extend(at.x.to_be_bytes());
    out.extend(at.y.to_be_bytes());
    out.extend(at.height.to_be_bytes());
}

fn put_endpoint(out: &mut Vec<u8>, endpoint: SocketAddr) {
    match endpoint.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(endpoint.port().to_be_bytes());
}

impl Beat {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == BEAT)?;
        let flags = reader.flags(7)?;
        let roles = Roles::from_bits(reader.u8()?)?;
        reader.zeros::<1>()?;
        let beat = Self {
            wants_answer: flags & 1 != 0,
            answers: flags & 2 != 0,
            is_open: flags & 4 != 0,
            roles,
            stamp: reader.u32()?,
            echo: reader.u32()?,
            digest: reader.u32()?,
        };
        reader.end().map(|()| beat)
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let flags = u8::from(self.wants_answer) | u8::from(self.answers) << 1 | u8::from(self.is_open) << 2;
        let mut out = Vec::with_capacity(BEAT_LEN);
        out.extend([BEAT, flags, self.roles.0, 0]);
        [self.stamp, self.echo, self.digest].iter().for_each(|word| out.extend(word.to_be_bytes()));
        out
    }
}

impl Neighbours {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == NEIGHBOURS)?;
        let flags = reader.flags(1)?;
        let count = usize::from(reader.u8()?);
        reader.zeros::<1>()?;
        let (log2_size, coordinates, error) = (reader.u16()?, reader.coordinates()?, reader.u16()?);
        if count > NEIGHBOURS_MAX {
            return None;
        }
        let addresses: Option<Vec<NodeAddress>> = (0..count).map(|_| reader.address()).collect();
        let addresses = addresses?;
        reader.end()?;
        Some(Self { wants_answer: flags & 1 != 0, log2_size, coordinates, error, addresses })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let addresses = self.addresses.get(..NEIGHBOURS_MAX).unwrap_or(&self.addresses);
        let mut out = Vec::with_capacity(20 + addresses.len() * ADDRESS_LEN);
        out.extend([NEIGHBOURS, u8::from(self.wants_answer), addresses.len() as u8, 0]);
        out.extend(self.log2_size.to_be_bytes());
        put_coordinates(&mut out, &self.coordinates);
        out.extend(self.error.to_be_bytes());
        addresses.iter().for_each(|address| out.extend(address.0));
        out
    }
}

impl Header {
    /// The header, and where the payload begins.
    pub(crate) fn parse(message: &[u8]) -> Option<(Self, &[u8])> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == ROUTED)?;
        let form = reader.u8()?;
        let mode = match form & 7 {
            0 => Mode::Exact,
            1 => Mode::Nearest,
            2 => Mode::Flanks,
            3 => Mode::Up,
            4 => Mode::Down,
            5 => Mode::Part,
            _ => return None,
        };
        let kind = match form >> 3 & 7 {
            1 => Kind::Connect,
            2 => Kind::Echo,
            3 => Kind::Carried,
            4 => Kind::Claim,
            5 => Kind::Survey,
            6 => Kind::Broadcast,
            7 => Kind::Dht,
            _ => return None,
        };
        let (went_uphill, has_via) = (form & 0x40 != 0, form & 0x80 != 0);
        let (hops, hops_max, len) = (reader.u16()?, reader.u16()?, usize::from(reader.u16()?));
        let (source, destination) = (reader.address()?, reader.address()?);
        let via = if has_via { Some(reader.address()?) } else { None };
        let payload = reader.slice(len)?;
        reader.end()?;
        let fits = hops < hops_max && len <= PAYLOAD_MAX;
        let fits = fits && (mode == Mode::Part) == (kind == Kind::Broadcast);
        fits.then_some((Self { mode, hops, hops_max, kind, went_uphill, source, destination, via }, payload))
    }

    pub(crate) fn write(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(ROUTED_VIA_LEN + payload.len());
        let flags = u8::from(self.went_uphill) << 6 | u8::from(self.via.is_some()) << 7;
        out.extend([ROUTED, self.mode as u8 | (self.kind as u8) << 3 | flags]);
        let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        [self.hops, self.hops_max, len].iter().for_each(|number| out.extend(number.to_be_bytes()));
        out.extend(self.source.0);
        out.extend(self.destination.0);
        self.via.iter().for_each(|via| out.extend(via.0));
        out.extend(payload);
        out
    }
}

impl<'a> Broadcast<'a> {
    pub(crate) fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let token = reader.u64()?;
        let text = reader.0;
        (text.len() <= BROADCAST_MAX).then_some(Self { token, text })
    }

    /// Nothing for a text that is too long.
    pub(crate) fn to_bytes(self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(8 + self.text.len());
        out.extend(self.token.to_be_bytes());
        out.extend(self.text);
        (self.text.len() <= BROADCAST_MAX).then_some(out)
    }
}

impl Connect {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let flags = reader.flags(3)?;
        let role = Roles::from_bits(reader.u8()?)?;
        let turned = usize::from(reader.u8()?);
        reader.zeros::<1>()?;
        let (token, public_key) = (reader.u64()?, reader.take::<32>()?);
        let has_via = reader.flags(1)? != 0;
        let via = reader.address()?;
        let [endpoints, neighbours, relays] = reader.take::<3>()?.map(usize::from);
        if endpoints > ENDPOINTS_MAX
            || turned > endpoints.min(TURNED_MAX)
            || neighbours > NEIGHBOURS_MAX
            || relays > RELAYS_MAX
        {
            return None;
        }
        let own: Option<Vec<_>> = (turned..endpoints).map(|_| reader.endpoint()).collect();
        let turned: Option<Vec<_>> = (0..turned).map(|_| reader.endpoint()).collect();
        let neighbours: Option<Vec<_>> =
            (0..neighbours).map(|_| Some((reader.address()?, reader.coordinates()?))).collect();
        let relays: Option<Vec<_>> = (0..relays).map(|_| reader.address()).collect();
        let connect = Self {
            answers: flags & 1 != 0,
            wants_relays: flags & 2 != 0,
            role,
            token,
            public_key,
            answer_via: has_via.then_some(via),
            places: Places { own: own?, turned: turned? },
            neighbours: neighbours?,
            relays: relays?,
        };
        reader.end()?;
        (has_via || via.0 == [0; ADDRESS_LEN]).then_some(connect)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Places { own, turned } = &self.places;
        let turned = turned.get(..TURNED_MAX).unwrap_or(turned);
        let own = own.get(..ENDPOINTS_MAX - turned.len()).unwrap_or(own);
        let endpoints = [own, turned].concat();
        let neighbours = self.neighbours.get(..NEIGHBOURS_MAX).unwrap_or(&self.neighbours);
        let relays = self.relays.get(..RELAYS_MAX).unwrap_or(&self.relays);
        let len = 68 + endpoints.len() * 19 + neighbours.len() * 32 + relays.len() * ADDRESS_LEN;
        let mut out = Vec::with_capacity(len);
        let flags = u8::from(self.answers) | u8::from(self.wants_relays) << 1;
        out.extend([flags, self.role.0, turned.len() as u8, 0]);
        out.extend(self.token.to_be_bytes());
        out.extend(self.public_key);
        out.push(u8::from(self.answer_via.is_some()));
        out.extend(self.answer_via.map_or([0; ADDRESS_LEN], |via| via.0));
        out.extend([endpoints.len() as u8, neighbours.len() as u8, relays.len() as u8]);
        endpoints.iter().for_each(|endpoint| put_endpoint(&mut out, *endpoint));
        for (address, coordinates) in neighbours {
            out.extend(address.0);
            put_coordinates(&mut out, coordinates);
        }
        relays.iter().for_each(|address| out.extend(address.0));
        out
    }
}

impl Claim {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let kind = match reader.u8()? {
            1 => ClaimKind::Make,
            2 => ClaimKind::Ask,
            3 => ClaimKind::Known,
            4 => ClaimKind::Unknown,
            5 => ClaimKind::Taken,
            _ => return None,
        };
        reader.zeros::<7>()?;
        let claim = Self { kind, address: reader.take()?, public_key: reader.take()?, since: reader.u64()? };
        reader.end().map(|()| claim)
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend([self.kind as u8, 0, 0, 0, 0, 0, 0, 0]);
        out.extend(self.address);
        out.extend(self.public_key);
        out.extend(self.since.to_be_bytes());
        out
    }
}

impl CloseReason {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == CLOSE)?;
        let reason = match reader.u8()? {
            1 => Self::Leaving,
            2 => Self::Unused,
            3 => Self::Full,
            _ => return None,
        };
        reader.zeros::<2>()?;
        reader.end().map(|()| reason)
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [CLOSE, self as u8, 0, 0].to_vec()
    }
}
