use super::*;
use alloc::vec;
use proptest::prelude::*;

fn node(name: &str, user: &str, tags: &[&str]) -> Grant {
    let label = |text: &str| Label::new(text).unwrap();
    let tags = tags.iter().map(|tag| label(tag)).collect();
    Grant { public_key: [0; 32], node: label(name), user: Some(label(user)), tags, nets: vec![] }
}

fn rule(from: &str, to: &str, protocol: &str, ports: &[&str]) -> Rule {
    let ports: Vec<String> = ports.iter().map(|text| (*text).to_string()).collect();
    Rule::parse(from, to, protocol, &ports).unwrap()
}

/// Whether the table of rules, as the kernel looks it up, has a port.
fn has(entries: &[Entry], wanted: Key) -> bool {
    let bits = |key: Key, count: u32| {
        key.iter().fold(0u128, |value, word| (value << 32) | u128::from(u32::from_be(*word))) >> (96 - count)
    };
    entries.iter().any(|entry| bits(entry.key, entry.bits) == bits(wanted, entry.bits))
}

#[test]
fn without_rules_everything_may_begin_and_with_one_nothing_else() {
    let (web, db) = (node("n1", "alice", &["web"]), node("n2", "bob", &["db"]));
    assert!(Policy::of(&[], &web, &db).is_open());
    let policy = Policy::of(&[rule("tag:web", "tag:db", "tcp", &["5432"])], &web, &db);
    assert!(policy.allows(Direction::Out, protocol::TCP, 5432));
    assert!(!policy.allows(Direction::Out, protocol::TCP, 5433));
    assert!(!policy.allows(Direction::Out, protocol::UDP, 5432));
    assert!(!policy.allows(Direction::In, protocol::TCP, 5432));
    assert_eq!((policy.out.to_string(), policy.come.to_string()), ("tcp 5432".into(), "nothing".into()));
}

#[test]
fn both_ends_read_the_same_rules_the_same_way() {
    let (web, db) = (node("n1", "alice", &["web"]), node("n2", "bob", &["db"]));
    let rules = [rule("tag:web", "node:n2", "tcp", &[]), rule("user:bob", "*", "icmp", &[])];
    let (here, there) = (Policy::of(&rules, &web, &db), Policy::of(&rules, &db, &web));
    assert_eq!((&here.out, &here.come), (&there.come, &there.out));
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    for (from, protocol, ports) in [
        ("group:a", "tcp", "1"),
        ("tag:A", "tcp", "1"),
        ("*", "sctp", "1"),
        ("*", "tcp", "2-1"),
        ("*", "icmp", "1"),
    ] {
        assert!(Rule::parse(from, "*", protocol, &[ports.to_string()]).is_err(), "{from} {protocol} {ports}");
    }
}

#[test]
fn ranges_that_cannot_be_held_are_cut_and_counted() {
    // Each of these takes 29 blocks.
    let rules: Vec<Rule> = (0..60u16)
        .map(|index| rule("*", "*", "tcp", &[&alloc::format!("{}-{}", index * 1000 + 1, index * 1000 + 998)]))
        .collect();
    let (a, b) = (node("n1", "alice", &[]), node("n2", "bob", &[]));
    let policy = Policy::of(&rules, &a, &b);
    assert!(policy.cut > 0);
    assert!(policy.entries().len() <= POLICY_ENTRIES_MAX);
    assert!(policy.allows(Direction::Out, protocol::TCP, 500));
    assert!(!policy.allows(Direction::In, protocol::TCP, 59_500));
}

fn selectors() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["*", "tag:web", "tag:db", "user:alice", "user:bob", "node:n1", "node:n2"])
}

prop_compose! {
    fn rules()(from in selectors(), to in selectors(), protocol in prop::sample::select(vec!["any", "tcp", "udp", "icmp"]),
        ports in prop::collection::vec((1u16.., 0u16..2000), 0..4)) -> Rule
    {
        let ports: Vec<String> = ports.iter()
            .filter(|_| matches!(protocol, "tcp" | "udp"))
            .map(|(first, len)| alloc::format!("{first}-{}", first.saturating_add(*len)))
            .collect();
        Rule::parse(from, to, protocol, &ports).unwrap()
    }
}

proptest! {
    #[test]
    fn a_policy_says_what_the_rules_say_one_by_one(
        rules in prop::collection::vec(rules(), 1..6),
        edge in 0usize..12,
        near in -1i32..=1,
        port in any::<u16>(),
    ) {
        let (own, peer) = (node("n1", "alice", &["web"]), node("n2", "bob", &["db"]));
        let policy = Policy::of(&rules, &own, &peer);
        prop_assert_eq!(policy.cut, 0);
        let entries = policy.entries();
        // A port at an edge of a range, and any.
        let edges: Vec<u16> = rules.iter().flat_map(|rule| &rule.ports).flat_map(|(a, b)| [*a, *b]).collect();
        let at_edge = edges.get(edge % edges.len().max(1)).map_or(0, |port| port.saturating_add_signed(near as i16));
        for port in [port, at_edge] {
            for (direction, from, to) in [(Direction::Out, &own, &peer), (Direction::In, &peer, &own)] {
                for (number, named) in
                    [(protocol::TCP, Protocol::Tcp), (protocol::UDP, Protocol::Udp), (protocol::ICMP, Protocol::Icmp)]
                {
                    let port = if named == Protocol::Icmp { 0 } else { port };
                    let wanted = rules.iter().any(|rule| {
                        rule.from.means(from) && rule.to.means(to)
                            && (rule.protocol == Protocol::Any || rule.protocol == named)
                            && (rule.ports.is_empty() || rule.ports.iter().any(|(a, b)| (*a..=*b).contains(&port)))
                    });
                    prop_assert_eq!(policy.allows(direction, number, port), wanted);
                    let is_all = match direction { Direction::Out => policy.out.all, Direction::In => policy.come.all };
                    let key = key(policy.id(), direction, number, port);
                    prop_assert_eq!(is_all || has(&entries, key), wanted);
                }
            }
        }
    }
}
