//! Members of a group, and others: who gets in, what is told to both ends, and how a list goes round.

use std::string::ToString;

use super::*;
use crate::group::document::Document;
use crate::group::{
    Authority, AuthorityKey, CertificateError, Distrust, Grant, Kind, Label, RevocationList, Serial, Validity,
};
use crate::routes::Subnet;

const NOW: u64 = 1_790_000_000;
const HOUR: u64 = 3600;

struct Group {
    key: AuthorityKey,
    name: Label,
    authority: Authority,
}

fn group(seed: u8) -> Group {
    let (key, name) = (AuthorityKey::from_seed(&[seed; 32]), Label::new("lab").unwrap());
    let validity = Validity { not_before: NOW - HOUR, not_after: NOW + 1000 * HOUR };
    let der = key.certify(&name, Serial::from_random([1; 16]), validity).unwrap();
    Group { key, name, authority: Authority::parse(&der).unwrap() }
}

fn serial(host: u8) -> Serial {
    Serial::from_random([host + 9; 16])
}

impl Group {
    fn certificate(&self, host: u8, (not_before, not_after): (u64, u64), net: (IpAddr, u8)) -> Vec<u8> {
        let grant = Grant {
            public_key: key(host),
            node: Label::new(["alpha", "beta"][usize::from(host)]).unwrap(),
            user: None,
            // More than one message holds.
            tags: (10..26).map(|number| Label::new(&alloc::format!("{number:060}")).unwrap()).collect(),
            nets: vec![Subnet::new(net.0, net.1).unwrap()],
        };
        let validity = Validity { not_before, not_after };
        grant.issue(&self.key, &self.name, serial(host), validity).unwrap()
    }

    fn list(&self, number: u64, revoked: impl Iterator<Item = Serial>) -> Vec<u8> {
        let mut revoked: Vec<_> = revoked.map(|serial| (serial, NOW)).collect();
        revoked.sort();
        RevocationList { number, issued: NOW, revoked }.issue(&self.key, &self.name).unwrap()
    }

    fn document(&self, number: u64, len: usize) -> Vec<u8> {
        Document { number, issued: NOW, content: vec![b' '; len] }.sign(&self.key).unwrap()
    }

    fn credentials(&self, certificate: Vec<u8>) -> Credentials {
        let list = self.list(1, core::iter::empty());
        Credentials { authority: self.authority.clone(), certificate, list, document: self.document(1, 2) }
    }

    fn usual(&self, host: u8) -> Credentials {
        self.credentials(self.certificate(host, (NOW - 300, NOW + HOUR), ("10.128.0.0".parse().unwrap(), 16)))
    }
}

impl World {
    /// Two members of rings, each with what it has of a group, and without a session.
    fn of(credentials: [&Credentials; 2]) -> Self {
        let mut world = Self::new();
        for (own, other) in [(0, 1), (1, 0)] {
            let host = &mut world.hosts[usize::from(own)];
            host.node = member(own, other, 1000, world.now);
            host.node.set_credentials(credentials[usize::from(own)], NOW * 1000, world.now).unwrap();
        }
        world.kernels_on();
        world
    }

    fn meet(mut self) -> Self {
        self.sessions(1);
        self.deliver();
        self
    }

    fn refused(&self, host: usize) -> Option<Distrust> {
        self.hosts[host].reported.iter().find_map(|output| match output {
            Output::Refused { why, .. } => Some(*why),
            _ => None,
        })
    }

    fn refused_by_other(&self, host: usize) -> Option<(Distrust, u64)> {
        self.hosts[host].reported.iter().find_map(|output| match output {
            Output::RefusedBy { why, clock, .. } => Some((*why, *clock)),
            _ => None,
        })
    }

    fn addresses_of_peer(&self, host: usize) -> Option<Vec<IpAddr>> {
        self.hosts[host].reported.iter().rev().find_map(|output| match output {
            Output::Addresses { addresses, .. } => Some(addresses.clone()),
            _ => None,
        })
    }

    fn is_connected(&self, host: usize) -> bool {
        self.hosts[host].node.ring().unwrap().is_connected_to(&key(1 - host as u8))
    }

    #[track_caller]
    fn assert_shut(&self) {
        for host in 0..2 {
            assert!(!self.is_connected(host), "{host} has the other on its ring");
            assert_eq!(self.addresses_of_peer(host), None, "{host} has the other's addresses");
            assert!(matches!(self.path(host), Path::None(_)), "{host}: {:?}", self.path(host));
        }
    }
}

#[test]
fn members_of_one_group_are_let_in_and_nothing_comes_before() {
    let lab = group(1);
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]);
    world.sessions(1);
    assert_eq!(world.path(0), Path::None(NoPath::NotAdmitted));
    let early = [STATEMENT, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let refused = world.hosts[0].node.handle_message(PEER, &early, world.now);
    assert_eq!(refused, Err(Refusal(Counter::RxNoCertificate)));
    world.deliver();
    for host in 0..2 {
        assert!(world.is_connected(host));
        assert!(matches!(world.path(host), Path::Kernel { .. }));
        assert_eq!(world.addresses_of_peer(host), Some(vec![virtual_address(1 - host as u8)]));
        let name = world.hosts[host].node.member(PEER).unwrap().grant.node.to_string();
        assert_eq!(name, ["beta", "alpha"][host]);
    }
}

#[test]
fn certificates_that_are_lost_are_shown_again() {
    let lab = group(1);
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]);
    world.cut = true;
    world = world.meet();
    world.assert_shut();
    world.cut = false;
    world.pass(SECOND * 3);
    assert!(world.is_connected(0) && world.is_connected(1));
}

#[test]
fn who_has_none_or_a_wrong_one_is_refused_and_both_ends_are_told_why() {
    let (lab, other) = (group(1), group(2));
    let net = ("10.128.0.0".parse().unwrap(), 16);
    let of = |times| lab.credentials(lab.certificate(1, times, net));
    let early = CertificateError::NotYetValid { not_before: NOW + HOUR };
    let late = CertificateError::Expired { not_after: NOW - 1 };
    for (theirs, error) in [
        (other.usual(1), CertificateError::WrongGroup),
        (of((NOW + HOUR, NOW + 2 * HOUR)), early),
        (of((NOW - HOUR, NOW - 1)), late),
        (lab.usual(0), CertificateError::WrongKey),
    ] {
        let world = World::of([&lab.usual(0), &theirs]).meet();
        let why = Distrust::Certificate(error);
        assert_eq!(world.refused(0), Some(why));
        assert_eq!(world.refused_by_other(1), Some((why, NOW)));
        world.assert_shut();
    }
}

#[test]
fn a_clock_that_is_behind_is_seen_at_both_ends() {
    let lab = group(1);
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]);
    world.hosts[1].node.set_clock((NOW - HOUR) * 1000, world.now);
    let world = world.meet();
    let why = Distrust::Certificate(CertificateError::NotYetValid { not_before: NOW - 300 });
    assert_eq!(world.refused(1), Some(why));
    // The clocks of both are in it.
    assert_eq!(world.refused_by_other(0), Some((why, NOW - HOUR)));
}

#[test]
fn a_peer_that_shows_no_certificate_is_refused_in_time() {
    let lab = group(1);
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]);
    world.hosts[1].node = member(1, 0, 1000, world.now);
    let mut world = world.meet();
    world.pass(SECOND * 9);
    assert_eq!(world.refused(0), None);
    world.pass(SECOND * 2);
    assert_eq!(world.refused(0), Some(Distrust::NoCertificate));
}

#[test]
fn a_connected_peer_is_let_go_when_its_certificate_ends() {
    let lab = group(1);
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]).meet();
    world.pass(Duration::from_secs(HOUR + 50));
    assert!(world.is_connected(0));
    world.pass(Duration::from_secs(15));
    let why = Distrust::Certificate(CertificateError::Expired { not_after: NOW + HOUR });
    assert_eq!(world.refused(0), Some(why));
    assert!(!world.is_connected(0) && matches!(world.path(0), Path::None(_)));
}

#[test]
fn a_renewed_certificate_takes_the_place_of_the_old_one() {
    let lab = group(1);
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]).meet();
    let net = ("10.128.0.0".parse().unwrap(), 16);
    for host in 0..2u8 {
        let renewed = lab.credentials(lab.certificate(host, (NOW - 300, NOW + 3 * HOUR), net));
        let node = &mut world.hosts[usize::from(host)].node;
        node.set_credentials(&renewed, NOW * 1000, world.now).unwrap();
    }
    world.drain();
    world.deliver();
    world.pass(Duration::from_secs(2 * HOUR));
    assert!(world.is_connected(0) && world.is_connected(1));
    assert_eq!((world.refused(0), world.refused(1)), (None, None));
}

#[test]
fn addresses_beyond_the_certificate_are_refused() {
    let lab = group(1);
    let theirs = lab.certificate(1, (NOW - 300, NOW + HOUR), ("10.128.0.9".parse().unwrap(), 32));
    let world = World::of([&lab.usual(0), &lab.credentials(theirs)]).meet();
    assert!(world.is_connected(0));
    assert_eq!(world.addresses_of_peer(0), Some(vec![]));
    assert_eq!(world.addresses_of_peer(1), Some(vec![virtual_address(0)]));
}

#[test]
fn a_newer_list_goes_to_the_peer_and_cuts_off_who_is_on_it() {
    let lab = group(1);
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]).meet();
    // As long as one gets, and this node's peer is not on it.
    let many = |more: Option<Serial>| {
        (0..4000u16)
            .map(|number| {
                let mut bytes = [77; 16];
                bytes[14..].copy_from_slice(&number.to_be_bytes());
                Serial::from_random(bytes)
            })
            .chain(more)
    };
    let second = lab.list(2, many(None));
    let mut newer = lab.usual(0);
    newer.list.clone_from(&second);
    newer.document = lab.document(5, 9000);
    world.hosts[0].node.set_credentials(&newer, NOW * 1000, world.now).unwrap();
    world.drain();
    world.pass(SECOND * 2);
    assert_eq!(world.hosts[1].node.signed_for_all(Kind::List), Some(&second[..]));
    assert_eq!(world.hosts[1].node.signed_for_all(Kind::Document), Some(&newer.document[..]));
    let kinds: Vec<Kind> = world.hosts[1]
        .reported
        .iter()
        .filter_map(|output| match output {
            Output::Signed { kind, .. } => Some(*kind),
            _ => None,
        })
        .collect();
    assert_eq!(kinds.len(), 2);
    assert!(world.is_connected(0) && world.is_connected(1));
    newer.list = lab.list(3, many(Some(serial(1))));
    world.hosts[0].node.set_credentials(&newer, NOW * 1000, world.now).unwrap();
    world.drain();
    let why = Distrust::Certificate(CertificateError::Revoked);
    assert_eq!(world.refused(0), Some(why));
    assert!(!world.is_connected(0) && matches!(world.path(0), Path::None(_)));
    world.deliver();
    assert_eq!(world.refused_by_other(1).map(|(why, _)| why), Some(why));
}

#[test]
fn a_list_that_is_lost_on_the_way_is_asked_for_again() {
    let lab = group(1);
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]).meet();
    let mut newer = lab.usual(0);
    newer.list = lab.list(2, core::iter::empty());
    world.hosts[0].node.set_credentials(&newer, NOW * 1000, world.now).unwrap();
    world.drain();
    world.cut = true;
    world.pass(Duration::from_millis(1200));
    world.cut = false;
    world.pass(SECOND * 2);
    assert_eq!(world.hosts[1].node.signed_for_all(Kind::List), Some(&newer.list[..]));
}

#[test]
fn what_the_authority_has_not_signed_is_neither_taken_nor_given_on() {
    let (lab, other) = (group(1), group(2));
    let mut world = World::of([&lab.usual(0), &lab.usual(1)]).meet();
    // A peer that gives what it was not given by the authority.
    let forged = other.list(9, core::iter::empty());
    let numbers = crate::group::Numbers { list: 9, document: 1 };
    let accepted = crate::group::CertificateId::default();
    let told = crate::group::Message::Certificate { wants_answer: false, accepted, numbers, part: None };
    world.hosts[0].node.handle_message(PEER, &told.to_bytes(), world.now).unwrap();
    let total = forged.len() as u32;
    let part = crate::group::Message::Part { kind: Kind::List, number: 9, offset: 0, total, bytes: &forged };
    let refused = world.hosts[0].node.handle_message(PEER, &part.to_bytes(), world.now);
    assert_eq!(refused, Err(Refusal(Counter::RxRefusedList)));
    assert_eq!(world.hosts[0].node.signed_for_all(Kind::List), Some(&lab.usual(0).list[..]));
}

#[test]
fn credentials_that_do_not_belong_together_are_no_ones() {
    let (lab, other) = (group(1), group(2));
    let mut node = member(0, 1, 1000, Instant::from_nanos(5));
    let mut set =
        |credentials: &Credentials| node.set_credentials(credentials, NOW * 1000, Instant::from_nanos(5));
    let good = lab.usual(0);
    let wrong = CredentialsError::Certificate(CertificateError::WrongGroup);
    assert_eq!(set(&Credentials { certificate: other.usual(0).certificate, ..good.clone() }), Err(wrong));
    let wrong = Credentials { list: other.usual(0).list, ..good.clone() };
    assert_eq!(set(&wrong), Err(CredentialsError::List));
    let wrong = Credentials { document: other.usual(0).document, ..good.clone() };
    assert_eq!(set(&wrong), Err(CredentialsError::Document));
    assert_eq!(set(&good), Ok(()));
}
