//! What a node sends to its group's server: signed by its X25519 key (XEdDSA), which proves that it has it.
//!
//! ```text
//!  0 "IPGR" · 4 version 1 · 5 purpose · 6 zero (2) · 8 time u64, ms since 1970 · 16 public key (32)
//! 48 length of the place u8 · the place · length of the body u16 · the body
//! then the signature (64), over a label and all before it
//! ```
//!
//! The place is `HOST/g/GROUP`, as in the command by which the node joins: a server cannot hand a request on to another
//! one. The body is JSON, and is not known here.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use ipop_common::cursor::Cursor;

use crate::dht::{SIGNATURE_LEN, SigningKey, verify};

/// Length of the body in bytes.
pub const BODY_LEN_MAX: usize = 16_384;
/// Length of a whole request in bytes.
pub const REQUEST_LEN_MAX: usize = HEAD_LEN + 1 + PLACE_LEN_MAX + 2 + BODY_LEN_MAX + SIGNATURE_LEN;
/// How far the clocks of a node and its server may be apart, in ms.
pub const CLOCKS_APART_MS_MAX: u64 = 300_000;
const PLACE_LEN_MAX: usize = u8::MAX as usize;
const MAGIC: [u8; 4] = *b"IPGR";
const VERSION: u8 = 1;
const HEAD_LEN: usize = 48;
const LABEL: &[u8] = b"ipop group request v1";

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// To become a member.
    Join = 1,
    /// To have the certificate, renewed if it is time, and the parameters.
    Fetch = 2,
    /// To say how it is.
    Report = 3,
    /// To be a member no more.
    Leave = 4,
}

/// A request whose signature is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub purpose: Purpose,
    pub time_ms: u64,
    pub public_key: [u8; 32],
    pub place: String,
    pub body: Vec<u8>,
}

/// Why a request does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    Malformed,
    /// Of a version that is not known here.
    Version(u8),
    BadSignature,
}

impl Purpose {
    fn of(number: u8) -> Option<Self> {
        [Self::Join, Self::Fetch, Self::Report, Self::Leave]
            .into_iter()
            .find(|purpose| *purpose as u8 == number)
    }
}

impl Request {
    /// The signed request; `public_key` is taken from the key. `None` if place or body are too long.
    pub fn sign(
        purpose: Purpose,
        time_ms: u64,
        place: &str,
        body: &[u8],
        key: &SigningKey,
    ) -> Option<Vec<u8>> {
        let place_len = u8::try_from(place.len()).ok()?;
        let body_len = u16::try_from(body.len()).ok().filter(|_| body.len() <= BODY_LEN_MAX)?;
        let mut bytes = Vec::with_capacity(HEAD_LEN + 3 + place.len() + body.len() + SIGNATURE_LEN);
        bytes.extend(MAGIC);
        bytes.extend([VERSION, purpose as u8, 0, 0]);
        bytes.extend(time_ms.to_be_bytes());
        bytes.extend(key.public_key());
        bytes.push(place_len);
        bytes.extend(place.as_bytes());
        bytes.extend(body_len.to_be_bytes());
        bytes.extend(body);
        let signature = key.sign(&[LABEL, &bytes].concat());
        bytes.extend(signature);
        Some(bytes)
    }

    /// Reads a request and checks its signature.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn open(bytes: &[u8]) -> Result<Self, RequestError> {
        if let Some([b'I', b'P', b'G', b'R', version]) = bytes.bytes::<5>(0)
            && version != VERSION
        {
            return Err(RequestError::Version(version));
        }
        let (request, signed, signature) = Self::read(bytes).ok_or(RequestError::Malformed)?;
        if verify(&request.public_key, &[LABEL, signed].concat(), &signature) {
            Ok(request)
        } else {
            Err(RequestError::BadSignature)
        }
    }

    /// The request, what of it is signed, and the signature.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8], [u8; SIGNATURE_LEN])> {
        let [_, purpose, 0, 0] = bytes.bytes::<4>(4)? else { return None };
        if bytes.bytes::<4>(0)? != MAGIC || bytes.len() > REQUEST_LEN_MAX {
            return None;
        }
        let place_end = HEAD_LEN + 1 + usize::from(bytes.u8_at(HEAD_LEN)?);
        let place = core::str::from_utf8(bytes.get(HEAD_LEN + 1..place_end)?).ok()?;
        let body_len = usize::from(u16::from_be_bytes(bytes.bytes(place_end)?));
        let body_end = place_end + 2 + body_len;
        let body = bytes.get(place_end + 2..body_end).filter(|_| body_len <= BODY_LEN_MAX)?;
        let signature = bytes.get(body_end..)?.try_into().ok()?;
        let request = Self {
            purpose: Purpose::of(purpose)?,
            time_ms: u64::from_be_bytes(bytes.bytes(8)?),
            public_key: bytes.bytes(16)?,
            place: place.into(),
            body: body.to_vec(),
        };
        Some((request, bytes.get(..body_end)?, signature))
    }

    /// Whether it was made about now.
    pub fn is_timely(&self, now_ms: u64) -> bool {
        self.time_ms.abs_diff(now_ms) <= CLOCKS_APART_MS_MAX
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("this is not a request to a group's server"),
            Self::Version(version) => {
                write!(f, "requests of version {version} are not known: update the older side")
            }
            Self::BadSignature => f.write_str("the request is not signed by the key that it names"),
        }
    }
}

impl core::error::Error for RequestError {}
