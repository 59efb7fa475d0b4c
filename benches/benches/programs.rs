//! Each program in the kernel: ns per packet, as [`ipop_benches::stopwatch`] has it.
//!
//! "hit" is a packet that a program carries (encapsulated, decapsulated, delivered), "miss" one that
//! it leaves to others: for egress a destination without a link, which goes to the user path; for
//! ingress and XDP a datagram to another port, which is what all other traffic of the host pays.
//! "sealed" and "opened" are packets of a sealed link, "relayed" those of one by a relay, "passed on" those between
//! two others. Lengths are those of inner packets, which are of the family of the outer headers.
//!
//! "load" is what `ipopd` waits for at start: reading the object, creating the maps, and the verifier.
//!
//! Needs root; without, it says so and measures nothing.

use std::os::fd::{AsFd, BorrowedFd};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ipop_benches::node::{self, LENGTHS, Outer, Packets};
use ipop_benches::programs::{Action, Input, Program, Programs};
use ipop_benches::stopwatch::{Kind, Stopwatch};
use ipop_benches::world::World;

/// Set where root is expected: the bench then fails without.
const REQUIRE_VARIABLE: &str = "IPOP_REQUIRE_ROOT";

/// A program, its packets, and what it must do with them: a bench of something else is worse than none.
struct Case {
    program: Program,
    name: String,
    len: usize,
    packets: Packets,
    action: Action,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (outer, len) in Outer::BOTH.into_iter().flat_map(|outer| LENGTHS.map(|len| (outer, len))) {
        let mut add = |program, what: &str, packet, action| {
            let name = format!("{} {what}", outer.name());
            cases.push(Case { program, name, len, packets: Packets::Same(packet), action });
        };
        let (sent, missed) = (node::outgoing(outer, len, true), node::outgoing(outer, len, false));
        add(Program::Egress, "hit", sent, Action::Redirect);
        add(Program::Egress, "miss", missed, Action::Redirect);
        let (ours, others) = (node::incoming(outer, len, true), node::incoming(outer, len, false));
        add(Program::Ingress, "hit", ours.clone(), Action::Redirect);
        add(Program::Ingress, "miss", others.clone(), Action::Pass);
        add(Program::Xdp, "hit", ours, Action::Pass);
        add(Program::Xdp, "miss", others, Action::Pass);
        // On the virtual device: of what a test run can be, a packet that no tunnel has delivered.
        add(Program::Guard, "no tunnel", node::written(outer, len), Action::Pass);
        add(Program::Deliver, "hit", node::written(outer, len), Action::Redirect);
    }
    cases.sort_by_key(|case| case.program.name());
    cases
}

/// Where links are sealed: what one packet costs that is sealed or opened.
fn sealed_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (outer, len) in Outer::BOTH.into_iter().flat_map(|outer| LENGTHS.map(|len| (outer, len))) {
        let mut add = |program, what: &str, packets| {
            let name = format!("{} {what}", outer.name());
            cases.push(Case { program, name, len, packets, action: Action::Redirect });
        };
        add(Program::Egress, "sealed", Packets::Same(node::outgoing(outer, len, true)));
        // The two lengths share a session, and so may not share counters.
        add(Program::Ingress, "opened", Packets::Sealed { outer, len, counter: (len as u64) << 24 });
    }
    cases.sort_by_key(|case| case.program.name());
    cases
}

/// Where a relay passes on what is sealed.
fn relayed_cases() -> Vec<Case> {
    let mut cases = sealed_cases();
    for case in &mut cases {
        case.name.push_str(" relayed");
        if let Packets::Sealed { outer, len, counter } = case.packets {
            case.packets = Packets::Relayed { outer, len, counter };
        }
    }
    cases
}

/// At a relay: what one packet costs that is passed on, by TC and by XDP.
fn relaying_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (outer, len) in Outer::BOTH.into_iter().flat_map(|outer| LENGTHS.map(|len| (outer, len))) {
        for (what, has_checksum) in [("passed on", false), ("passed on with checksum", true)] {
            for (program, action) in [(Program::Ingress, Action::Redirect), (Program::Xdp, Action::Transmit)]
            {
                let name = format!("{} {what}", outer.name());
                let packets = Packets::Same(node::between(outer, len, has_checksum));
                cases.push(Case { program, name, len, packets, action });
            }
        }
    }
    cases.sort_by_key(|case| case.program.name());
    cases
}

fn descriptor(programs: &mut Programs, program: Program) -> (BorrowedFd<'_>, Kind) {
    match program {
        Program::Xdp => (programs.xdp().fd().expect("a loaded program").as_fd(), Kind::Xdp),
        _ => (programs.classifier(program).fd().expect("a loaded program").as_fd(), Kind::Tc),
    }
}

fn programs(criterion: &mut Criterion) {
    // SAFETY: a system call without arguments that cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        skip();
        return;
    }
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    group.bench_function("all programs", |bencher| bencher.iter_with_large_drop(Programs::load));
    group.finish();
    measure(criterion, &node::world(), cases());
    measure(criterion, &node::sealed_world(), sealed_cases());
    measure(criterion, &node::relayed_world(), relayed_cases());
    measure(criterion, &node::relaying_world(), relaying_cases());
}

fn measure(criterion: &mut Criterion, world: &World, cases: Vec<Case>) {
    let mut programs = Programs::load();
    programs.install(world);
    let stopwatch = Stopwatch::new().expect("the kernel's statistics");
    for Case { program, name, len, mut packets, action } in cases {
        let output = programs.run(program, Input::frame(&packets.another()));
        assert_eq!(output.action, action, "{} {name} of {len} bytes", program.name());
        let (descriptor, kind) = descriptor(&mut programs, program);
        let mut group = criterion.benchmark_group(program.name());
        group.bench_function(BenchmarkId::new(&name, len), |bencher| {
            bencher.iter_custom(|runs| {
                let measured = stopwatch.measure(descriptor, kind, runs, &mut packets);
                measured.expect("a program that was loaded runs")
            });
        });
        group.finish();
    }
}

#[expect(clippy::print_stdout, reason = "what is not measured belongs into the report of a bench")]
fn skip() {
    assert!(std::env::var_os(REQUIRE_VARIABLE).is_none_or(|value| value != "1"), "programs need root");
    println!("SKIPPED programs: loading and running them needs root");
}

criterion_group! { name = benches; config = ipop_benches::short(); targets = programs }
criterion_main!(benches);
