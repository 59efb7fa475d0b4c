//! The kernel, the host-compiled decision and the reference agree about every packet: random and
//! mutated ones by the million, against random tables.
//!
//! A failure prints what repeats it: the seed, and with it `IPOP_TEST_SEED=.. cargo test`.
//! `IPOP_TEST_PACKETS` replaces how many packets each program gets.

use std::collections::BTreeMap;

use ipop_common::egress::PacketMeta;
use ipop_common::encapsulation::{V4_LEN, V6_LEN, write_v4, write_v6};
use ipop_common::ingress::FrameMeta;
use ipop_common::{Counter, Family, egress, ingress};
use ipop_tests::hostile::{Neighbourhood, neighbourhood};
use ipop_tests::packet::hexdump;
use ipop_tests::programs::{Action, Counters, Input, Program, Programs, can_change_families};
use ipop_tests::random::{Random, SEED_VARIABLE, seed};
use ipop_tests::reference::{Around, Arrival, Departure, arrival, departure};
use ipop_tests::world::World;
use ipop_tests::{namespace, needs_root};

/// The variable that replaces how many packets each program gets.
const PACKETS_VARIABLE: &str = "IPOP_TEST_PACKETS";
/// Frames for TC ingress, of which more than a million must be hostile.
const INGRESS_PACKETS: usize = 1_400_000;
const XDP_PACKETS: usize = 500_000;
const EGRESS_PACKETS: usize = 300_000;
/// Packets per set of tables. The counters are compared once per set.
const PACKETS_PER_WORLD: usize = 1000;
/// What the host-compiled functions are told the time is.
const NOW_NS: u64 = 1_000_000;

/// What the kernel must make of one packet.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    action: Action,
    counter: Option<Counter>,
    /// `None`: what the kernel leaves of it is not to be compared.
    packet: Option<Vec<u8>>,
    /// Where the packet has two bytes that nobody can foretell.
    free_at: Option<usize>,
}

impl Expected {
    fn unchanged(action: Action, counter: Option<Counter>, packet: &[u8]) -> Self {
        Self { action, counter, packet: Some(packet.to_vec()), free_at: None }
    }
}

/// One packet and the claim that it is a super-packet.
struct Case {
    bytes: Vec<u8>,
    gso_size: usize,
    is_v4: bool,
}

impl Case {
    fn around(&self) -> Around {
        Around { gso_size: self.gso_size, now_ns: NOW_NS }
    }

    fn input(&self) -> Input<'_> {
        Input::gso(&self.bytes, self.gso_size as u32, 2)
    }
}

/// How many packets a program gets that should get `usual`.
fn packets(usual: usize) -> usize {
    match std::env::var(PACKETS_VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{PACKETS_VARIABLE}={text} is not a number")),
        Err(_) => usual,
    }
}

type Make = fn(&Neighbourhood, &mut Random) -> Case;
type Expect = fn(&World, &Case) -> Expected;

/// Runs `program` on what `make` makes and holds it against `expect`. Returns what was counted.
fn agree(program: Program, packets: usize, make: Make, expect: Expect) -> Counters {
    namespace::enter_new();
    let seed = seed();
    let mut programs = Programs::load();
    let mut total = Counters::zero();
    for index in 0..packets.div_ceil(PACKETS_PER_WORLD) {
        let mut random = Random::new(seed ^ (index as u64) << 32);
        let neighbourhood = neighbourhood(&mut random);
        programs.install(&neighbourhood.world);
        let cases: Vec<Case> = (0..PACKETS_PER_WORLD).map(|_| make(&neighbourhood, &mut random)).collect();
        let before = programs.counters();
        let mut expected = Counters::zero();
        for case in &cases {
            let wanted = expect(&neighbourhood.world, case);
            expected.0.iter_mut().zip(Counter::ALL).for_each(|(value, counter)| {
                *value += u64::from(wanted.counter == Some(*counter));
            });
            check(&mut programs, program, &neighbourhood, case, &wanted);
        }
        let moved = programs.counters().since(&before);
        if moved != expected {
            find_miscounted(&mut programs, program, &neighbourhood, &cases, expect);
            panic!("counters moved by {moved:?} instead of {expected:?}, but not packet by packet");
        }
        total.0.iter_mut().zip(&moved.0).for_each(|(sum, value)| *sum += value);
    }
    say(program, packets, seed, &total);
    total
}

#[expect(clippy::print_stdout, reason = "what was tried belongs into the report of a test")]
fn say(program: Program, packets: usize, seed: u64, total: &Counters) {
    println!("{}: {packets} packets, {SEED_VARIABLE}={seed:#x}: {total:?}", program.name());
}

fn check(
    programs: &mut Programs,
    program: Program,
    neighbourhood: &Neighbourhood,
    case: &Case,
    wanted: &Expected,
) {
    let output = programs.run(program, case.input());
    let same_packet = wanted.packet.as_ref().is_none_or(|packet| same(output.packet, packet, wanted.free_at));
    if output.action != wanted.action || !same_packet {
        let got = format!("{:?} with\n{}", output.action, hexdump(output.packet));
        report(program, neighbourhood, case, wanted, &got);
    }
}

fn same(got: &[u8], wanted: &[u8], free_at: Option<usize>) -> bool {
    match free_at {
        None => got == wanted,
        Some(at) => {
            got.len() == wanted.len() && got[..at] == wanted[..at] && got[at + 2..] == wanted[at + 2..]
        }
    }
}

/// The programs keep no state, so the same packets again, one by one, show which it was.
fn find_miscounted(
    programs: &mut Programs,
    program: Program,
    neighbourhood: &Neighbourhood,
    cases: &[Case],
    expect: Expect,
) {
    for case in cases {
        let wanted = expect(&neighbourhood.world, case);
        let mut counters = Counters::zero();
        wanted.counter.iter().for_each(|counter| counters.add(*counter));
        let before = programs.counters();
        programs.run(program, case.input());
        let moved = programs.counters().since(&before);
        if moved != counters {
            report(program, neighbourhood, case, &wanted, &format!("counters {moved:?}"));
        }
    }
}

fn report(program: Program, neighbourhood: &Neighbourhood, case: &Case, wanted: &Expected, got: &str) -> ! {
    let packet = wanted.packet.as_deref().map(hexdump).unwrap_or_default();
    panic!(
        "{} on a packet of {} bytes, gso_size {}, {SEED_VARIABLE}={:#x}\n{}wanted {:?}, {:?} with\n{packet}got {got}\n\
         tables {:#?}",
        program.name(),
        case.bytes.len(),
        case.gso_size,
        seed(),
        hexdump(&case.bytes),
        wanted.action,
        wanted.counter,
        neighbourhood.world,
    );
}

/// Every counter that such packets can reach must have been reached, or the packets prove nothing.
#[track_caller]
fn all_reached(total: &Counters, counters: &[Counter]) {
    if std::env::var_os(PACKETS_VARIABLE).is_some() {
        return;
    }
    let least = 100;
    let missing: BTreeMap<_, _> =
        counters.iter().filter(|c| total.of(**c) < least).map(|c| (c.name(), total.of(*c))).collect();
    assert!(missing.is_empty(), "too seldom reached: {missing:?} of {total:?}");
}

fn arriving(neighbourhood: &Neighbourhood, random: &mut Random) -> Case {
    let bytes = neighbourhood.frame(random);
    let gso_size = if random.one_in(8) { random.below(1..1500) } else { 0 };
    Case { bytes, gso_size, is_v4: false }
}

fn arriving_singly(neighbourhood: &Neighbourhood, random: &mut Random) -> Case {
    Case { bytes: neighbourhood.frame(random), gso_size: 0, is_v4: false }
}

fn departing(neighbourhood: &Neighbourhood, random: &mut Random) -> Case {
    let (is_v4, bytes) = neighbourhood.outgoing(random);
    let gso_size = if random.one_in(8) { random.below(1..1500) } else { 0 };
    Case { bytes, gso_size, is_v4 }
}

/// What the reference says; the host-compiled decision must say the same.
fn decided_arrival(world: &World, case: &Case) -> Arrival {
    let reference = arrival(world, &case.bytes, case.around());
    let meta = FrameMeta { len: case.bytes.len() as u32, gso: case.gso_size != 0 };
    let host = ingress::frame(&case.bytes[..], meta, world, NOW_NS);
    let agrees = match (host, reference) {
        (ingress::Verdict::NotOurs, Arrival::NotOurs)
        | (ingress::Verdict::LeaveToStack(_), Arrival::LeftToStack) => true,
        (ingress::Verdict::Refuse(host), Arrival::Refused(reference)) => host == reference,
        (ingress::Verdict::Deliver(host), Arrival::Delivered { slot, inner_at, inner_len, .. }) => {
            (host.slot, 14 + host.overhead(), usize::from(host.inner_len)) == (slot, inner_at, inner_len)
        }
        _ => false,
    };
    assert!(
        agrees,
        "the host decides {host:?}, the reference {reference:?}, {SEED_VARIABLE}={:#x}\n{}{world:#?}",
        seed(),
        hexdump(&case.bytes)
    );
    reference
}

fn is_for_this_host(frame: &[u8]) -> bool {
    frame[..6] == [0; 6]
}

fn by_tc(world: &World, case: &Case) -> Expected {
    let frame = &case.bytes;
    let decided = decided_arrival(world, case);
    let decided = if is_for_this_host(frame) { decided } else { Arrival::NotOurs };
    match decided {
        Arrival::NotOurs => Expected::unchanged(Action::Pass, Some(Counter::RxNotOurs), frame),
        Arrival::LeftToStack => Expected::unchanged(Action::Pass, Some(Counter::RxToStack), frame),
        Arrival::Refused(counter) => {
            Expected { packet: None, ..Expected::unchanged(Action::Drop, Some(counter), frame) }
        }
        // In a test run the kernel takes no super-packet apart; see `programs`.
        Arrival::Delivered { outer_is_v4, inner_is_v4, .. } if case.gso_size != 0 => {
            if outer_is_v4 == inner_is_v4 {
                Expected::unchanged(Action::Drop, Some(Counter::RxNoRoom), frame)
            } else {
                Expected::unchanged(Action::Pass, Some(Counter::RxToStack), frame)
            }
        }
        Arrival::Delivered { outer_is_v4, inner_is_v4, .. }
            if outer_is_v4 != inner_is_v4 && !can_change_families() =>
        {
            Expected::unchanged(Action::Pass, Some(Counter::RxToStack), frame)
        }
        Arrival::Delivered { inner_at, .. } => Expected::unchanged(
            Action::Redirect,
            Some(Counter::RxDecapsulated),
            &[&frame[..14], &frame[inner_at..]].concat(),
        ),
    }
}

fn by_xdp(world: &World, case: &Case) -> Expected {
    let frame = &case.bytes;
    match decided_arrival(world, case) {
        Arrival::Delivered { inner_at, inner_is_v4, .. } if is_for_this_host(frame) => {
            let ethertype: [u8; 2] = if inner_is_v4 { [8, 0] } else { [0x86, 0xdd] };
            Expected::unchanged(
                Action::Pass,
                Some(Counter::RxXdpDecapsulated),
                &[&frame[..12], &ethertype, &frame[inner_at..]].concat(),
            )
        }
        _ => Expected::unchanged(Action::Pass, None, frame),
    }
}

fn by_egress(world: &World, case: &Case) -> Expected {
    let packet = &case.bytes;
    let reference = departure(world, case.is_v4, packet, case.around());
    let family = if case.is_v4 { Family::V4 } else { Family::V6 };
    let meta = PacketMeta { len: packet.len() as u32, gso_size: case.gso_size as u32 };
    let host = egress::packet(&packet[..], family, meta, world, NOW_NS);
    let agrees = match (host, &reference) {
        (egress::Verdict::Miss(host), Departure::Missed(reference))
        | (egress::Verdict::Refuse(host), Departure::Refused(reference)) => host == *reference,
        (egress::Verdict::TooBig { mtu: host }, Departure::TooBig { mtu }) => host == *mtu,
        (egress::Verdict::Encapsulate { slot, .. }, Departure::Sent { slot: wanted, frame }) => {
            slot == *wanted && host_frame(world, slot, family, packet) == *frame
        }
        _ => false,
    };
    assert!(
        agrees,
        "the host decides {host:?}, the reference {reference:?}, {SEED_VARIABLE}={:#x}\n{}{world:#?}",
        seed(),
        hexdump(packet)
    );
    match reference {
        Departure::Missed(counter) => Expected::unchanged(Action::Redirect, Some(counter), packet),
        Departure::Refused(counter) => Expected::unchanged(Action::Drop, Some(counter), packet),
        Departure::TooBig { .. } => Expected {
            packet: None,
            ..Expected::unchanged(Action::Redirect, Some(Counter::TxTooBig), packet)
        },
        // In a test run the kernel makes no room in a super-packet; see `programs`.
        Departure::Sent { .. } if case.gso_size != 0 => {
            Expected::unchanged(Action::Drop, Some(Counter::TxNoRoom), packet)
        }
        Departure::Sent { frame, .. } => {
            let free_at = if frame[12] == 8 { 34 } else { 54 };
            Expected {
                action: Action::Redirect,
                counter: Some(Counter::TxEncapsulated),
                packet: Some(frame),
                free_at: Some(free_at),
            }
        }
    }
}

/// The frame that the host-compiled functions put together, with source port 0.
fn host_frame(world: &World, slot: u32, inner: Family, packet: &[u8]) -> Vec<u8> {
    let link = &world.links[&slot];
    let len = packet.len() as u16;
    match link.outer() {
        Family::V4 => {
            let mut header = [0; V4_LEN];
            write_v4(&mut header, link, inner, len, 0);
            [&header[..], packet].concat()
        }
        Family::V6 => {
            let mut header = [0; V6_LEN];
            write_v6(&mut header, link, inner, len, 0);
            [&header[..], packet].concat()
        }
    }
}

/// Refusals that frames from the underlay can meet.
const REFUSALS: [Counter; 14] = [
    Counter::RxTruncated,
    Counter::RxBadLength,
    Counter::RxOuterOptions,
    Counter::RxOuterFragment,
    Counter::RxOuterChecksum,
    Counter::RxBadHeader,
    Counter::RxUnknownProtocol,
    Counter::RxUnknownLink,
    Counter::RxStaleEpoch,
    Counter::RxLeaseExpired,
    Counter::RxWrongOuterSource,
    Counter::RxWrongOuterDestination,
    Counter::RxBadInner,
    Counter::RxWrongInnerSource,
];

#[test]
fn tc_ingress_agrees_with_host_and_reference() {
    needs_root!();
    let sent = packets(INGRESS_PACKETS);
    let total = agree(Program::Ingress, sent, arriving, by_tc);
    all_reached(&total, &REFUSALS);
    all_reached(&total, &[Counter::RxNotOurs, Counter::RxDecapsulated, Counter::RxToStack]);
    let not_delivered = sent as u64 - total.of(Counter::RxDecapsulated);
    assert!(sent < INGRESS_PACKETS || not_delivered > 1_000_000, "too few hostile frames: {total:?}");
}

#[test]
fn xdp_agrees_with_host_and_reference() {
    needs_root!();
    let total = agree(Program::Xdp, packets(XDP_PACKETS), arriving_singly, by_xdp);
    all_reached(&total, &[Counter::RxXdpDecapsulated]);
}

#[test]
fn egress_agrees_with_host_and_reference() {
    needs_root!();
    let total = agree(Program::Egress, packets(EGRESS_PACKETS), departing, by_egress);
    all_reached(
        &total,
        &[
            Counter::TxEncapsulated,
            Counter::TxDisabled,
            Counter::TxNotIp,
            Counter::TxNoRoute,
            Counter::TxStaleEpoch,
            Counter::TxLeaseExpired,
            Counter::TxReceiveOnly,
            Counter::TxFragmented,
            Counter::TxTooBig,
        ],
    );
}
