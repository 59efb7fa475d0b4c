//! Hellos, and runs of the overlay node.

use ipop_common::gpe::LinkId;
use ipop_common::hello::Hello;

use super::Inputs;

fn sample() -> Hello {
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

fn message(hello: &Hello) -> Vec<u8> {
    hello.to_bytes().to_vec()
}

pub(super) fn hello() -> Inputs {
    let first = Hello { echo_boot: 0, echo_sent_ns: 0, echo_delay_ns: 0, ..sample() };
    let damaged = |at: usize, value: u8| {
        let mut bytes = message(&sample());
        bytes[at] = value;
        bytes
    };
    let inputs = [
        ("answers", message(&sample())),
        ("first", message(&first)),
        ("asks-nothing", message(&Hello { answer: false, ..sample() })),
        ("without-kernel-path", message(&Hello { kernel_port: 0, ..sample() })),
        ("goodbye", message(&Hello { lease_s: 0, ..sample() })),
        ("another-type", damaged(0, 5)),
        ("reserved-in-type", damaged(3, 1)),
        ("link-id-of-32-bits", damaged(4, 1)),
        ("takes-no-clear", message(&Hello { clear: None, ..sample() })),
        ("unknown-flag", damaged(54, 3)),
        ("reserved-at-end", damaged(55, 1)),
        ("reserved-at-the-very-end", damaged(63, 1)),
        ("too-long", [&message(&sample())[..], &[0]].concat()),
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
const NO_ENDPOINT: [u8; 2] = [7, 2];
const AT_V6: [u8; 2] = [7, 3 | 3 << 3];
/// Of the first peer, with all the upper bits.
const ON_THE_OVERLAY: [u8; 2] = [7, 3 | 0x1f << 3];
const BY_A_RELAY: [u8; 2] = [7, 3 | 0x1e << 3];
/// By TCP.
const BY_TCP: [u8; 2] = [7, 3 | 0x1d << 3];
const OUT_OF_TRUST: [u8; 2] = [7, 3 | 2 << 3];
const NO_SESSION: [u8; 2] = [7, 4];
const SESSION: [u8; 2] = [7, 5];
const NEXT_SESSION: [u8; 2] = [7, 5 | 1 << 3];
const ALIVE: [u8; 2] = [7, 6];
const GOODBYE: [u8; 2] = [7, 7];
/// Choice of a hello: no clear packets.
const SEALED: u8 = 16;

/// Where the byte of the hello's event is in [`said`].
const HELLO_AT: usize = PASS_1_MS.len();

/// The first peer's next hello, a millisecond later: choices, kernel port, lease, MTU.
fn said(choices: u8, kernel_port: u16, lease_s: u16) -> Vec<u8> {
    let [a, b] = kernel_port.to_be_bytes();
    let [c, d] = lease_s.to_be_bytes();
    [&PASS_1_MS[..], &[2, choices, a, b, c, d, 0x05, 0xb8]].concat()
}

/// Up to a clear path by the kernel: there is a session, the node greets, the peer answers.
fn linked() -> Vec<u8> {
    [&REACHABLE[..], &KERNEL_ON, &SESSION, &PASS_1100_MS, &said(3, 4790, 30)].concat()
}

pub(super) fn node() -> Inputs {
    let linked = linked();
    let of_the_second = |mut event: Vec<u8>| {
        event[HELLO_AT] |= 8;
        event
    };
    let noise = [&[1, 12, 6, 0, 0, 0][..], &[7; 8]].concat();
    let tampered = |bit: u16| [&[3][..], &said(1, 4790, 30)[HELLO_AT + 1..], &bit.to_be_bytes()].concat();
    let arbitrary = [&[2, 15, 0x12, 0xb6, 0, 30, 5, 0xb8][..], &[0xff; 32]].concat();
    let flood: Vec<u8> = (0..60).flat_map(|_| said(3, 4790, 30)).collect();
    let second = [
        &[5 | 8, 5, 0xb8, 1][..],
        &[7 | 8, 3 | 1 << 3],
        &[7 | 8, 5 | 2 << 3],
        &of_the_second(said(3, 0, 30)),
    ]
    .concat();
    [
        ("alone", [&PASS_1100_MS[..], &PASS_40_S].concat()),
        ("route-lost-and-found", [&PASS_1100_MS[..], &[5, 0, 0, 0], &REACHABLE].concat()),
        ("sealed-without-a-word", [&REACHABLE[..], &KERNEL_ON, &SESSION, &PASS_40_S.repeat(4)].concat()),
        ("sealed-by-the-peer", [&linked[..], &said(1 | SEALED, 4790, 30)].concat()),
        ("sealed-over-ipv6", [&linked[..], &AT_V6, &said(1, 0, 30), &said(1, 4790, 30)].concat()),
        ("sealed-then-kernel-off", [&linked[..], &OUT_OF_TRUST, &KERNEL_OFF].concat()),
        ("linked-by-the-kernel", linked.clone()),
        ("linked-then-silent", [&linked[..], &PASS_40_S].concat()),
        ("linked-then-alive", [&linked[..], &PASS_40_S[..1], &[0x50, 0], &ALIVE, &PASS_40_S].concat()),
        ("linked-then-goodbye-of-the-peer", [&linked[..], &said(1, 4790, 0)].concat()),
        (
            "goodbye-then-the-next-session",
            [&linked[..], &said(1, 4790, 0), &NEXT_SESSION, &said(3, 4790, 30)].concat(),
        ),
        ("linked-then-goodbye-of-ours", [&linked[..], &GOODBYE].concat()),
        ("linked-then-no-session", [&linked[..], &NO_SESSION, &PASS_1100_MS, &SESSION].concat()),
        ("linked-then-kernel-off", [&linked[..], &KERNEL_OFF, &ANNOUNCE].concat()),
        ("linked-then-kernel-only-receives", [&linked[..], &[6, 0x12, 0xb6, 0]].concat()),
        ("linked-then-unreachable", [&linked[..], &[5, 0, 0, 0]].concat()),
        ("linked-then-over-an-untrusted-address", [&linked[..], &[5, 5, 0xb8, 2]].concat()),
        ("linked-then-a-narrower-wire", [&linked[..], &[5, 3, 0xe8, 1]].concat()),
        ("greets-every-second", [&SESSION[..], &PASS_1100_MS.repeat(2), &PASS_100_MS.repeat(20)].concat()),
        ("peer-without-kernel-path", [&linked[..], &said(1, 0, 5)].concat()),
        ("roamed-out-of-trust", [&linked[..], &OUT_OF_TRUST, &PASS_1100_MS].concat()),
        ("second-peer-comes-to-us", [&linked[..], &second, &PASS_1100_MS].concat()),
        ("pinged", [&linked[..], &PING, &said(1, 4790, 30)].concat()),
        ("repeated", [&linked[..], &[4, 4 | 8, 4]].concat()),
        ("noise", [&linked[..], &noise].concat()),
        ("tampered", [&linked[..], &tampered(0), &tampered(400), &tampered(511)].concat()),
        ("arbitrary-numbers", [&linked[..], &arbitrary, &said(1, 1, 1)].concat()),
        ("flood", [&linked[..], &flood].concat()),
        ("restarted", [&linked[..], &[2, 7, 0, 0, 0, 30, 5, 0xb8, 0, 0, 0, 0, 0, 0, 0xff, 0xff]].concat()),
        ("linked-then-by-tcp", [&linked[..], &BY_TCP, &PASS_1100_MS, &AT_V6].concat()),
        ("linked-then-by-a-relay", [&linked[..], &BY_A_RELAY, &PASS_1100_MS, &AT_V6].concat()),
        ("linked-then-on-the-overlay", [&linked[..], &ON_THE_OVERLAY, &PASS_1100_MS, &AT_V6].concat()),
        ("lost-by-the-operator", [&linked[..], &NO_ENDPOINT, &PASS_1100_MS, &AT_V6].concat()),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect()
}
