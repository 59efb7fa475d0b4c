//! Medians, quartiles and ratios of repeated measurements. Pure functions.

use serde::Serialize;

/// The middle of some repetitions and how far they spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    /// First and third quartile: half of all repetitions lie between them.
    pub(crate) q1: f64,
    pub(crate) q3: f64,
    pub(crate) count: usize,
}

impl Summary {
    /// `None` where there is no finite value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            q1: quantile(&sorted, 0.25)?,
            q3: quantile(&sorted, 0.75)?,
            count: sorted.len(),
        })
    }

    /// Half of the interquartile range.
    pub(crate) fn half_range(&self) -> f64 {
        (self.q3 - self.q1) / 2.0
    }
}

/// The quantile `part` (0 to 1) of sorted values, interpolated linearly between neighbours.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = part * last as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    Some(below + (above - below) * position.fract())
}

/// value / base, round by round; a round that either lacks is left out.
pub(crate) fn ratio(values: &[f64], base: &[f64]) -> Option<Summary> {
    by_round(values, base, |value, base| value / base)
}

/// value - base, round by round; a round that either lacks is left out.
pub(crate) fn difference(values: &[f64], base: &[f64]) -> Option<Summary> {
    by_round(values, base, |value, base| value - base)
}

fn by_round(values: &[f64], base: &[f64], combine: impl Fn(f64, f64) -> f64) -> Option<Summary> {
    let combined: Vec<f64> = values.iter().zip(base).map(|(value, base)| combine(*value, *base)).collect();
    Summary::of(&combined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_quartiles_of_odd_and_even_counts() {
        let odd = Summary::of(&[5.0, 1.0, 3.0]).expect("values");
        assert_eq!((odd.median, odd.q1, odd.q3, odd.count), (3.0, 2.0, 4.0, 3));
        let even = Summary::of(&[4.0, 1.0, 3.0, 2.0]).expect("values");
        assert_eq!((even.median, even.q1, even.q3), (2.5, 1.75, 3.25));
        assert_eq!(even.half_range(), 0.75);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::NAN, 2.0]).map(|summary| summary.count), Some(1));
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was twice as slow in the second round: no ratio notices.
        let (bare, ours) = ([10.0, 5.0, 10.0], [9.0, 4.5]);
        let ratio = ratio(&ours, &bare).expect("two common rounds");
        assert_eq!((ratio.median, ratio.count), (0.9, 2));
        let difference = difference(&ours, &bare).expect("two common rounds");
        assert_eq!(difference.median, -0.75);
        assert_eq!(super::ratio(&[], &[1.0]), None);
    }
}
