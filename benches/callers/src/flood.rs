//! Floods: initiations that lead to no session, at an exact rate.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipop_common::wireguard::{INITIATION_LEN, TYPE_INITIATION};
use ipop_overlay::session::Mac1Key;

use crate::wire::{Batch, Wire};
use crate::{STRANGERS, address};

/// Strangers, each with an address of its own.
const STRANGERS_COUNT: usize = 4096;
/// One burst each.
const TICK: Duration = Duration::from_millis(1);
/// A flood that has fallen behind by more than this does not catch up.
const BEHIND_MAX: Duration = Duration::from_millis(50);

/// What the initiations are.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Bytes of the right length and type; who sends them does not know the node's key.
    Garbage,
    /// With a mac1 that is right for this key, and garbage besides.
    Mac1([u8; 32]),
    /// One that was recorded, from where it came from.
    Replay(Ipv4Addr, Vec<u8>),
}

impl Kind {
    fn datagrams(&self) -> Vec<(Ipv4Addr, Vec<u8>)> {
        (0..STRANGERS_COUNT)
            .map(|number| match self {
                Self::Garbage => (address(STRANGERS, number), bogus(number, None)),
                Self::Mac1(key) => (address(STRANGERS, number), bogus(number, Some(&Mac1Key::new(key)))),
                Self::Replay(source, datagram) => (*source, datagram.clone()),
            })
            .collect()
    }
}

/// Something as long as an initiation, with the right mac1 if the key is given. Another for each number.
pub fn bogus(number: usize, mac1: Option<&Mac1Key>) -> Vec<u8> {
    let mut datagram = vec![0; INITIATION_LEN];
    datagram[0] = TYPE_INITIATION;
    // mac2 stays empty, as it does where there is no cookie.
    for (at, byte) in datagram[4..INITIATION_LEN - 16].iter_mut().enumerate() {
        *byte = (at.wrapping_mul(31) ^ number ^ ((number >> 8) * 7)) as u8;
    }
    if let Some(mac1) = mac1 {
        mac1.fill_in(&mut datagram);
    }
    datagram
}

/// How much was sent, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub datagrams: u64,
    pub seconds: f64,
}

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Sent>>,
}

impl Flood {
    /// Floods `to` with so many initiations per second.
    ///
    /// # Errors
    /// If there is no socket or no thread.
    pub fn start(kind: &Kind, to: SocketAddrV4, per_second: u32) -> Result<Self> {
        let (wire, batch) = (Wire::open()?, Batch::new(to, kind.datagrams()));
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || run(&wire, batch, per_second, &stopping))
            .context("cannot start a thread")?;
        Ok(Self { stop, thread })
    }

    /// Ends it.
    ///
    /// # Errors
    /// What the socket has said.
    pub fn stop(self) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| anyhow::bail!("the flood has panicked"))
    }
}

fn run(wire: &Wire, mut batch: Batch, per_second: u32, stop: &AtomicBool) -> Result<Sent> {
    let started = Instant::now();
    // What is owed is counted from here.
    let (mut since, mut paid, mut datagrams, mut at) = (started, 0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let owed = (since.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        if owed - paid > (BEHIND_MAX.as_secs_f64() * f64::from(per_second)) as u64 {
            (since, paid) = (Instant::now(), 0);
            continue;
        }
        let mut left = (owed - paid) as usize;
        while left > 0 {
            let sent = batch.send(wire, at, left)?;
            at = (at + sent) % batch.len();
            left = left.saturating_sub(sent);
            paid += sent as u64;
            datagrams += sent as u64;
        }
        std::thread::sleep(TICK);
    }
    Ok(Sent { datagrams, seconds: started.elapsed().as_secs_f64() })
}
