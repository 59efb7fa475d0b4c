use std::sync::atomic::{AtomicBool, Ordering};
use std::vec;
use std::vec::Vec;
use std::{collections::HashSet, thread};

use proptest::prelude::*;

use super::*;

const LOCAL: u32 = 0xabcd_e000 | 5;

fn agreed() -> Agreed {
    Agreed {
        local: LOCAL,
        remote: 77,
        send_key: Key::from_bytes(&[1; 32]),
        receive_key: Key::from_bytes(&[2; 32]),
        expires_ns: 1000,
        first_counter: 0,
        link: LinkRef { slot: 6, epoch: 9 },
    }
}

fn session() -> Session {
    let session = Session::vacant();
    session.install(&agreed(), None);
    session
}

#[test]
fn a_place_gives_out_what_was_installed() {
    let session = session();
    for counter in 0..3 {
        let drawn = session.draw(LOCAL, 10).unwrap();
        assert_eq!((drawn.remote, drawn.counter, drawn.key), (77, counter, agreed().send_key));
    }
    assert_eq!(session.key_to_open(LOCAL, 0, 10), Ok(agreed().receive_key));
    assert_eq!(session.link(), agreed().link);
    assert_eq!(place(LOCAL), 5);
    assert_eq!((session.local(), session.sent()), (Some(LOCAL), 3));
}

#[test]
fn only_the_session_that_is_meant_and_only_while_it_lives() {
    let session = session();
    let other = LOCAL ^ 1 << PLACE_BITS;
    assert_eq!(session.draw(other, 10).unwrap_err(), Counter::TxNoSession);
    assert_eq!(session.key_to_open(other, 0, 10), Err(Counter::RxUnknownIndex));
    assert_eq!(session.draw(LOCAL, 1000).unwrap_err(), Counter::TxKeyExpired);
    assert_eq!(session.key_to_open(LOCAL, 0, 1000), Err(Counter::RxKeyExpired));
    session.vacate();
    for nobody in [LOCAL, 0] {
        assert_eq!(session.draw(nobody, 10).unwrap_err(), Counter::TxNoSession);
        assert_eq!(session.key_to_open(nobody, 0, 10), Err(Counter::RxUnknownIndex));
    }
    assert!(session.send_key.iter().chain(&session.receive_key).all(|word| word.load() == 0), "keys remain");
}

#[test]
fn no_counter_is_drawn_past_the_limit() {
    let session = Session::vacant();
    session.install(&Agreed { first_counter: REJECT_AFTER_MESSAGES - 1, ..agreed() }, None);
    assert_eq!(session.draw(LOCAL, 0).unwrap().counter, REJECT_AFTER_MESSAGES - 1);
    for _ in 0..1000 {
        assert_eq!(session.draw(LOCAL, 0).unwrap_err(), Counter::TxKeyExpired);
    }
    assert_eq!(session.key_to_open(LOCAL, REJECT_AFTER_MESSAGES, 0), Err(Counter::RxKeyExpired));
    assert!(session.key_to_open(LOCAL, REJECT_AFTER_MESSAGES - 1, 0).is_ok());
}

/// The programs draw while the daemon replaces the session: nobody may get a counter of one with
/// the key of another.
#[test]
fn a_place_that_changes_hands_never_mixes_sessions() {
    let place = Session::vacant();
    let done = AtomicBool::new(false);
    let sessions: Vec<Agreed> = (1..=200u32)
        .map(|n| Agreed {
            local: n << PLACE_BITS | 5,
            remote: n,
            send_key: Key([n; 8]),
            first_counter: u64::from(n) << 32,
            ..agreed()
        })
        .collect();
    thread::scope(|scope| {
        let drawing: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut drawn = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        let Some(local) = place.local() else { continue };
                        drawn.extend(place.draw(local, 0).ok().map(|drawn| (local, drawn)));
                    }
                    drawn
                })
            })
            .collect();
        for agreed in &sessions {
            place.install(agreed, None);
            for _ in 0..200 {
                std::hint::spin_loop();
            }
        }
        done.store(true, Ordering::Relaxed);
        let mut seen = HashSet::new();
        for (local, drawn) in drawing.into_iter().flat_map(|thread| thread.join().unwrap()) {
            let n = local >> PLACE_BITS;
            assert_eq!((drawn.remote, drawn.key), (n, Key([n; 8])));
            assert_eq!(drawn.counter >> 32, u64::from(n), "a counter of another session");
            assert!(seen.insert(drawn.counter), "a counter drawn twice");
        }
    });
}

#[test]
fn many_threads_draw_each_counter_once_and_accept_each_once() {
    const EACH: usize = 30_000;
    let session = session();
    let accepted = Session::vacant();
    accepted.install(&agreed(), None);
    let (mut drawn, mut taken) = (Vec::new(), 0);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let counters: Vec<u64> =
                        (0..EACH).map(|_| session.draw(LOCAL, 0).unwrap().counter).collect();
                    // Three times each, as late as the window admits.
                    let mut taken = 0;
                    for some in counters.chunks(50) {
                        for _ in 0..3 {
                            taken += some.iter().filter(|counter| accepted.accept(**counter).is_ok()).count();
                        }
                    }
                    (counters, taken)
                })
            })
            .collect();
        for thread in threads {
            let (counters, count) = thread.join().unwrap();
            drawn.extend(counters);
            taken += count;
        }
    });
    let different: HashSet<u64> = drawn.iter().copied().collect();
    assert_eq!(different.len(), 4 * EACH, "a counter was drawn twice");
    // Threads that were away for long find their packets too old; none is accepted twice.
    assert!(taken <= 4 * EACH && taken > 0, "{taken} accepted of {}", 4 * EACH);
}

#[test]
fn what_one_place_has_accepted_another_knows() {
    let old = session();
    for counter in [0, 1, 40, 9000] {
        old.accept(counter).unwrap();
    }
    old.draw(LOCAL, 0).unwrap();
    let new = Session::vacant();
    new.install(&old.read(1 << 32).unwrap(), Some(&old));
    for counter in [0, 40, 9000] {
        assert_eq!(new.accept(counter), Err(Counter::RxReplay));
    }
    assert_eq!(new.accept(WINDOW), Ok(()));
    assert_eq!(new.accept(0), Err(Counter::RxTooOld));
    assert_eq!(new.draw(LOCAL, 0).unwrap().counter, (1 << 32) + 1);
    old.vacate();
    assert_eq!(old.read(0), None);
}

#[test]
fn the_window_is_as_wide_as_it_says() {
    let session = session();
    let newest = 100_000 / 32 * 32 + 31;
    session.accept(newest).unwrap();
    for counter in newest + 1 - WINDOW..newest {
        assert_eq!(session.accept(counter), Ok(()), "{counter}");
    }
    for counter in newest + 1 - WINDOW..=newest {
        assert_eq!(session.accept(counter), Err(Counter::RxReplay), "{counter}");
    }
    assert_eq!(session.accept(newest - WINDOW), Err(Counter::RxTooOld));
}

proptest! {
    /// Against a list of all that was accepted: nothing twice, and all that is not too old.
    #[test]
    fn the_window_as_a_list_would_do_it(
        start in prop::sample::select(vec![0u64, (1 << 37) - 500, (1 << 36) - 500, REJECT_AFTER_MESSAGES - 60_000]),
        steps in prop::collection::vec((any::<bool>(), 0u64..12_000), 1..400),
    ) {
        let session = session();
        let mut accepted = HashSet::new();
        let mut newest = start;
        for (ahead, distance) in steps {
            let counter = if ahead { newest + distance / 100 } else { newest.saturating_sub(distance) };
            let result = session.accept(counter);
            if accepted.contains(&counter) {
                prop_assert!(result == Err(Counter::RxReplay) || result == Err(Counter::RxTooOld));
            } else if counter + WINDOW - 32 > newest.max(counter) {
                prop_assert_eq!(result, Ok(()), "{} after {}", counter, newest);
            }
            if result.is_ok() {
                accepted.insert(counter);
                newest = newest.max(counter);
            }
        }
    }
}
