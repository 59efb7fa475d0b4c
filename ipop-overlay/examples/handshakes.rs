//! How many handshake messages one core takes per second, of each kind. `cargo run --release
//! --example handshakes -p ipop-overlay`
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement, run by hand")]

use std::time::{Duration, Instant as Stopwatch};

use ipop_overlay::session::{Handled, Mac1Key, Now, Output, PeerConfig, Random, Sessions, Timers};
use ipop_overlay::{Endpoint, Instant, PeerId};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const PEERS: usize = 500;
const ROUNDS: usize = 5;

fn main() {
    println!("{PEERS} peers, {ROUNDS} rounds; median of the rounds, per second and core");
    let mut rounds: [Vec<f64>; 5] = Default::default();
    for round in 0..ROUNDS {
        for (all, figure) in rounds.iter_mut().zip(measure(round as u64 + 1)) {
            all.push(figure);
        }
    }
    let names = [
        "initiations accepted and answered",
        "responses accepted",
        "initiations sent",
        "messages refused by mac1",
        "initiations under load answered with a cookie",
    ];
    for (name, mut figures) in names.into_iter().zip(rounds) {
        figures.sort_by(f64::total_cmp);
        let (least, median, most) = (figures[0], figures[ROUNDS / 2], figures[ROUNDS - 1]);
        println!("{median:>10.0}  ({least:.0} to {most:.0})  {name}");
    }
}

fn measure(seed: u64) -> [f64; 5] {
    let key = |number: usize| {
        let mut bytes = [seed as u8; 32];
        // Not into the first bits, which X25519 ignores.
        bytes[8..16].copy_from_slice(&(number as u64).to_le_bytes());
        StaticSecret::from(bytes)
    };
    let now = Now { at: Instant::from_nanos(1), unix: Duration::from_secs(1_700_000_000) };
    let address = |number: usize| Endpoint::Udp(([10, 0, (number >> 8) as u8, number as u8], 15000).into());

    let mut responder = Sessions::new(key(0), Timers::WIREGUARD, random(seed));
    let responder_key = PublicKey::from(&key(0)).to_bytes();
    let mut initiators = Vec::new();
    for number in 1..=PEERS {
        let own = PublicKey::from(&key(number)).to_bytes();
        responder.add_peer(now.at, PeerId(number), peer(own, address(number))).unwrap();
        let mut initiator = Sessions::new(key(number), Timers::WIREGUARD, random(seed + number as u64));
        initiator.add_peer(now.at, PeerId(0), peer(responder_key, address(0))).unwrap();
        initiators.push(initiator);
    }

    let sent = per_second(|| initiators.iter_mut().for_each(|i| i.want_session(now, PeerId(0))));
    let initiations: Vec<Vec<u8>> = initiators.iter_mut().map(transmitted).collect();

    let accepted = per_second(|| {
        for (number, initiation) in initiations.iter().enumerate() {
            let handled = responder.handle_handshake(now, address(number + 1), initiation);
            assert_eq!(handled, Ok(Handled::Done));
        }
    });
    let mut responses = Vec::new();
    while let Some(output) = responder.poll_output() {
        if let Output::Transmit { datagram, .. } = output {
            responses.push(datagram);
        }
    }
    let finished = per_second(|| {
        for (initiator, response) in initiators.iter_mut().zip(&responses) {
            assert_eq!(initiator.handle_handshake(now, address(0), response), Ok(Handled::Done));
        }
    });

    let stranger = Mac1Key::new(&[7; 32]);
    let refused = per_second(|| {
        assert!(initiations.iter().all(|initiation| !stranger.admits(initiation)));
    });

    responder.set_under_load(true);
    let cookies = per_second(|| {
        for initiation in &initiations {
            responder.handle_handshake(now, address(1), initiation).unwrap_err();
        }
    });
    [accepted, finished, sent, refused, cookies]
}

/// How often per second what is done [`PEERS`] times is done.
fn per_second(act: impl FnOnce()) -> f64 {
    let start = Stopwatch::now();
    act();
    PEERS as f64 / start.elapsed().as_secs_f64()
}

fn peer(public_key: [u8; 32], endpoint: Endpoint) -> PeerConfig {
    PeerConfig {
        public_key,
        psk: Zeroizing::new([3; 32]),
        endpoint: Some(endpoint),
        persistent_keepalive: None,
    }
}

fn transmitted(sessions: &mut Sessions) -> Vec<u8> {
    match sessions.poll_output() {
        Some(Output::Transmit { datagram, .. }) => datagram,
        other => panic!("an initiation is expected, not {other:?}"),
    }
}

/// Marsaglia's xorshift64, a stand-in for the operating system's randomness.
fn random(seed: u64) -> Random {
    let mut state = seed | 1;
    Box::new(move |out| {
        for byte in out {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
    })
}
