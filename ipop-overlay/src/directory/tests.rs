//! A node that is all of its network registers and finds.

use std::string::ToString;
use std::vec;
use std::vec::Vec;

use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::dhcp::lease_name;
use crate::dhcp::tests::{Host, WALL};
use crate::dht::{Event, Kind};
use crate::node::Node;
use crate::time::Instant;

const SPAN: Duration = Duration::from_secs(5);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn registration(host: &Host, name: &[u8], value: &[u8]) -> Registration {
    Registration::new(Kind::Create, name.to_vec(), value.to_vec(), 600, host.now).expect("a registration")
}

fn keep(host: &mut Host, registration: &mut Registration, span: Duration) {
    host.drive(span, |node, event, now| {
        match event {
            Some(event) => drop(registration.handle_event(event, now)),
            None => registration.handle_timeout(node, now),
        }
        registration.poll_timeout()
    });
}

fn find(host: &mut Host, directory: &mut Directory, question: &Question) -> Option<Answer> {
    assert!(directory.ask(question.clone(), &mut host.node, host.now), "there is room");
    let mut found = None;
    host.drive(SPAN, |_, event, now| {
        let heard = event.and_then(|event| directory.handle_event(event, WALL, now));
        found = heard.or(found.take());
        None
    });
    let (of, answer) = found.expect("an answer");
    assert_eq!(of, *question);
    answer
}

#[test]
fn what_is_registered_is_found_until_it_is_withdrawn() {
    let mut host = Host::new();
    let addresses = [ip("10.1.0.1"), ip("fd00::1")];
    let mut named = registration(&host, &host_name("test", "Alpha"), &host_value(&addresses));
    let mut lease = registration(&host, &lease_name("test", addresses[0]), b"Alpha");
    for one in [&mut named, &mut lease] {
        keep(&mut host, one, SPAN);
        assert_eq!(one.state(), State::Held);
    }
    let mut directory = Directory::new("test".to_string());
    let answer = find(&mut host, &mut directory, &Question::Host("alpha".to_string()));
    let Some(Answer::Owner { public_key, host: name, addresses: found, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((public_key, name.as_str(), &found[..]), (host.key, "alpha", &addresses[..]));
    let owner = Question::Owner(addresses[0]);
    let answer = find(&mut host, &mut directory, &owner);
    assert!(matches!(&answer, Some(Answer::Owner { host, .. }) if host == "alpha"), "{answer:?}");
    // What is known is not asked again, until it is forgotten.
    assert_eq!(directory.known(&owner, host.now), answer.as_ref());
    assert_eq!(directory.owners(host.now).count(), 1);
    directory.forget_node(&host.key);
    assert_eq!(directory.known(&owner, host.now), None);
    // Other addresses are told of at once.
    named.set_value(host_value(&addresses[1..]), host.now);
    keep(&mut host, &mut named, SPAN);
    let answer = find(&mut host, &mut directory, &Question::Host("alpha".to_string()));
    assert!(
        matches!(&answer, Some(Answer::Owner { addresses: found, .. }) if found[..] == addresses[1..]),
        "{answer:?}"
    );
    lease.withdraw(&mut host.node, host.now);
    keep(&mut host, &mut lease, SPAN);
    assert_eq!(lease.state(), State::Withdrawn);
    assert_eq!(find(&mut host, &mut directory, &owner), Some(Answer::Nobody));
    // That there is nobody is not believed for long.
    assert!(directory.known(&owner, host.now).is_none(), "seconds have passed");
}

#[test]
fn what_is_anothers_is_tried_again_later() {
    let mut host = Host::new();
    let mut one = registration(&host, b"host:test:x", b"");
    keep(&mut host, &mut one, SPAN);
    assert_eq!(one.state(), State::Held);
    let standing = {
        let request = host.node.dht_get(b"host:test:x", Kind::Create, host.now).expect("a request");
        let mut record = None;
        host.drive(SPAN, |_, event, _| {
            if let Some(Event::Got { request: of, records, .. }) = event
                && *of == request
            {
                record = records.first().cloned();
            }
            None
        });
        record.expect("a record")
    };
    // As if the network had been in two parts, and the other had been first.
    let lost = Event::Lost { key: standing.key, standing: Some(standing.clone()) };
    assert!(one.handle_event(&lost, host.now));
    assert_eq!(one.state(), State::Taken(Some(standing.owner_address())));
    let again = one.poll_timeout().expect("it is tried again");
    assert!(again.since(host.now) >= Duration::from_secs(60));
    keep(&mut host, &mut one, Duration::from_secs(400));
    assert_eq!(one.state(), State::Held);
    // Gone altogether, it is made again at once.
    assert!(one.handle_event(&Event::Lost { key: standing.key, standing: None }, host.now));
    assert_eq!(one.poll_timeout(), Some(host.now));
    assert!(!one.handle_event(
        &Event::Lost { key: crate::dht::Key(crate::NodeAddress([2; 20])), standing: None },
        host.now
    ));
}

#[test]
fn services_are_found_by_those_who_offer_them() {
    let mut host = Host::new();
    let service = Service { priority: 10, weight: 5, port: 8080, host: "alpha".to_string() };
    assert_eq!(Service::parse(&service.to_bytes()), Some(service.clone()));
    assert_eq!(Service::parse(&[0; 5]), None);
    assert_eq!(Service::parse(&[0, 0, 0, 0, 0, 80, 0xff]), None, "that is no text");
    let name = Service::name("test", "_HTTP._tcp");
    let mut offer =
        Registration::new(Kind::Put, name, service.to_bytes(), 600, host.now).expect("a registration");
    keep(&mut host, &mut offer, SPAN);
    assert_eq!(offer.state(), State::Held);
    let mut directory = Directory::new("test".to_string());
    let question = Question::Service("_http._tcp".to_string());
    let answer = find(&mut host, &mut directory, &question);
    assert_eq!(answer, Some(Answer::Offered(vec![(host.key, service)])));
    offer.withdraw(&mut host.node, host.now);
    keep(&mut host, &mut offer, SPAN);
    assert_eq!(find(&mut host, &mut directory, &question), Some(Answer::Nobody));
}

#[test]
fn what_cannot_be_a_record_is_refused() {
    let new = |name: usize, value: usize| {
        Registration::new(Kind::Create, vec![b'n'; name], vec![b'v'; value], 600, Instant::default()).err()
    };
    assert_eq!(new(129, 1), Some(crate::dht::Error::NameTooLong));
    assert_eq!(new(1, 1025), Some(crate::dht::Error::ValueTooLong));
    assert_eq!(new(1, 1), None);
}

#[test]
fn no_more_is_asked_or_kept_than_there_is_room_for() {
    let mut host = Host::new();
    let mut directory = Directory::new("test".to_string());
    let question = |n: u32| Question::Owner(IpAddr::V4((0x0a00_0000 + n).into()));
    let asked = |directory: &mut Directory, node: &mut Node, now: Instant| {
        (0..1000).filter(|n| directory.ask(question(*n), node, now)).count()
    };
    let begun = asked(&mut directory, &mut host.node, host.now);
    assert!((1..=64).contains(&begun), "{begun}");
    // One that is under way is not begun again.
    assert!(directory.ask(question(0), &mut host.node, host.now));
    let mut answered = 0;
    host.drive(SPAN, |_, event, now| {
        answered += usize::from(event.and_then(|event| directory.handle_event(event, WALL, now)).is_some());
        None
    });
    assert_eq!(answered, begun);
}

proptest! {
    #[test]
    fn addresses_are_read_as_they_were_written(bits in proptest::collection::vec(any::<u128>(), 0..20)) {
        let addresses: Vec<IpAddr> = bits
            .iter()
            .map(|bits| ipop_common::Address::from_bytes(bits.to_be_bytes()).to_ip())
            .take(HOST_ADDRESSES_MAX)
            .collect();
        let value = host_value(&addresses);
        prop_assert_eq!(host_addresses(&value), Some(addresses));
    }

    #[test]
    fn a_value_of_another_length_is_none(len in 0..600usize) {
        let is_one = len % 16 == 0 && len <= HOST_ADDRESSES_MAX * 16;
        prop_assert_eq!(host_addresses(&vec![7; len]).is_some(), is_one);
    }
}
