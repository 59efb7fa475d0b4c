//! Hellos, and runs of the overlay node.

use ipop_common::gpe::LinkId;
use ipop_common::hello::{Hello, TAG_LEN};

use super::Inputs;

fn sample() -> Hello {
    Hello {
        link_id: LinkId::new(0x0a_0b0c).expect("a link id"),
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

fn datagram(hello: &Hello) -> Vec<u8> {
    [&hello.to_bytes()[..], &[0xee; TAG_LEN]].concat()
}

pub(super) fn hello() -> Inputs {
    let first = Hello { echo_boot: 0, echo_sent_ns: 0, echo_delay_ns: 0, ..sample() };
    let damaged = |at: usize, value: u8| {
        let mut bytes = datagram(&sample());
        bytes[at] = value;
        bytes
    };
    let no_link = [&damaged(5, 0)[..6], &[0, 0], &damaged(5, 0)[8..]].concat();
    let inputs = [
        ("answers", datagram(&sample())),
        ("first", datagram(&first)),
        ("asks-nothing", datagram(&Hello { answer: false, ..sample() })),
        ("without-kernel-path", datagram(&Hello { kernel_port: 0, ..sample() })),
        ("goodbye", datagram(&Hello { lease_s: 0, ..sample() })),
        ("another-type", damaged(0, 5)),
        ("reserved-in-type", damaged(3, 1)),
        ("link-id-of-32-bits", damaged(4, 1)),
        ("no-link", no_link),
        ("unknown-flag", damaged(54, 3)),
        ("reserved-at-end", damaged(55, 1)),
        ("too-long", [&datagram(&sample())[..], &[0]].concat()),
    ];
    inputs.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

// Events of the target `node`, of its first peer at its configured address.
const PASS_1100_MS: [u8; 3] = [0, 0x04, 0x4c];
const PASS_1_MS: [u8; 3] = [0, 0, 1];
const PASS_100_MS: [u8; 3] = [0, 0, 100];
const PASS_40_S: [u8; 3] = [0, 0x9c, 0x40];
/// To 10.0.0.2 with 1464 bytes; its own address is there too.
const REACHABLE: [u8; 4] = [5, 0x05, 0xb8, 1];
const KERNEL_ON: [u8; 4] = [6, 0x12, 0xb6, 1];
const KERNEL_OFF: [u8; 4] = [6, 0, 0, 0];
const ANNOUNCE: [u8; 2] = [7, 0];
const PING: [u8; 2] = [7, 1];
const GOODBYE: [u8; 2] = [7, 3];

/// Where the byte of the hello's event is in [`said`].
const HELLO_AT: usize = PASS_1_MS.len();

/// The first peer's next hello, a millisecond later: choices, kernel port, lease, MTU.
fn said(choices: u8, kernel_port: u16, lease_s: u16) -> Vec<u8> {
    let [a, b] = kernel_port.to_be_bytes();
    let [c, d] = lease_s.to_be_bytes();
    [&PASS_1_MS[..], &[2, choices, a, b, c, d, 0x05, 0xb8]].concat()
}

/// Up to a path by the kernel: the node greets, the peer answers.
fn linked() -> Vec<u8> {
    [&REACHABLE[..], &KERNEL_ON, &PASS_1100_MS, &said(0, 4790, 30), &said(3, 4790, 30)].concat()
}

pub(super) fn node() -> Inputs {
    let linked = linked();
    let from = |bits: u8, mut event: Vec<u8>| {
        event[HELLO_AT] |= bits;
        event
    };
    let noise = [&[1, 12, 6, 0, 0, 0][..], &[7; 8]].concat();
    let tampered = |bit: u16| [&[3][..], &said(1, 4790, 30)[HELLO_AT + 1..], &bit.to_be_bytes()].concat();
    let arbitrary = [&[2, 15, 0x12, 0xb6, 0, 30, 5, 0xb8][..], &[0xff; 32]].concat();
    let flood: Vec<u8> = (0..60).flat_map(|_| said(3, 4790, 30)).collect();
    let second = [&[5 | 8, 5, 0xb8, 1][..], &from(8 | 0x10, said(3, 0, 30))].concat();
    [
        ("alone", [&PASS_1100_MS[..], &PASS_40_S].concat()),
        ("route-lost-and-found", [&PASS_1100_MS[..], &[5, 0, 0, 0], &REACHABLE].concat()),
        ("linked-by-the-kernel", linked.clone()),
        ("linked-then-silent", [&linked[..], &PASS_40_S].concat()),
        ("linked-then-goodbye-of-the-peer", [&linked[..], &said(1, 4790, 0)].concat()),
        ("linked-then-goodbye-of-ours", [&linked[..], &GOODBYE].concat()),
        ("linked-then-kernel-off", [&linked[..], &KERNEL_OFF, &ANNOUNCE].concat()),
        ("linked-then-kernel-only-receives", [&linked[..], &[6, 0x12, 0xb6, 0]].concat()),
        ("linked-then-unreachable", [&linked[..], &[5, 0, 0, 0]].concat()),
        ("linked-then-over-an-untrusted-address", [&linked[..], &[5, 5, 0xb8, 2]].concat()),
        ("linked-then-a-narrower-wire", [&linked[..], &[5, 3, 0xe8, 1]].concat()),
        ("greets-every-second", PASS_1100_MS.repeat(2).into_iter().chain(PASS_100_MS.repeat(20)).collect()),
        ("peer-without-kernel-path", [&linked[..], &said(1, 0, 5)].concat()),
        ("roamed", [&linked[..], &from(0x10, said(3, 4790, 30)), &PASS_1100_MS].concat()),
        ("roamed-out-of-trust", [&linked[..], &from(0x20, said(3, 4790, 30)), &PASS_1100_MS].concat()),
        ("second-peer-comes-to-us", [&linked[..], &second, &PASS_1100_MS].concat()),
        ("pinged", [&linked[..], &PING, &said(1, 4790, 30)].concat()),
        ("repeated", [&linked[..], &[4, 0, 4, 1, 4 | 0x20, 1]].concat()),
        ("noise", [&linked[..], &noise].concat()),
        ("tampered", [&linked[..], &tampered(0), &tampered(400), &tampered(575)].concat()),
        ("arbitrary-numbers", [&linked[..], &arbitrary, &said(1, 1, 1)].concat()),
        ("flood", [&linked[..], &flood].concat()),
        ("restarted", [&linked[..], &[2, 7, 0, 0, 0, 30, 5, 0xb8, 0, 0, 0, 0, 0, 0, 0xff, 0xff]].concat()),
        ("moved-by-the-operator", [&linked[..], &[7, 6 | 8], &PASS_1100_MS, &[7, 2]].concat()),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect()
}
