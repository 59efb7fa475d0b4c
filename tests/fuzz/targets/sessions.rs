//! Two nodes that make sessions with one another, over a network that loses, repeats, delays, reorders and
//! changes what they send, while clocks are set and nodes start again.
//!
//! Input: events. Each begins with a byte: its low three bits say what happens (see [`Run::event`]),
//! bit 3 says to which of the two.

mod host;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ipop_common::Counter;
use ipop_common::wireguard::TYPE_INITIATION;
use ipop_overlay::Instant;

use super::tape::Tape;
use host::{Arrived, Datagram, Host, Nonce};

/// Events per input, so that one takes milliseconds at most.
const EVENTS_MAX: usize = 150;
/// Datagrams under way; what comes on top is lost.
const WIRE_MAX: usize = 64;
/// Datagrams that may follow from one while nothing new happens.
const ANSWERS_MAX: usize = 200;
/// Once nothing is lost any more, a packet of each arrives at the other within this many tries, a
/// second each: what an attempt under way still takes, and another (see `Timers`).
const TRIES_MAX: usize = 40;
const TRY: Duration = Duration::from_secs(1);
/// Where nobody sends any more, all has ended after this: sessions, and the last attempt for one.
const END: Duration = Duration::from_secs(400);

pub(super) fn run(input: &[u8]) {
    let mut tape = Tape::new(input);
    let mut run = Run::new();
    for _ in 0..EVENTS_MAX {
        if tape.is_over() {
            break;
        }
        run.event(&mut tape);
    }
    run.recovers();
    run.ends();
}

struct Run {
    now: Instant,
    hosts: [Host; 2],
    wire: VecDeque<Datagram>,
    restarts: u64,
    /// Packets sent so far: each has its number for its text.
    packets: u64,
    /// What was sealed with which nonce, by either.
    sealed: BTreeSet<Nonce>,
    /// What was opened.
    opened: BTreeMap<Nonce, Vec<u8>>,
    /// The number of the last packet that each has received.
    received: [Option<u64>; 2],
    /// Datagrams sent so far: each has its number.
    datagrams: u64,
    /// The number of the last initiation that each has taken.
    taken: [Option<u64>; 2],
    refused: [Vec<Counter>; 2],
}

impl Run {
    fn new() -> Self {
        let now = Instant::from_nanos(5);
        Self {
            now,
            hosts: [0, 1].map(|own| Host::new(own, now)),
            wire: VecDeque::new(),
            restarts: 0,
            packets: 0,
            sealed: BTreeSet::new(),
            opened: BTreeMap::new(),
            received: [None; 2],
            datagrams: 0,
            taken: [None; 2],
            refused: [Vec::new(), Vec::new()],
        }
    }

    fn event(&mut self, tape: &mut Tape<'_>) {
        let event = tape.u8();
        let host = usize::from(event >> 3 & 1);
        match event & 7 {
            0 => self.pass(Duration::from_millis(u64::from(event >> 4) * 50)),
            1 => self.pass(Duration::from_secs(tape.u8().into())),
            2 => {
                self.send(host);
            }
            3 => self.arrive_one(tape),
            4 => {
                // It arrives, and will once more.
                let at = self.pick(tape);
                if let Some(datagram) = at.and_then(|at| self.wire.get(at)).cloned() {
                    self.arrive(&datagram);
                }
            }
            5 => {
                let at = self.pick(tape);
                at.and_then(|at| self.wire.remove(at));
            }
            6 => self.changed(tape),
            _ => self.misfortune(host, tape),
        }
    }

    fn pick(&self, tape: &mut Tape<'_>) -> Option<usize> {
        let choice = usize::from(tape.u8());
        (!self.wire.is_empty()).then(|| choice % self.wire.len())
    }

    fn arrive_one(&mut self, tape: &mut Tape<'_>) {
        let at = self.pick(tape);
        if let Some(datagram) = at.and_then(|at| self.wire.remove(at)) {
            self.arrive(&datagram);
        }
    }

    /// A copy of a datagram arrives with a bit flipped, cut off, from elsewhere, or where it came from.
    fn changed(&mut self, tape: &mut Tape<'_>) {
        let (at, change) = (self.pick(tape), tape.u16());
        let Some(mut datagram) = at.and_then(|at| self.wire.get(at)).cloned() else { return };
        let by = usize::from(change & 0x3fff);
        match change >> 14 {
            0 | 1 => {
                let bit = by % (datagram.bytes.len() * 8);
                datagram.bytes[bit / 8] ^= 1 << (bit % 8);
            }
            2 => datagram.bytes.truncate(by % datagram.bytes.len()),
            _ if by & 1 == 0 => datagram.from.set_port(1),
            _ => datagram.to = datagram.from,
        }
        self.arrive(&datagram);
    }

    /// Choices: the low three bits say what, the others how much.
    fn misfortune(&mut self, host: usize, tape: &mut Tape<'_>) {
        let choice = tape.u8();
        let much = choice >> 3;
        match choice & 7 {
            // A wall clock is set, in steps of a minute.
            0 => self.hosts[host].set_clock_off((i64::from(much) - 16) * 60),
            // A node whose clock went back while it was off is heard when the other begins; where that
            // happened to both, neither hears the other for as long. So only one of them starts again.
            1 | 2 => {
                self.restarts += 1;
                self.hosts[0].restart(1000 + self.restarts, self.now, choice & 1 == 0);
                self.taken[0] = None;
            }
            3 => self.hosts[host].address.set_port(15_000 + u16::from(much)),
            4 => self.hosts[host].set_under_load(much & 1 != 0),
            5 => {
                let sent = self.hosts[host].count(u64::MAX >> (2 * (31 - much)), self.now);
                self.take(host, sent);
            }
            _ => self.wire.clear(),
        }
    }

    /// Time passes, and what falls due in it is done.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let due = self.hosts.iter().filter_map(Host::due).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = due.max(self.now);
            for host in 0..2 {
                let sent = self.hosts[host].handle_timeout(self.now);
                self.take(host, sent);
            }
        }
        self.now = end;
    }

    fn send(&mut self, host: usize) -> u64 {
        self.packets += 1;
        let sent = self.hosts[host].send(&packet(host, self.packets), self.now);
        self.take(host, sent);
        self.packets
    }

    /// What a host has sent is under way.
    fn take(&mut self, host: usize, sent: Vec<Datagram>) {
        for nonce in self.hosts[host].nonces.drain(..) {
            assert!(self.sealed.insert(nonce), "a nonce is used twice");
        }
        for datagram in sent {
            self.datagrams += 1;
            self.wire.push_back(Datagram { number: self.datagrams, ..datagram });
        }
        self.wire.truncate(WIRE_MAX);
    }

    /// What comes out was put in by the other, and comes out once.
    fn arrive(&mut self, datagram: &Datagram) {
        let Some(host) = self.hosts.iter().position(|host| host.address == datagram.to) else { return };
        let (result, sent) = self.hosts[host].arrive(datagram, self.now);
        self.is_in_order(host, datagram, &result);
        if let Err(counter) = result {
            self.refused[host].push(counter);
        }
        if let Ok(Some((nonce, text))) = result {
            assert!(self.sealed.contains(&nonce), "sealed by nobody");
            if !text.is_empty() {
                let number = u64::from_be_bytes(*text[8..].first_chunk().expect("a number"));
                assert!(number <= self.packets && text == packet(1 - host, number), "no packet of the peer");
                self.received[host] = Some(number);
            }
            assert_eq!(self.opened.insert(nonce, text), None, "two packets with one counter");
        }
        self.take(host, sent);
    }

    /// Of the initiations of one run of a node, only those are taken that were sent after all that were
    /// taken before; and no such one is a replay, wherever the clock was set meanwhile.
    fn is_in_order(&mut self, host: usize, datagram: &Datagram, result: &Arrived) {
        let is_of_one_run = host == 0 || self.restarts == 0;
        if !is_of_one_run || datagram.bytes.first() != Some(&TYPE_INITIATION) {
            return;
        }
        let is_newer = self.taken[host] < Some(datagram.number);
        match result {
            Ok(_) => {
                assert!(is_newer, "an initiation is taken again");
                self.taken[host] = Some(datagram.number);
            }
            Err(Counter::RxReplayedHandshake) => assert!(!is_newer, "a new initiation is an old one"),
            Err(_) => {}
        }
    }

    /// All that is under way arrives, with the answers to it.
    fn deliver(&mut self) {
        for _ in 0..ANSWERS_MAX {
            let Some(datagram) = self.wire.pop_front() else { return };
            self.pass(Duration::from_millis(1));
            self.arrive(&datagram);
        }
        panic!("the nodes answer each other for ever");
    }

    /// From here on nothing is lost, and both have packets to send.
    fn recovers(&mut self) {
        for host in 0..2 {
            self.hosts[host].set_under_load(false);
        }
        let is_over = (0..TRIES_MAX).any(|_| {
            for host in 0..2 {
                // As a daemon does that hears nothing: it goes back to where the peer should be.
                let there = self.hosts[1 - host].address;
                self.hosts[host].set_endpoint(there);
            }
            let works = self.works();
            if !works {
                self.pass(TRY);
            }
            works
        });
        assert!(is_over, "no session in time; refused: {:?}", self.refused);
    }

    /// A packet of each arrives at the other.
    fn works(&mut self) -> bool {
        let numbers = [0, 1].map(|host| self.send(host));
        self.deliver();
        (0..2).all(|host| self.received[1 - host] == Some(numbers[host]))
    }

    /// From here on nobody sends.
    fn ends(&mut self) {
        self.pass(END);
        for host in &self.hosts {
            assert!(host.holds_nothing() && host.due().is_none(), "it goes on for ever");
        }
    }
}

/// The text of packet `number`, of one length whoever sends it.
fn packet(host: usize, number: u64) -> Vec<u8> {
    [&[0x45, host as u8, 0, 0, 0, 0, 0, 0], &number.to_be_bytes()[..]].concat()
}
