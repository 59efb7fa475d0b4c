//! Runs of a node of the ring and what members say to it.

use super::Inputs;

const fn of(member: u8, event: u8) -> u8 {
    member << 3 | event
}

/// Milliseconds.
fn pass(millis: u16) -> Vec<u8> {
    [&[0][..], &millis.to_be_bytes()].concat()
}

fn noise(member: u8, bytes: &[u8]) -> Vec<u8> {
    [&[of(member, 1), bytes.len() as u8][..], bytes].concat()
}

fn beat(member: u8, flags: u8, roles: u8) -> Vec<u8> {
    [&[of(member, 2), flags, roles][..], &[0; 12]].concat()
}

/// A list with one node that is nearer than all.
fn near(member: u8, number: u8) -> Vec<u8> {
    [&[of(member, 3), 1, 1][..], &[0xff; 16], &[0xc1, 0xff, number]].concat()
}

/// Routed from, to, and by way of a member.
fn routed(member: u8, form: u8, hops: [u8; 2], ends: [u8; 3], payload: &[u8]) -> Vec<u8> {
    [&[of(member, 4), form][..], &hops, &ends, payload].concat()
}

const OWN: u8 = 0xff;
const ECHO: &[u8] = &[1, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const ECHO_ANSWER: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 0, 0, 7];

/// A request of a member's, for a role.
fn request(source: u8, role: u8) -> Vec<u8> {
    [&[2, source][..], &[0; 8], &[0, role], &[0, 2, 1], &[0; 12]].concat()
}

/// One that says as little as possible.
fn short_request(source: u8) -> Vec<u8> {
    [&[2, source][..], &[0; 8], &[0, 0, 0, 0, 0]].concat()
}

fn answer(member: u8, source: u8) -> Vec<u8> {
    [&[of(member, 5), source, 1, 0, 1, 2][..], &[0; 24]].concat()
}

fn event(member: u8, what: u8) -> Vec<u8> {
    vec![of(member, 6), what]
}

fn connect(member: u8) -> Vec<u8> {
    event(member, 0)
}

fn act(member: u8, what: &[u8]) -> Vec<u8> {
    [&[of(member, 7)][..], what].concat()
}

const KIND_CONNECT: u8 = 1 << 3;
const KIND_ECHO: u8 = 2 << 3;
const KIND_CARRIED: u8 = 3 << 3;
const KIND_CLAIM: u8 = 4 << 3;
const KIND_SURVEY: u8 = 5 << 3;
const KIND_DHT: u8 = 7 << 3;
/// To the node nearest to a place.
const NEAREST: u8 = 1;
/// A text for a part of the ring.
const KIND_BROADCAST: u8 = 6 << 3 | 5;
const BROADCAST: &[u8] = &[0; 41];
/// Traces a way; its hops are used up; there is no way.
const TRACE: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 0, 0, 7];
const TRACE_USED_UP: &[u8] = &[1, 3, 0, 0, 0, 0, 0, 0, 0, 7];
const TRACE_NO_WAY: &[u8] = &[1, 4, 0, 0, 0, 0, 0, 0, 0, 7];
const SURVEY: &[u8] = &[4, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const SURVEY_ANSWER: &[u8] = &[5, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 7];

/// A member says at which port it sees this node.
fn seen_at(member: u8, port: u8) -> Vec<u8> {
    noise(member, &[8, 0, 0, 0, 4, 192, 0, 2, 1, 0x3a, port])
}

/// Of what kind, of which address, of whom, since when.
fn claim(source: u8, kind: u8, last: u8, since: u8) -> Vec<u8> {
    routed(1, KIND_CLAIM, [1, 10], [source, OWN, 0], &[3, kind, last, source, since])
}

/// About records: what, of which place, with which argument and how many; then each record.
fn about(member: u8, mode: u8, what: [u8; 4], records: &[[u8; 8]]) -> Vec<u8> {
    let payload = [&[6][..], &what, records.as_flattened()].concat();
    routed(member, KIND_DHT | mode, [1, 10], [member, OWN, 0], &payload)
}

/// A record by its owner, name, form (1: create, 2: removed, 0xe0: not signed), slot, when it was created, how long it lives,
/// sequence, and length.
const fn record(owner: u8, name: u8, form: u8, sequence: u8) -> [u8; 8] {
    [owner, name, form, 1, 125, 200, sequence, 20]
}

/// Bits of a message that answers the last question.
const FITS: u8 = 128;

fn records() -> Vec<u8> {
    let create = |owner, sequence| record(owner, 1, 1, sequence);
    [
        about(1, NEAREST, [1, 0, 0, 0], &[create(1, 0)]),
        CLOCK.to_vec(),
        pass(1000),
        about(1, NEAREST, [1, 0, 0, 0], &[create(1, 0)]),
        about(1, NEAREST, [1, 0, 0, 0], &[create(2, 0)]),
        about(1, NEAREST, [1, 0, 0, 0], &[create(1, 0)]),
        about(1, NEAREST, [1, 3, 0, 0], &[record(1, 2, 0, 0)]),
        about(1, NEAREST, [1, 3, 0, 0], &[record(1, 2, 0xe0, 1)]),
        // Said to be older than what stands of the same owner; over; and of the future.
        about(1, NEAREST, [1, 3, 0, 0], &[[1, 1, 1, 0, 120, 255, 200, 9]]),
        about(1, NEAREST, [1, 3, 0, 0], &[[3, 3, 1, 0, 0, 1, 0, 9]]),
        about(1, NEAREST, [1, 3, 0, 0], &[[3, 3, 1, 0, 255, 1, 0, 9]]),
        // Read, with room for one and without.
        about(1, NEAREST, [2, 3, 40, 129], &[]),
        about(1, NEAREST, [2, 3, 0, 1], &[]),
        // Neighbours keep it as well.
        pass(3000),
        about(1, 0, [3, 0, FITS, 0], &[]),
        about(2, 0, [4, 0, FITS, 0], &[[5, 1, 1, 0, 100, 255, 0, 9]]),
        about(2, 0, [7, 0, 0, 0], &[[4, 1, 1, 0, 90, 255, 0, 9]]),
        // In the name of another than the neighbour that brings it.
        routed(1, KIND_DHT, [1, 10], [2, OWN, 0], &[6, 7, 0, 0, 0, 4, 1, 1, 0, 90, 255, 0, 9]),
        about(2, 0, [8, 0, 0, 0], &[[4, 1, 1, 0, 90, 255, 0, 9]]),
        about(1, NEAREST, [1, 0, 0, 0], &[record(4, 1, 3, 255)]),
        pass(60_000),
    ]
    .concat()
}

/// The node knows what time it is.
const CLOCK: &[u8] = &[of(1, 7), 16];

/// Too many records of one owner, and too many questions.
fn floods() -> [Vec<u8>; 2] {
    let store = |slot: u8| about(1, NEAREST, [1, 0, 0, 0], &[[1, 1, 0, slot, 125, 255, 0, 1]]);
    let ask = || about(1, NEAREST, [2, 0, 0, 1], &[]);
    [
        [CLOCK.to_vec(), (0..130).flat_map(store).collect()].concat(),
        [CLOCK.to_vec(), (0..260).flat_map(|_| ask()).collect()].concat(),
    ]
}

/// A node that is alone creates a record; then somebody comes and says that another has it.
fn contested() -> Vec<u8> {
    [
        CLOCK.to_vec(),
        event(1, 1),
        event(2, 1),
        pass(40_000),
        act(1, &[14, 128 | 1, 0, 20, 200]),
        connect(1),
        beat(1, 1, 1),
        pass(500),
        about(1, 0, [8, 0, 0, 0], &[[4, 1, 1, 0, 90, 255, 0, 9]]),
        pass(30_000),
    ]
    .concat()
}

fn own_records() -> Vec<u8> {
    let get = |name| act(1, &[12, name, 1]);
    [
        CLOCK.to_vec(),
        pass(1000),
        act(1, &[14, 128 | 1, 0, 20, 200]),
        act(1, &[15, 128 | 2, 3, 20, 200]),
        about(1, 0, [3, 0, FITS, 0], &[]),
        about(1, 0, [4, 0, FITS, 0], &[record(2, 2, 0, 0)]),
        about(1, 0, [5, 0, FITS | 6, 0], &[]),
        get(1),
        about(1, 0, [6, 0, FITS, 1], &[record(2, 1, 1, 0)]),
        get(2),
        about(1, 0, [6, 0, FITS | 1, 2], &[record(2, 2, 0, 0), record(3, 2, 0xe1, 0)]),
        pass(5000),
        about(2, 0, [8, 0, 0, 0], &[[4, 1, 1, 0, 90, 255, 0, 9]]),
        act(1, &[13, 2, 0]),
        pass(60_000),
        pass(60_000),
        act(1, &[6]),
    ]
    .concat()
}

/// A word about groups, from one on: 0 join, 1 leave, 2 joined, 3 full.
fn word(member: u8, word: u8, group: u8, more: u8) -> Vec<u8> {
    vec![of(member, 6), 230, word, group, more]
}

/// Datagrams: whether they go down, the group, their origin, number, how many more, and form: 1 not signed, 2 of groups
/// from that one on.
fn datagrams(member: u8, down: u8, [group, origin, number, more, form]: [u8; 5]) -> Vec<u8> {
    vec![of(member, 6), 231, down, 0, group, origin, number, more, form]
}

/// The host joins groups, from one on.
fn join(group: u8, more: u8) -> Vec<u8> {
    vec![of(0, 6), 232, group, more]
}

fn groups() -> Vec<u8> {
    let sent = |form| datagrams(1, 0, [0, 9, 1, 11, form]);
    [
        CLOCK.to_vec(),
        beat(1, 0, 1),
        beat(2, 0, 1),
        join(0, 11),
        word(1, 2, 0, 11),
        word(2, 2, 0, 11),
        word(1, 0, 0, 11),
        sent(2),
        sent(2),
        datagrams(1, 0, [0, 9, 60, 11, 3]),
        datagrams(2, 1, [0, 9, 40, 0, 2]),
        datagrams(1, 1, [200, 9, 40, 0, 0]),
        // This node's own: to members and to a group that it is not in.
        vec![of(0, 6), 234, 0, 11],
        vec![of(0, 6), 234, 99, 0],
        datagrams(1, 0, [0, OWN, 1, 0, 0]),
        word(1, 1, 0, 11),
        word(1, 3, 0, 11),
        vec![of(0, 6), 233, 0],
        event(1, 1),
        pass(60_000),
        pass(60_000),
    ]
    .concat()
}

fn floods_of_groups() -> Vec<u8> {
    let unsigned = datagrams(1, 1, [0, 9, 0, 255, 1]);
    [beat(1, 0, 1), join(0, 70), word(1, 0, 0, 255), word(1, 0, 0, 255), unsigned.repeat(5), pass(60_000)]
        .concat()
}

pub(super) fn runs() -> Inputs {
    let joined = [connect(3), connect(4), connect(5), beat(3, 1, 1), beat(4, 1, 2), beat(5, 1, 8)].concat();
    let [records_of_one, questions] = floods();
    let hops = [1, 10];
    let to = |member: u8| [member, OWN, 0];
    [
        ("nothing", Vec::new()),
        ("time", [pass(60_000), pass(60_000)].concat()),
        ("joined", [joined.clone(), pass(1000), beat(3, 3, 1), pass(5000)].concat()),
        ("noise", [noise(1, &[]), noise(1, b"noise"), noise(1, &[4; 60]), noise(9, &[2; 16])].concat()),
        (
            "each-kind-to-this-node",
            [
                routed(1, KIND_ECHO, hops, to(3), ECHO),
                routed(1, KIND_ECHO, hops, to(3), ECHO_ANSWER),
                routed(1, KIND_CONNECT, hops, to(6), &request(6, 1)),
                routed(1, KIND_CONNECT, hops, to(6), &request(7, 1)),
                routed(1, KIND_CARRIED, hops, to(3), ECHO),
                pass(13_000),
            ]
            .concat(),
        ),
        (
            "each-mode",
            (0..5)
                .flat_map(|mode| {
                    let other = routed(1, mode | KIND_ECHO, hops, [3, 4, 0], ECHO);
                    [
                        joined.clone(),
                        other,
                        routed(1, mode | KIND_CONNECT | 0xc0, hops, [6, 7, 3], &request(6, 1)),
                    ]
                    .concat()
                })
                .collect(),
        ),
        ("records", records()),
        ("records-of-one-owner", records_of_one),
        ("questions", questions),
        ("contested", contested()),
        ("own-records", own_records()),
        ("groups", groups()),
        ("floods-of-groups", floods_of_groups()),
        ("a-nat-forgets", [connect(1), seen_at(1, 1), pass(3000), seen_at(1, 2)].concat()),
        (
            "too-far",
            [
                &joined[..],
                &routed(1, KIND_ECHO, [9, 0], [3, 4, 0], ECHO),
                &routed(1, KIND_ECHO, [255, 0], [3, 4, 0], ECHO),
            ]
            .concat(),
        ),
        (
            "last-hop",
            [joined.clone(), [&[of(1, 4), KIND_ECHO][..], &[0, 1], &[3, 2, 0], ECHO].concat()].concat(),
        ),
        ("looped", routed(1, KIND_ECHO, hops, [OWN, 3, 0], ECHO)),
        ("nowhere", routed(1, KIND_ECHO | 0x40, hops, [3, 20, 0], ECHO)),
        (
            "nearer-and-nearer",
            (0..40).flat_map(|number| near(1, 200 - number * 2)).chain(pass(30_000)).collect(),
        ),
        (
            "nearer-and-answered",
            (0..30)
                .flat_map(|number| [near(1, 200 - number), answer(1, number + 3)].concat())
                .chain(pass(20_000))
                .collect(),
        ),
        ("answered", [pass(6000), near(1, 3), answer(1, 4), answer(1, 4), connect(4), pass(2000)].concat()),
        ("roles-change", (0..64).flat_map(|roles| beat(1, 1, roles)).collect()),
        (
            "credit",
            act(3, &[5, 30])
                .into_iter()
                .chain((0..180).flat_map(|_| routed(1, KIND_CONNECT, hops, to(6), &short_request(6))))
                .collect(),
        ),
        (
            "many-ask",
            (3..200)
                .flat_map(|member| routed(1, KIND_CONNECT, hops, to(member), &request(member, 16)))
                .collect(),
        ),
        ("closed", [joined.clone(), event(3, 6), event(4, 7), event(5, 8), pass(40_000)].concat()),
        (
            "lost-and-found",
            [joined.clone(), event(3, 1), event(1, 1), event(2, 1), pass(20_000), connect(3)].concat(),
        ),
        (
            "contact",
            [act(7, &[4, 0]), act(8, &[4, 1]), pass(60_000), connect(7), event(7, 6), pass(60_000)].concat(),
        ),
        (
            "alone",
            [event(1, 1), event(2, 1), pass(60_000), act(3, &[0]), act(3, &[2, 1]), pass(60_000)].concat(),
        ),
        (
            "traffic",
            [act(9, &[3, 9]), pass(3000), answer(1, 9), connect(9), act(9, &[3, 1]), pass(60_000)].concat(),
        ),
        (
            "own-messages",
            [
                act(3, &[0, 0, 0, 0, 0, 0, 0, 0, 7]),
                act(3, &[1, 2, 0]),
                act(3, &[1, 0xff, 0xff]),
                act(3, &[5, 30]),
                act(3, &[6]),
            ]
            .concat(),
        ),
        (
            "claims",
            [
                act(3, &[8, 1, 2]),
                claim(3, 1, 9, 8),
                claim(4, 1, 9, 7),
                claim(5, 1, 9, 9),
                claim(3, 2, 9, 0),
                claim(3, 2, 1, 0),
                claim(3, 2, 77, 0),
                act(3, &[7, 9]),
                act(3, &[7, 50]),
                claim(6, 3, 50, 3),
                claim(6, 4, 51, 3),
                claim(6, 5, 1, 3),
                claim(6, 6, 1, 3),
                routed(1, KIND_CLAIM, [1, 10], [7, OWN, 0], &[3, 1, 9, 8, 1]),
                pass(60_000),
            ]
            .concat(),
        ),
        (
            "traced",
            [
                &joined[..],
                &routed(1, KIND_ECHO, [0, 1], [3, 20, 0], TRACE),
                &routed(1, KIND_ECHO | 0x40, hops, [3, 20, 0], TRACE),
                &routed(1, KIND_ECHO, hops, to(3), TRACE),
                &act(3, &[9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 1]),
                &routed(1, KIND_ECHO, hops, to(4), ECHO_ANSWER),
                &routed(1, KIND_ECHO, hops, to(4), TRACE_USED_UP),
                &routed(1, KIND_ECHO, hops, to(4), TRACE_NO_WAY),
            ]
            .concat(),
        ),
        (
            "surveyed",
            [
                &joined[..],
                &routed(1, KIND_SURVEY, hops, to(3), SURVEY),
                &routed(1, KIND_SURVEY | 1, hops, to(3), SURVEY),
                &routed(1, KIND_SURVEY, hops, [3, 4, 0], SURVEY),
                &act(3, &[10, 0, 0, 0, 0, 0, 0, 0, 7, 0]),
                &routed(1, KIND_SURVEY, hops, to(4), SURVEY_ANSWER),
                &routed(1, KIND_SURVEY, hops, to(3), SURVEY_ANSWER),
                &routed(1, KIND_SURVEY, hops, to(3), SURVEY_ANSWER),
            ]
            .concat(),
        ),
        (
            "told",
            [
                &joined[..],
                &routed(1, KIND_BROADCAST, hops, [3, 3, 0], BROADCAST),
                &routed(2, KIND_BROADCAST, hops, [3, 3, 0], BROADCAST),
                &routed(1, KIND_BROADCAST, hops, [3, OWN, 0], BROADCAST),
                &routed(1, KIND_BROADCAST & !5, hops, [3, 4, 0], BROADCAST),
                &act(3, &[11]),
                &act(3, &[11, 1, 2, 3, 4, 5, 6, 7]),
            ]
            .concat(),
        ),
        (
            "relays",
            [
                &joined[..],
                &[of(3, 6), 240, of(3, 6), 245, 9, of(3, 6), 245, 9],
                &[of(3, 6), 241, 192, 0, 2, 1, 0, 7, of(4, 6), 241, 192, 0, 2, 1, 0, 9],
                &[of(3, 6), 242, 4, of(3, 6), 242, 4, of(3, 6), 242, 77, of(4, 6), 242, 3],
                &[of(3, 6), 243, 0, 0, 0, 0, 7, 9, 0, 0, 0, 1],
                &[of(5, 6), 244, 3, of(5, 6), 246, of(4, 6), 246, of(4, 6), 247, 1, of(4, 6), 247, 0],
                &pass(60_000),
            ]
            .concat(),
        ),
        (
            "by-relays",
            [
                &joined[..],
                &act(9, &[3, 9]),
                &[of(1, 5), 9, 16, 2 << 1, 0, 0][..],
                &pass(3000),
                &[of(1, 6), 243, 0, 0, 0, 0, 7, 9, 0, 0, 0, 1],
                &pass(1000),
                &connect(9),
                &[of(9, 6), 244, 1],
                &pass(60_000),
            ]
            .concat(),
        ),
        (
            "many-leaves",
            (0..32)
                .flat_map(|member| [connect(member), beat(member, 0, 8)].concat())
                .chain(pass(60_000))
                .collect(),
        ),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect()
}
