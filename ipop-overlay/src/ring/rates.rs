//! How often others may have something done: token buckets, one for each of them, and of so many.

use alloc::collections::BTreeMap;

use crate::time::Instant;

/// Tokens are counted in thousandths.
const TOKEN: u64 = 1000;

pub(super) struct Rates<K> {
    per_second: u64,
    at_once: u64,
    most: usize,
    buckets: BTreeMap<K, Bucket>,
}

struct Bucket {
    tokens: u64,
    at: Instant,
}

impl<K: Ord + Copy> Rates<K> {
    pub(super) fn new((per_second, at_once): (u32, u32), most: usize) -> Self {
        Self {
            per_second: u64::from(per_second),
            at_once: u64::from(at_once) * TOKEN,
            most,
            buckets: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Takes a token of one of them. Of too many, the one that has taken none for the longest time is forgotten.
    pub(super) fn allow(&mut self, of: K, now: Instant) -> bool {
        self.allow_many(of, 1, now)
    }

    /// The same with so many tokens, all or none.
    pub(super) fn allow_many(&mut self, of: K, count: usize, now: Instant) -> bool {
        if self.buckets.len() >= self.most && !self.buckets.contains_key(&of) {
            let oldest = self.buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(of, _)| *of);
            oldest.map(|oldest| self.buckets.remove(&oldest));
        }
        let at_once = self.at_once;
        let bucket = self.buckets.entry(of).or_insert(Bucket { tokens: at_once, at: now });
        let passed = u64::try_from(now.since(bucket.at).as_millis()).unwrap_or(u64::MAX);
        // A thousandth of a token for each millisecond and token per second.
        let earned = passed.saturating_mul(self.per_second);
        if earned > 0 {
            bucket.tokens = bucket.tokens.saturating_add(earned).min(at_once);
            bucket.at = now;
        }
        let wanted = u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(TOKEN);
        let left = bucket.tokens.checked_sub(wanted);
        bucket.tokens = left.unwrap_or(bucket.tokens);
        left.is_some()
    }
}
