//! Network coordinates: Vivaldi (Dabek and others, SIGCOMM 2004) in the plane with a height, in whole
//! microseconds, so that every machine computes the same.

use core::time::Duration;

use super::wire::Coordinates;

/// Errors are parts of this.
const ONE: i64 = 1 << 16;
/// How much one sample moves a node and its error: a quarter, as the original.
const GAIN_SHIFT: u32 = 2;
/// The least height: no packet takes no time.
const HEIGHT_MIN: i64 = 100;
/// A round trip that is longer than this says nothing about the way.
const SAMPLE_MAX: i64 = 5_000_000;
/// Further out than light goes around the Earth in seconds is nobody.
const BOUND: i64 = 10_000_000;

impl Coordinates {
    /// The round trip to expect, in microseconds.
    pub fn distance(&self, other: &Self) -> u32 {
        let (dx, dy) = self.offset(other);
        let plane = length(dx, dy);
        let heights = i64::from(self.height) + i64::from(other.height);
        u32::try_from(plane.saturating_add(heights)).unwrap_or(u32::MAX)
    }

    fn offset(&self, other: &Self) -> (i64, i64) {
        (i64::from(self.x) - i64::from(other.x), i64::from(self.y) - i64::from(other.y))
    }
}

fn length(dx: i64, dy: i64) -> i64 {
    (dx.saturating_mul(dx).saturating_add(dy.saturating_mul(dy))).isqrt()
}

/// A node's own place, and how sure it is of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vivaldi {
    at: Coordinates,
    error: i64,
}

impl Vivaldi {
    pub(super) fn new() -> Self {
        Self { at: Coordinates { x: 0, y: 0, height: HEIGHT_MIN as u32 }, error: ONE }
    }

    pub(super) fn at(&self) -> Coordinates {
        self.at
    }

    /// Between 0, sure, and `u16::MAX`.
    pub(super) fn error(&self) -> u16 {
        u16::try_from(self.error).unwrap_or(u16::MAX)
    }

    /// Takes in a round trip to a node. `direction` decides where to go from one in the same place.
    pub(super) fn sample(&mut self, other: &Coordinates, error: u16, rtt: Duration, direction: u64) {
        let rtt = i64::try_from(rtt.as_micros()).unwrap_or(i64::MAX);
        if rtt <= 0 || rtt > SAMPLE_MAX {
            return;
        }
        let (mut dx, mut dy) = self.at.offset(other);
        let heights = i64::from(self.at.height).saturating_add(i64::from(other.height)).min(BOUND);
        if (dx, dy) == (0, 0) {
            let step = |bits: u64| i64::try_from(bits & 0xff).unwrap_or(0) - 128;
            (dx, dy) = (step(direction) | 1, step(direction >> 8));
        }
        let (dx, dy) = (dx.clamp(-2 * BOUND, 2 * BOUND), dy.clamp(-2 * BOUND, 2 * BOUND));
        let distance = length(dx, dy).saturating_add(heights).max(1);
        // The less sure of the two moves more.
        let weight = self.error.saturating_mul(ONE) / (self.error + i64::from(error)).max(1);
        let relative = ((rtt - distance).abs().saturating_mul(ONE) / rtt).min(ONE);
        self.error += ((relative - self.error).saturating_mul(weight) / ONE) >> GAIN_SHIFT;
        self.error = self.error.clamp(ONE / 100, ONE);
        let force = ((rtt - distance).saturating_mul(weight) / ONE) >> GAIN_SHIFT;
        let moved = |from: i64, part: i64| from.saturating_add(force.saturating_mul(part) / distance);
        let bounded = |value: i64| i32::try_from(value.clamp(-BOUND, BOUND)).unwrap_or_default();
        self.at.x = bounded(moved(i64::from(self.at.x), dx));
        self.at.y = bounded(moved(i64::from(self.at.y), dy));
        let height = moved(i64::from(self.at.height), heights).clamp(HEIGHT_MIN, BOUND);
        self.at.height = u32::try_from(height).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Nodes in the plane find places in which the distances are the round trips.
    #[test]
    fn round_trips_become_distances() {
        let truth: Vec<(i64, i64)> = (0..20i64).map(|i| (i * 37 % 100 * 1000, i * 61 % 100 * 1000)).collect();
        let mut nodes: Vec<Vivaldi> = truth.iter().map(|_| Vivaldi::new()).collect();
        let rtt = |a: usize, b: usize| {
            let ((ax, ay), (bx, by)) = (truth[a], truth[b]);
            Duration::from_micros(length(ax - bx, ay - by) as u64 + 2000)
        };
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        };
        for _ in 0..20_000 {
            let (a, b) = (next() as usize % 20, next() as usize % 20);
            if a != b {
                let (at, error) = (nodes[b].at(), nodes[b].error());
                nodes[a].sample(&at, error, rtt(a, b), next());
            }
        }
        let mut errors: Vec<f64> = Vec::new();
        for a in 0..20 {
            for b in 0..a {
                let (truth, seen) = (rtt(a, b).as_micros() as f64, nodes[a].at().distance(&nodes[b].at()));
                errors.push((f64::from(seen) - truth).abs() / truth);
            }
        }
        errors.sort_by(f64::total_cmp);
        assert!(errors[errors.len() / 2] < 0.1, "median error {}", errors[errors.len() / 2]);
    }

    #[test]
    fn nothing_that_others_say_moves_a_node_out_of_bounds() {
        let mut node = Vivaldi::new();
        let extreme = [i32::MIN, i32::MAX, 0];
        for x in extreme {
            for y in extreme {
                for height in [0, u32::MAX] {
                    for error in [0, u16::MAX] {
                        for rtt in [0, 1, 1_000_000, u64::MAX] {
                            let at = Coordinates { x, y, height };
                            node.sample(&at, error, Duration::from_micros(rtt), rtt);
                            assert!(
                                i64::from(node.at.x).abs() <= BOUND && i64::from(node.at.y).abs() <= BOUND
                            );
                        }
                    }
                }
            }
        }
    }
}
