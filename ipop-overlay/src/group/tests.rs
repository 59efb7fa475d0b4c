//! Certificates, lists, documents and requests: what is made is read back, and everything else is refused by its reason.

use alloc::vec::Vec;
use std::string::ToString;

use proptest::prelude::*;
use x25519_dalek::{PublicKey, StaticSecret};

use super::document::Document;
use super::request::{Purpose, Request, RequestError};
use super::*;
use crate::dht::SigningKey;
use crate::routes::Subnet;

const NOW: u64 = 1_790_000_000;
const YEARS: Validity = Validity { not_before: NOW - 1000, not_after: NOW + 400_000_000 };
const DAY: Validity = Validity { not_before: NOW - 60, not_after: NOW + 86_400 };

fn label(text: &str) -> Label {
    Label::new(text).expect("a label")
}

fn serial(byte: u8) -> Serial {
    Serial::from_random([byte; 16])
}

struct Group {
    key: AuthorityKey,
    name: Label,
    authority: Authority,
}

fn group(seed: u8, name: &str) -> Group {
    let (key, name) = (AuthorityKey::from_seed(&[seed; 32]), label(name));
    let der = key.certify(&name, serial(1), YEARS).expect("a certificate");
    let authority = Authority::parse(&der).expect("an authority");
    Group { key, name, authority }
}

fn public_key(byte: u8) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from([byte; 32])).to_bytes()
}

fn net(text: &str) -> Subnet {
    let (address, len) = text.split_once('/').expect("a prefix");
    Subnet::new(address.parse().expect("an address"), len.parse().expect("a length")).expect("a prefix")
}

fn grant() -> Grant {
    Grant {
        public_key: public_key(7),
        node: label("alpha"),
        user: Some(label("alice")),
        tags: [label("db"), label("web")].into(),
        nets: [net("10.128.0.7/32"), net("fd00:128::/64")].into(),
    }
}

impl Group {
    fn issue(&self, grant: &Grant) -> Vec<u8> {
        grant.issue(&self.key, &self.name, serial(9), DAY).expect("a certificate")
    }

    fn verify(&self, der: &[u8], now: u64) -> Result<Member, CertificateError> {
        Member::verify(der, &self.authority, &public_key(7), now, None)
    }

    fn list(&self, number: u64, serials: &[u8]) -> Vec<u8> {
        let mut revoked: Vec<_> = serials.iter().map(|byte| (serial(*byte), NOW)).collect();
        revoked.sort();
        RevocationList { number, issued: NOW, revoked }.issue(&self.key, &self.name).expect("a list")
    }
}

#[test]
fn a_certificate_says_what_was_granted() {
    let lab = group(1, "lab");
    let member = lab.verify(&lab.issue(&grant()), NOW).expect("a member");
    assert_eq!(member.grant, grant());
    assert_eq!((member.serial, member.validity), (serial(9), DAY));
    assert_eq!(member.address(), crate::NodeAddress::of_key(&public_key(7)));
    assert_eq!(lab.authority.validity(), YEARS);
}

#[test]
fn a_certificate_with_all_that_the_format_allows_is_within_its_length() {
    let lab = group(1, &"g".repeat(LABEL_LEN_MAX));
    let long = |index: usize| label(&std::format!("{index:02}{}", "t".repeat(LABEL_LEN_MAX - 2)));
    let mut most = grant();
    most.node = long(0);
    most.tags = (0..TAGS_MAX).map(long).collect();
    most.nets = (0..NETS_MAX as u16)
        .map(|n| net(&std::format!("fd00:{n:x}:ffff:ffff:ffff:ffff:ffff:ffff/128")))
        .collect();
    most.nets.sort();
    let der = lab.issue(&most);
    assert!(der.len() <= CERTIFICATE_LEN_MAX, "{}", der.len());
    assert_eq!(lab.verify(&der, NOW).expect("a member").grant, most);
    most.tags.push(label("zz"));
    assert_eq!(most.issue(&lab.key, &lab.name, serial(9), DAY), Err(IssueError::TooMany));
}

#[test]
fn each_refusal_has_its_reason() {
    let lab = group(1, "lab");
    let der = lab.issue(&grant());
    assert_eq!(
        lab.verify(&der, DAY.not_before - 1),
        Err(CertificateError::NotYetValid { not_before: DAY.not_before })
    );
    assert!(lab.verify(&der, DAY.not_before).is_ok() && lab.verify(&der, DAY.not_after).is_ok());
    assert_eq!(
        lab.verify(&der, DAY.not_after + 1),
        Err(CertificateError::Expired { not_after: DAY.not_after })
    );
    let others = Member::verify(&der, &lab.authority, &public_key(8), NOW, None);
    assert_eq!(others, Err(CertificateError::WrongKey));
    assert_eq!(lab.verify(&[0; CERTIFICATE_LEN_MAX + 1], NOW), Err(CertificateError::Malformed));
}

#[test]
fn another_groups_certificate_is_refused_even_under_the_same_name() {
    let (lab, ours) = (group(1, "lab"), grant());
    for other in [group(2, "lab"), group(1, "bal"), group(2, "bal")] {
        assert_eq!(lab.verify(&other.issue(&ours), NOW), Err(CertificateError::WrongGroup));
        let list = RevocationList::open(&other.list(1, &[]), &lab.authority);
        assert_eq!(list, Err(RevocationError::WrongGroup));
        let document = Document { number: 1, issued: NOW, content: Vec::new() };
        let is_by_another_key = other.authority.public_key() != lab.authority.public_key();
        let opened = Document::open(&document.sign(&other.key).expect("bytes"), &lab.authority);
        assert_eq!(opened.is_none(), is_by_another_key);
    }
}

#[test]
fn a_member_is_no_authority_and_an_authority_no_member() {
    let lab = group(1, "lab");
    assert_eq!(Authority::parse(&lab.issue(&grant())), Err(AuthorityError));
    let own = lab.key.certify(&lab.name, serial(1), YEARS).expect("a certificate");
    assert_eq!(lab.verify(&own, NOW), Err(CertificateError::Malformed));
}

#[test]
fn every_changed_bit_of_a_certificate_is_noticed() {
    let lab = group(1, "lab");
    let der = lab.issue(&grant());
    for bit in 0..der.len() * 8 {
        let mut changed = der.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(lab.verify(&changed, NOW).is_err(), "bit {bit}");
    }
    for len in 0..der.len() {
        assert_eq!(lab.verify(&der[..len], NOW), Err(CertificateError::Malformed), "{len} bytes");
    }
}

#[test]
fn a_revoked_certificate_does_not_count_from_the_list_on() {
    let lab = group(1, "lab");
    let der = lab.issue(&grant());
    let verify = |serials: &[u8]| {
        let list = RevocationList::open(&lab.list(4, serials), &lab.authority).expect("a list");
        assert_eq!((list.number, list.issued, list.revoked.len()), (4, NOW, serials.len()));
        Member::verify(&der, &lab.authority, &public_key(7), NOW, Some(&list)).map(|_| ())
    };
    assert_eq!(verify(&[]), Ok(()));
    assert_eq!(verify(&[1, 8, 10]), Ok(()));
    assert_eq!(verify(&[1, 9, 10]), Err(CertificateError::Revoked));
}

#[test]
fn a_list_of_a_thousand_is_some_36_kb() {
    let lab = group(1, "lab");
    let mut revoked: Vec<_> = (0..1000u32)
        .map(|n| {
            let mut bytes = [3; 16];
            bytes[12..].copy_from_slice(&n.to_be_bytes());
            (Serial::from_random(bytes), NOW)
        })
        .collect();
    revoked.sort();
    let list = RevocationList { number: u64::MAX, issued: NOW, revoked };
    let der = list.issue(&lab.key, &lab.name).expect("a list");
    assert!((34_000..38_000).contains(&der.len()), "{}", der.len());
    assert_eq!(RevocationList::open(&der, &lab.authority), Ok(list));
}

#[test]
fn every_changed_bit_of_a_list_is_noticed() {
    let lab = group(1, "lab");
    let der = lab.list(4, &[1, 2]);
    for bit in 0..der.len() * 8 {
        let mut changed = der.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(RevocationList::open(&changed, &lab.authority).is_err(), "bit {bit}");
    }
}

#[test]
fn a_list_out_of_order_or_too_long_is_not_made() {
    let lab = group(1, "lab");
    let issue = |revoked| RevocationList { number: 1, issued: NOW, revoked }.issue(&lab.key, &lab.name);
    assert_eq!(issue([(serial(2), NOW), (serial(1), NOW)].into()), Err(IssueError::TooMany));
    assert_eq!(issue([(serial(2), NOW), (serial(2), NOW)].into()), Err(IssueError::TooMany));
}

#[test]
fn a_document_is_the_authoritys_and_of_one_number() {
    let lab = group(1, "lab");
    let document = Document { number: 5, issued: NOW, content: b"{\"rules\":[]}".to_vec() };
    let bytes = document.sign(&lab.key).expect("bytes");
    assert_eq!(Document::open(&bytes, &lab.authority), Some(document));
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Document::open(&changed, &lab.authority), None, "bit {bit}");
    }
    let long = Document { number: 5, issued: NOW, content: alloc::vec![0; document::CONTENT_LEN_MAX + 1] };
    assert_eq!(long.sign(&lab.key), None);
}

fn signed(body: &[u8]) -> Vec<u8> {
    let key = SigningKey::new(&StaticSecret::from([7; 32]));
    Request::sign(Purpose::Join, 1000 * NOW, "host.example/g/lab", body, &key).expect("a request")
}

#[test]
fn a_request_is_its_keys() {
    let bytes = signed(b"{}");
    let request = Request::open(&bytes).expect("a request");
    assert_eq!((request.purpose, request.public_key), (Purpose::Join, public_key(7)));
    assert_eq!((request.place.as_str(), request.body.as_slice()), ("host.example/g/lab", b"{}".as_slice()));
    assert!(request.is_timely(1000 * NOW + request::CLOCKS_APART_MS_MAX));
    assert!(!request.is_timely(1000 * NOW + request::CLOCKS_APART_MS_MAX + 1));
    assert!(!request.is_timely(0));
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Request::open(&changed).is_err(), "bit {bit}");
    }
    let mut newer = bytes;
    newer[4] = 2;
    assert_eq!(Request::open(&newer), Err(RequestError::Version(2)));
}

#[test]
fn a_label_has_one_spelling() {
    for good in ["a", "0", "web-1", "a--b", &"x".repeat(63)] {
        assert_eq!(Label::new(good).map(|label| label.to_string()).as_deref(), Ok(good));
    }
    assert_eq!(Label::new(""), Err(LabelError::Length));
    assert_eq!(Label::new(&"x".repeat(64)), Err(LabelError::Length));
    for bad in ["A", "a b", "a.b", "a/b", "a:b", "ä", "а", "a\0", "<b>", "a'"] {
        assert_eq!(Label::new(bad), Err(LabelError::Sign), "{bad}");
    }
    assert_eq!((Label::new("-a"), Label::new("a-")), (Err(LabelError::Hyphen), Err(LabelError::Hyphen)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_nothing_of_ours(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let lab = group(1, "lab");
        prop_assert!(Member::open(&bytes, &lab.authority).is_err());
        prop_assert!(Authority::parse(&bytes).is_err());
        prop_assert!(RevocationList::open(&bytes, &lab.authority).is_err());
        prop_assert!(Document::open(&bytes, &lab.authority).is_none());
        prop_assert!(Request::open(&bytes).is_err());
    }

    #[test]
    fn any_body_is_read_back(body in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(Request::open(&signed(&body)).expect("a request").body, body);
    }
}
