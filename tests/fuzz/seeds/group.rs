//! What a group has signed, and the messages by which members show it.

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use ipop_overlay::group::request::{Purpose, Request};

use super::Inputs;
use crate::targets::group::{NOW, OTHER, OWN, WORLD, signing_key};

fn id(certificate: &[u8]) -> [u8; 4] {
    let hash: [u8; 32] = Blake2s::<U32>::digest(certificate).into();
    hash[..4].try_into().expect("four bytes")
}

fn padded(mut message: Vec<u8>) -> Vec<u8> {
    message.resize(message.len().next_multiple_of(16), 0);
    message
}

/// A whole certificate, by which the sender says that it has accepted the receiver's.
fn shown(certificate: &[u8], accepted: [u8; 4], list: u64) -> Vec<u8> {
    let mut message = vec![13, 1, 0, 1];
    message.extend(id(certificate));
    message.extend(accepted);
    message.extend((certificate.len() as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(list.to_be_bytes());
    message.extend(1u64.to_be_bytes());
    message.extend(certificate);
    padded(message)
}

fn part(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![16, 1];
    message.extend((bytes.len() as u16).to_be_bytes());
    message.extend(0u32.to_be_bytes());
    message.extend(number.to_be_bytes());
    message.extend((bytes.len() as u32).to_be_bytes());
    message.extend([0; 12]);
    message.extend(bytes);
    padded(message)
}

fn ask() -> Vec<u8> {
    let mut message = vec![15, 2, 0, 32, 0, 0, 0, 0];
    message.extend(1u64.to_be_bytes());
    message.extend([0; 16]);
    message
}

fn refusal(refused: [u8; 4]) -> Vec<u8> {
    let mut message = vec![14, 7, 0, 0];
    message.extend(refused);
    message.extend([0; 8]);
    message.extend(NOW.to_be_bytes());
    message.extend([0; 8]);
    message
}

fn tape(messages: &[Vec<u8>]) -> Vec<u8> {
    let framed = messages.iter().flat_map(|message| {
        (message.len() as u16).to_be_bytes().into_iter().chain(message.iter().copied()).collect::<Vec<u8>>()
    });
    std::iter::once(5).chain(framed).collect()
}

fn of(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind][..], bytes].concat()
}

pub(super) fn signed() -> Inputs {
    let world = &*WORLD;
    let (own, theirs) = (world.certificate(OWN, 2), world.certificate(OTHER, 3));
    let request = Request::sign(
        Purpose::Join,
        NOW * 1000,
        "group.example.org/g/lab",
        b"{\"name\":\"alpha\"}",
        &signing_key(),
    );
    let revoked = world.list(2, &[3]);
    let addresses =
        [[6, 1, 1, 0, 0, 0, 0, 0].to_vec(), vec![0; 8], vec![0; 10], vec![255, 255, 10, 128, 0, 9]];
    let inputs = [
        ("certificate", of(0, &theirs)),
        ("list", of(1, &world.list(4, &[3, 5]))),
        ("list-empty", of(1, &world.list(1, &[]))),
        ("document", of(2, &world.document(3))),
        ("request", of(3, &request.expect("a request"))),
        ("authority", of(4, world.authority.der())),
        ("admitted", tape(&[shown(&theirs, id(&own), 1), addresses.concat(), ask()])),
        ("anothers", tape(&[shown(&own, id(&own), 1)])),
        ("early", tape(&[addresses.concat(), ask()])),
        ("revoked", tape(&[shown(&theirs, id(&own), 2), part(2, &revoked), ask()])),
        ("refused-by-other", tape(&[shown(&theirs, id(&own), 1), refusal(id(&own))])),
    ];
    inputs.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}
