//! Runs of two nodes that make sessions with one another.

use super::Inputs;

/// An event of the second node, not of the first.
const SECOND: u8 = 8;

const SEND: u8 = 2;
const PASS_500_MS: u8 = 10 << 4;
const PASS_50_MS: u8 = 1 << 4;
/// What has been under way for the longest arrives; arrives and comes again; is lost.
const ARRIVE: [u8; 2] = [3, 0];
const REPEAT: [u8; 2] = [4, 0];
const LOSE: [u8; 2] = [5, 0];
/// What came last.
const ARRIVE_LAST: [u8; 2] = [3, 0xff];

const fn pass_s(seconds: u8) -> [u8; 2] {
    [1, seconds]
}

/// A copy of the oldest arrives: changed by flipping a bit, by cutting it off.
const fn flipped(bit: u16) -> [u8; 4] {
    let [high, low] = bit.to_be_bytes();
    [6, 0, high, low]
}

const fn cut(len: u8) -> [u8; 4] {
    [6, 0, 0x80, len]
}

/// A copy arrives from another port; where it came from.
const FROM_ELSEWHERE: [u8; 4] = [6, 0, 0xc0, 0];
const REFLECTED: [u8; 4] = [6, 0, 0xc0, 1];

// Misfortunes of the first node; with [`SECOND`] in the first byte, of the second.
const CLOCK_BACK_16_MIN: [u8; 2] = [7, 0];
const CLOCK_BACK_15_MIN: [u8; 2] = [7, 1 << 3];
const RESTART: [u8; 2] = [7, 1];
const RESTART_WITH_SESSION: [u8; 2] = [7, 2];
const MOVE: [u8; 2] = [7, 3 | 7 << 3];
const LOADED: [u8; 2] = [7, 4 | 1 << 3];
const MANY_SEALED: [u8; 2] = [7, 5 | 30 << 3];
const ALL_SEALED: [u8; 2] = [7, 5 | 31 << 3];
const ALL_LOST: [u8; 2] = [7, 6];

const fn of_second([event, choice]: [u8; 2]) -> [u8; 2] {
    [event | SECOND, choice]
}

/// The first initiates, the second answers, a keepalive confirms.
fn connected() -> Vec<u8> {
    [&[SEND][..], &ARRIVE, &ARRIVE, &ARRIVE].concat()
}

/// A packet goes to the other and arrives, and one back.
fn talk() -> Vec<u8> {
    [&[SEND][..], &ARRIVE, &[SEND | SECOND], &ARRIVE].concat()
}

pub(super) fn runs() -> Inputs {
    let (connected, talk) = (connected(), talk());
    let on = |more: &[&[u8]]| [&connected[..], &more.concat()].concat();
    let each_bit_of_a_byte = |from: u16, to: u16| (from..to).flat_map(|at| flipped(at * 8 + at % 8));
    [
        ("nothing", Vec::new()),
        ("connected", connected.clone()),
        ("talk", on(&[&talk, &talk])),
        ("both-at-once", [&[SEND, SEND | SECOND][..], &ARRIVE.repeat(8)].concat()),
        ("both-at-once-in-another-order", [&[SEND, SEND | SECOND][..], &ARRIVE_LAST.repeat(8)].concat()),
        ("initiation-lost", [&[SEND][..], &LOSE, &pass_s(6), &ARRIVE.repeat(3)].concat()),
        ("response-lost", [&[SEND][..], &ARRIVE, &LOSE, &pass_s(6), &ARRIVE.repeat(3)].concat()),
        ("confirmation-lost", [&[SEND][..], &ARRIVE, &ARRIVE, &LOSE, &[SEND | SECOND], &ARRIVE].concat()),
        ("each-repeated", [&[SEND][..], &[REPEAT, ARRIVE].concat().repeat(4)].concat()),
        (
            "each-repeated-later",
            [&[SEND][..], &[&REPEAT[..], &[PASS_50_MS], &ARRIVE].concat().repeat(4)].concat(),
        ),
        ("late-initiation", [&[SEND][..], &pass_s(6), &ARRIVE_LAST, &ARRIVE, &ARRIVE.repeat(3)].concat()),
        ("never-answered", [&[SEND][..], &pass_s(100), &[SEND], &pass_s(100)].concat()),
        ("initiation-changed", [&[SEND][..], &each_bit_of_a_byte(0, 30).collect::<Vec<_>>()].concat()),
        (
            "response-changed",
            [&[SEND][..], &ARRIVE, &each_bit_of_a_byte(0, 30).collect::<Vec<_>>(), &ARRIVE].concat(),
        ),
        ("packet-changed", on(&[&[SEND], &each_bit_of_a_byte(0, 20).collect::<Vec<_>>(), &ARRIVE])),
        ("cut", [&[SEND][..], &cut(147), &cut(4), &cut(0), &ARRIVE, &cut(91), &ARRIVE, &cut(31)].concat()),
        ("reflected", [&[SEND][..], &REFLECTED, &ARRIVE, &REFLECTED, &ARRIVE, &REFLECTED].concat()),
        ("from-elsewhere", on(&[&[SEND], &FROM_ELSEWHERE, &ARRIVE, &talk])),
        ("packets-repeated", on(&[&[SEND, SEND], &REPEAT, &REPEAT, &ARRIVE_LAST, &ARRIVE])),
        ("replaced-in-time", on(&[&pass_s(121), &[SEND], &ARRIVE_LAST, &ARRIVE.repeat(3), &talk])),
        ("over", on(&[&pass_s(179), &[SEND], &pass_s(2), &ARRIVE, &[SEND | SECOND], &ARRIVE.repeat(3)])),
        ("silence", on(&[&[SEND], &LOSE, &pass_s(16), &ALL_LOST, &pass_s(6), &ARRIVE.repeat(3)])),
        ("clock-back", on(&[&CLOCK_BACK_16_MIN, &pass_s(181), &[SEND], &ARRIVE.repeat(3)])),
        ("clocks-back", on(&[&CLOCK_BACK_15_MIN, &of_second(CLOCK_BACK_16_MIN), &pass_s(121), &talk])),
        ("restarted", on(&[&RESTART, &[SEND], &ARRIVE.repeat(3), &talk])),
        ("restarted-with-session", on(&[&RESTART_WITH_SESSION, &talk, &pass_s(11), &ARRIVE.repeat(3)])),
        ("restarted-clock-back", on(&[&CLOCK_BACK_16_MIN, &RESTART, &[SEND], &ARRIVE, &[SEND | SECOND]])),
        ("moved", on(&[&MOVE, &talk, &of_second(MOVE), &talk, &talk])),
        ("moved-unheard", on(&[&MOVE, &of_second(MOVE), &[SEND, SEND | SECOND], &pass_s(20)])),
        (
            "under-load",
            [&of_second(LOADED)[..], &[SEND], &ARRIVE, &ARRIVE, &pass_s(6), &ARRIVE.repeat(3)].concat(),
        ),
        ("both-under-load", [&LOADED[..], &of_second(LOADED), &[SEND], &ARRIVE.repeat(9)].concat()),
        ("many-sealed", on(&[&[PASS_500_MS], &MANY_SEALED, &ARRIVE.repeat(3), &talk])),
        ("all-sealed", on(&[&pass_s(6), &of_second(ALL_SEALED), &talk, &ALL_SEALED, &ARRIVE.repeat(4)])),
        (
            "initiations-in-haste",
            [&[SEND][..], &RESTART, &[SEND, PASS_50_MS], &RESTART, &[SEND], &ARRIVE.repeat(6)].concat(),
        ),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect()
}
