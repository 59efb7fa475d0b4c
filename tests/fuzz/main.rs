//! Replays the corpus of every fuzz target, each input also cut off at many lengths: `cargo test`
//! and so continuous integration. `cargo xtask test --fuzz SECONDS` looks for new input (`driver`).
//!
//! `IPOP_FUZZ_INPUT=FILE cargo test -p ipop-tests --test fuzz NAME` replays one input.

mod seeds;
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ipop_common::{Counter, egress, ingress};
use ipop_overlay::ring::Count;
use targets::Target;

/// Names a file to be replayed in place of the corpus.
const INPUT_VARIABLE: &str = "IPOP_FUZZ_INPUT";
/// Set to `write`, to put the seeds of `seeds` into the corpus.
const SEEDS_VARIABLE: &str = "IPOP_FUZZ_SEEDS";
/// Where an input is cut off: at every length up to here, and at as many between here and its end.
const CUTS: usize = 128;
/// All that the corpus may take of the repository, in bytes.
const CORPUS_LEN_MAX: u64 = 200_000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder's entry").path()).collect();
    files.sort();
    files
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Runs a target on its whole corpus, or on the one input that the environment names.
fn replay(name: &str) {
    let target = targets::find(name).unwrap_or_else(|| panic!("no target {name}"));
    if let Some(file) = std::env::var_os(INPUT_VARIABLE) {
        (target.run)(&read(Path::new(&file)));
        return;
    }
    let files = files(&corpus().join(name));
    assert!(!files.is_empty(), "{name} has no corpus");
    let failed: Vec<String> = files.iter().filter_map(|file| replay_file(target, file)).collect();
    assert!(failed.is_empty(), "{} of {} inputs fail:\n{}", failed.len(), files.len(), failed.join("\n"));
}

/// What fails of a file; the panic's own message has been printed.
fn replay_file(target: &Target, file: &Path) -> Option<String> {
    let input = read(file);
    let step = (input.len() / CUTS).max(1);
    let lengths = (0..input.len().min(CUTS)).chain((CUTS..input.len()).step_by(step)).chain([input.len()]);
    let failing = |len: &usize| catch_unwind(AssertUnwindSafe(|| (target.run)(&input[..*len]))).is_err();
    let len = lengths.rev().find(failing)?;
    Some(format!("  {}, its first {len} bytes", file.display()))
}

/// Under this name a target is found by `cargo xtask test NAME` and fuzzed by `--fuzz`.
mod fuzz {
    macro_rules! replays {
        ($($name:ident)*) => {
            $(
                #[test]
                fn $name() {
                    super::replay(stringify!($name));
                }
            )*

            pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
        };
    }

    replays! { aead clear config cut dns egress frame group hello inner merge names node ring routes sealed sessions stun token wireguard }
}

#[test]
fn every_target_is_replayed_and_has_a_corpus() {
    let targets: BTreeSet<&str> = targets::ALL.iter().map(|target| target.name).collect();
    assert_eq!(targets, fuzz::NAMES.iter().copied().collect());
    let folders = files(&corpus());
    let folders: BTreeSet<&str> = folders.iter().filter_map(|folder| folder.file_name()?.to_str()).collect();
    assert_eq!(targets, folders);
}

#[test]
fn the_corpus_holds_the_seeds_as_they_are_written_down() {
    let writes = std::env::var_os(SEEDS_VARIABLE).is_some_and(|value| value == "write");
    for seed in seeds::all() {
        let file = corpus().join(seed.target).join(&seed.name);
        if writes {
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder for the corpus");
            fs::write(&file, &seed.bytes).expect("a file of the corpus");
        }
        let is_there = fs::read(&file).is_ok_and(|bytes| bytes == seed.bytes);
        assert!(is_there, "{} is not its seed: run this test with {SEEDS_VARIABLE}=write", file.display());
    }
}

/// What the inputs of one target are decided to be, without repetition.
fn reached<V: std::fmt::Debug>(target: &str, decide: impl Fn(&[u8]) -> Option<V>) -> BTreeSet<String> {
    let inputs = files(&corpus().join(target)).into_iter().map(|file| read(&file));
    inputs.filter_map(|input| decide(&input)).map(|verdict| format!("{verdict:?}")).collect()
}

/// An input that is refused at the first check tests nothing that comes after.
#[test]
fn the_corpus_reaches_every_verdict_about_a_frame() {
    let reached = reached("frame", |input| {
        Some(match targets::frame::decide(input)?.3 {
            ingress::Verdict::Refuse(counter) => counter.name().to_owned(),
            ingress::Verdict::Deliver(delivery) => format!("{:?} in {:?}", delivery.inner, delivery.outer),
            ingress::Verdict::LeaveToStack(_) => "left to stack".to_owned(),
            ingress::Verdict::NotOurs => "not ours".to_owned(),
            ingress::Verdict::Open(_)
            | ingress::Verdict::LeaveToUser
            | ingress::Verdict::HandOver(_)
            | ingress::Verdict::Handshake(_)
            | ingress::Verdict::Relay(_) => "to the daemon's port".to_owned(),
        })
    });
    let refusals = Counter::ALL.iter().filter(|counter| is_refusal_of_a_frame(**counter));
    let refusals = refusals.map(|counter| counter.name().to_owned());
    let others = ["V4 in V4", "V6 in V4", "V4 in V6", "V6 in V6", "left to stack", "not ours"];
    let wanted = refusals.chain(others.map(str::to_owned)).map(|name| format!("{name:?}")).collect();
    assert_eq!(reached, wanted);
}

fn is_refusal_of_a_frame(counter: Counter) -> bool {
    let name = counter.name();
    let by_others = [
        "rx_spoofed_address",
        "rx_refused_claim",
        "rx_refused_rule",
        "rx_no_certificate",
        "rx_refused_certificate",
        "rx_refused_list",
        "rx_shunned",
        "rx_bad_checksum",
        "rx_bad_hello",
        "rx_stale_hello",
        "rx_hello_flood",
        "rx_bad_mac1",
        "rx_bad_handshake",
        "rx_unknown_peer",
        "rx_replayed_handshake",
        "rx_handshake_flood",
        "rx_cookie_sent",
        "rx_bad_cookie",
        "rx_bad_mapping",
        "rx_bad_stun",
        "rx_bad_dns",
        "rx_dns_flood",
        "rx_dns_stranger",
        "rx_bad_route",
        "rx_refused_route",
        "rx_bad_stream",
        "rx_stream_flood",
        "rx_stream_unused",
        "rx_unknown_message",
        "rx_bad_relay_frame",
        "rx_relay_loop",
        "rx_unknown_label",
        // Decided with the keys, when a sealed frame is opened.
        "rx_unknown_index",
        "rx_key_expired",
        "rx_bad_tag",
        "rx_replay",
        "rx_too_old",
    ];
    name.starts_with("rx_") && counter.class().name() == "refused" && !by_others.contains(&name)
}

#[test]
fn the_corpus_has_members_that_are_let_in_and_others() {
    let is_let_in = |name: &str| targets::group::lets_in(&read(&corpus().join("group").join(name))[1..]);
    assert!(is_let_in("admitted") && is_let_in("revoked"));
    assert!(!is_let_in("anothers") && !is_let_in("early"));
}

#[test]
fn the_corpus_reaches_every_verdict_about_a_packet() {
    let reached = reached("egress", |input| {
        Some(match targets::egress::decide(input)?.3 {
            egress::Verdict::Miss(counter) | egress::Verdict::Refuse(counter) => counter.name().to_owned(),
            egress::Verdict::Encapsulate { outer, .. } => format!("over {outer:?}"),
            egress::Verdict::Seal(_) => "sealed".to_owned(),
            egress::Verdict::TooBig { mtu } => format!("too big for {mtu}"),
        })
    });
    let wanted = [
        "over V4",
        "over V6",
        "too big for 1464",
        "tx_fragmented",
        "tx_lease_expired",
        "tx_no_route",
        "tx_not_ip",
        "tx_receive_only",
        "tx_stale_epoch",
        "tx_to_group",
        "tx_truncated",
    ];
    assert_eq!(reached, wanted.map(|name| format!("{name:?}")).into_iter().collect());
}

#[test]
fn the_corpus_reaches_every_kind_of_path() {
    let inputs = files(&corpus().join("node")).into_iter().map(|file| read(&file));
    let reached: BTreeSet<&str> = inputs.flat_map(|input| targets::node::reached(&input)).collect();
    let wanted = [
        "kernel, clear",
        "kernel, sealed",
        "no answer",
        "no endpoint",
        "no route",
        "overlay",
        "relay",
        "user, by TCP",
        "silent",
        "user, clear, off here",
        "user, clear, off there",
        "user, sealed, off here",
        "user, sealed, off there",
    ];
    assert_eq!(reached, wanted.into_iter().collect());
}

#[test]
fn the_corpus_reaches_everything_that_the_ring_counts() {
    let inputs = files(&corpus().join("ring")).into_iter().map(|file| read(&file));
    let reached: BTreeSet<&str> = inputs.flat_map(|input| targets::ring::reached(&input)).collect();
    assert_eq!(reached, Count::ALL.iter().map(|count| count.name()).collect());
}

#[test]
fn the_corpus_reaches_every_outcome_of_a_sealed_frame() {
    let inputs = files(&corpus().join("sealed")).into_iter().map(|file| read(&file));
    let reached: BTreeSet<&str> = inputs.flat_map(|input| targets::sealed::reached(&input)).collect();
    let wanted = [
        "delivered by a relay and the kernel path",
        "delivered by a relay and the user path",
        "delivered by the kernel path",
        "delivered by the user path",
        "keepalive",
        "message",
        "rx_bad_inner",
        "rx_bad_length",
        "rx_bad_relay_frame",
        "rx_bad_tag",
        "rx_key_expired",
        "rx_replay",
        "rx_too_old",
        "rx_truncated",
        "rx_unknown_index",
        "rx_unknown_label",
        "rx_wrong_inner_source",
    ];
    assert_eq!(reached, wanted.into_iter().collect());
}

#[test]
fn the_corpus_is_small() {
    let len = |file: &PathBuf| file.metadata().expect("a file of the corpus").len();
    let total: u64 = files(&corpus()).iter().flat_map(|folder| files(folder)).map(|file| len(&file)).sum();
    assert!(total < CORPUS_LEN_MAX, "{total} bytes");
}
