//! Finds prefixes that two owners claim.

use super::prefix::Prefix;

/// A prefix, who claims it, and anything that leads back to where it was written.
#[derive(Clone, Debug)]
pub(super) struct Claim<T> {
    pub(super) prefix: Prefix,
    pub(super) owner: usize,
    pub(super) origin: T,
}

/// Every claim that lies inside, or equals, a claim of another owner: `(inner, nearest outer)`.
///
/// Prefixes are nested or disjoint, so in the order of addresses, shorter prefixes first, the
/// claims around each one form a stack.
pub(super) fn overlaps<T>(claims: &mut [Claim<T>]) -> Vec<(&Claim<T>, &Claim<T>)> {
    claims.sort_by_key(|claim| (claim.prefix.network(), claim.owner));
    let mut around: Vec<&Claim<T>> = Vec::new();
    let mut found = Vec::new();
    for claim in claims.iter() {
        while around.last().is_some_and(|outer| !outer.prefix.covers(claim.prefix)) {
            around.pop();
        }
        if let Some(outer) = around.iter().rev().find(|outer| outer.owner != claim.owner) {
            found.push((claim, *outer));
        }
        around.push(claim);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims(texts: &[(&str, usize)]) -> Vec<Claim<()>> {
        texts
            .iter()
            .map(|(text, owner)| Claim { prefix: text.parse().unwrap(), owner: *owner, origin: () })
            .collect()
    }

    fn found(texts: &[(&str, usize)]) -> Vec<(String, String)> {
        let mut claims = claims(texts);
        let pairs = overlaps(&mut claims);
        pairs.iter().map(|(inner, outer)| (inner.prefix.to_string(), outer.prefix.to_string())).collect()
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(
            found(&[("10.0.0.0/25", 0), ("10.0.0.128/25", 1), ("10.0.1.0/24", 2), ("::/0", 3)]).is_empty()
        );
    }

    #[test]
    fn a_prefix_inside_anothers_is_found_behind_siblings() {
        let pairs = found(&[("10.0.0.0/8", 0), ("10.1.0.0/16", 0), ("10.200.0.1/32", 1)]);
        assert_eq!(pairs, [("10.200.0.1/32".to_owned(), "10.0.0.0/8".to_owned())]);
    }

    #[test]
    fn the_same_owner_may_nest_but_hides_nothing() {
        let pairs = found(&[("10.0.0.0/8", 0), ("10.1.0.0/16", 1), ("10.1.1.0/24", 1)]);
        assert_eq!(pairs.len(), 2);
        assert!(found(&[("10.0.0.0/8", 7), ("10.1.0.0/16", 7)]).is_empty());
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_all_pairs(
            items in proptest::collection::vec((0u32..8, 26u8..=32, 0usize..3), 0..20)
        ) {
            let mut claims: Vec<Claim<()>> = items
                .iter()
                .map(|(low, len, owner)| {
                    let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 | low << 3);
                    Claim { prefix: Prefix::new(addr.into(), *len).unwrap().network(), owner: *owner, origin: () }
                })
                .collect();
            let all = claims.clone();
            let any = all.iter().any(|a| all.iter().any(|b| a.owner != b.owner && a.prefix.overlaps(b.prefix)));
            let found = overlaps(&mut claims);
            prop_assert_eq!(!found.is_empty(), any);
            for (inner, outer) in found {
                prop_assert!(outer.prefix.covers(inner.prefix) && outer.owner != inner.owner);
            }
        }
    }
}
