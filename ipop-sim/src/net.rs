//! The network between the hosts: how long packets take, and which are lost.

use std::time::Duration;

use crate::random::Random;

/// What the network does to packets.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Lost, of a million.
    pub loss: u32,
    /// Delivered twice, of a million.
    pub duplication: u32,
    /// How much the delay varies; more than the distance between packets, and they overtake each other.
    pub jitter: Duration,
    /// Hosts lie in a square with sides of so long a one-way delay.
    pub width: Duration,
}

impl Conditions {
    /// A continent: up to 57 ms one way, with a loss of one in a thousand.
    pub const WIDE: Self = Self {
        loss: 1000,
        duplication: 100,
        jitter: Duration::from_millis(2),
        width: Duration::from_millis(40),
    };
    /// One machine room.
    pub const LOCAL: Self = Self {
        loss: 0,
        duplication: 0,
        jitter: Duration::from_micros(20),
        width: Duration::from_micros(200),
    };
}

/// Where a host is: in the square, and how far from its nearest router, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    x: i64,
    y: i64,
    last_mile: i64,
    /// Sites with different numbers do not hear each other while the network is split.
    pub part: u8,
}

/// The network.
#[derive(Debug)]
pub struct Net {
    pub conditions: Conditions,
    /// Whether the parts are cut off from each other.
    pub is_split: bool,
    random: Random,
}

impl Net {
    pub fn new(conditions: Conditions, random: Random) -> Self {
        Self { conditions, is_split: false, random }
    }

    /// A place for one more host.
    pub fn site(&mut self) -> Site {
        let width = self.conditions.width.as_nanos() as u64;
        let mut draw = |span| i64::try_from(self.random.below(span)).unwrap_or(0);
        Site { x: draw(width), y: draw(width), last_mile: draw(width / 10), part: 0 }
    }

    /// The delay of a packet without what varies.
    pub fn distance(a: &Site, b: &Site) -> Duration {
        let (dx, dy) = (a.x - b.x, a.y - b.y);
        let plane = (dx * dx + dy * dy).isqrt();
        Duration::from_nanos(u64::try_from(plane + a.last_mile + b.last_mile).unwrap_or(0))
    }

    /// After how long each copy of a packet arrives: none, one, or two.
    pub fn deliver(&mut self, a: &Site, b: &Site) -> impl Iterator<Item = Duration> + use<> {
        let is_lost = self.is_split && a.part != b.part || self.random.chance(self.conditions.loss);
        let copies = match is_lost {
            true => 0,
            false if self.random.chance(self.conditions.duplication) => 2,
            false => 1,
        };
        let base = Self::distance(a, b) + Duration::from_micros(20);
        let jitter = self.conditions.jitter.as_nanos() as u64;
        let delays: Vec<Duration> =
            (0..copies).map(|_| base + Duration::from_nanos(self.random.below(jitter))).collect();
        delays.into_iter()
    }
}
