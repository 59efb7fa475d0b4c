use std::sync::Arc;

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::dns::directory::{Hosts, Offer, Published};

fn zone() -> Zone {
    let networks = ["10.128.0.1/20", "fd00:128::1/64"].map(|text| text.parse().unwrap());
    Zone::new("demo", "alpha", &networks).unwrap()
}

/// What is published, and services.
struct Offering(Published);

impl Directory for Offering {
    async fn addresses(&self, host: &str) -> Result<Option<Vec<IpAddr>>, NoAnswer> {
        self.0.addresses(host).await
    }

    async fn name(&self, address: IpAddr) -> Result<Option<String>, NoAnswer> {
        self.0.name(address).await
    }

    async fn services(&self, service: &str) -> Result<Option<Vec<Offer>>, NoAnswer> {
        let offer = |priority, host: &str| Offer { priority, weight: 5, port: 80, host: host.to_owned() };
        Ok((service == "_http._tcp").then(|| vec![offer(0, "alpha"), offer(1, "www.shop")]))
    }

    fn serial(&self) -> u32 {
        self.0.serial()
    }
}

fn directory() -> Offering {
    let mut hosts = Hosts::new(7);
    let addresses =
        |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    hosts.insert("Alpha", addresses(&["10.128.0.1", "fd00:128::1"]));
    hosts.insert("printer", addresses(&["10.128.3.9", "192.0.2.9"]));
    hosts.insert("www.shop", addresses(&["10.128.3.10"]));
    hosts.insert("alias", addresses(&["10.128.3.9"]));
    Offering(Published(Arc::new(arc_swap::ArcSwap::from_pointee(hosts))))
}

/// Labels with dots between them; `_` is a space in one, `:` a dot, and `$` an underscore.
fn name_of(text: &str) -> Name {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let labels: Vec<String> =
        labels.map(|label| label.replace('_', " ").replace(':', ".").replace('$', "_")).collect();
    Name::from_labels(labels.iter().map(String::as_bytes)).unwrap()
}

/// As `dig +noall +comments +answer +authority` has it, shortened.
fn ask(name: &str, kind: RecordType) -> String {
    let name = name_of(name);
    let (zone, directory) = (zone(), directory());
    let answer = zone.answer(&name, kind, &directory).now_or_never().expect("it waits for nobody").unwrap();
    let Some(answer) = answer else { return "not ours".to_owned() };
    let show = |records: &[Record]| {
        let shown = |record: &Record| format!("{} {} {}", record.name, record.ttl, record.data);
        records.iter().map(shown).collect::<Vec<_>>().join(", ")
    };
    format!("{:?}: {} / {}", answer.code, show(&answer.answers), show(&answer.authorities))
}

const SOA: &str = "30 alpha.demo.ipop. hostmaster.demo.ipop. 7 3600 600 86400 30";

#[test]
fn hosts_have_their_addresses_by_family() {
    assert_eq!(ask("alpha.demo.ipop.", RecordType::A), "NoError: alpha.demo.ipop. 30 10.128.0.1 / ");
    assert_eq!(ask("ALPHA.Demo.IPOP.", RecordType::AAAA), "NoError: ALPHA.Demo.IPOP. 30 fd00:128::1 / ");
    assert_eq!(
        ask("alpha.demo.ipop.", RecordType::ANY),
        "NoError: alpha.demo.ipop. 30 10.128.0.1, alpha.demo.ipop. 30 fd00:128::1 / "
    );
}

#[test]
fn services_lead_to_the_hosts_that_offer_them() {
    assert_eq!(
        ask("_HTTP._tcp.demo.ipop.".replace('_', "$").as_str(), RecordType::SRV),
        "NoError: _HTTP._tcp.demo.ipop. 30 0 5 80 alpha.demo.ipop., \
         _HTTP._tcp.demo.ipop. 30 1 5 80 www.shop.demo.ipop. / "
    );
    assert_eq!(ask("$http.$tcp.demo.ipop.", RecordType::A), format!("NoError:  / demo.ipop. {SOA}"));
    assert_eq!(ask("$ftp.$tcp.demo.ipop.", RecordType::SRV), format!("NXDomain:  / demo.ipop. {SOA}"));
    assert_eq!(ask("$http.demo.ipop.", RecordType::SRV), format!("NXDomain:  / demo.ipop. {SOA}"));
    let is_one = ["_http._tcp", "_x._udp"].map(is_service);
    let is_none =
        ["_http", "http._tcp", "_http.tcp", "_._tcp", "a._http._tcp", "_http._tcp.a", ""].map(is_service);
    assert!(is_one == [true; 2] && is_none == [false; 7], "{is_one:?} {is_none:?}");
}

#[test]
fn what_is_not_there_says_so_and_for_how_long() {
    assert_eq!(ask("nobody.demo.ipop.", RecordType::A), format!("NXDomain:  / demo.ipop. {SOA}"));
    assert_eq!(ask("printer.demo.ipop.", RecordType::AAAA), format!("NoError:  / demo.ipop. {SOA}"));
    assert_eq!(ask("printer.demo.ipop.", RecordType::TXT), format!("NoError:  / demo.ipop. {SOA}"));
    // RFC 8020: a name with others below it is there.
    assert_eq!(ask("shop.demo.ipop.", RecordType::A), format!("NoError:  / demo.ipop. {SOA}"));
    // A dot within a label is none between two.
    assert_eq!(ask("www:shop.demo.ipop.", RecordType::A), format!("NXDomain:  / demo.ipop. {SOA}"));
    assert_eq!(ask("a_b.demo.ipop.", RecordType::A), format!("NXDomain:  / demo.ipop. {SOA}"));
}

#[test]
fn the_top_of_the_zone_has_a_soa_and_a_name_server() {
    assert_eq!(ask("demo.ipop.", RecordType::SOA), format!("NoError: demo.ipop. {SOA} / "));
    assert_eq!(ask("demo.ipop.", RecordType::NS), "NoError: demo.ipop. 30 alpha.demo.ipop. / ");
    assert_eq!(ask("demo.ipop.", RecordType::A), format!("NoError:  / demo.ipop. {SOA}"));
    let apex = "3.128.10.in-addr.arpa.";
    assert_eq!(ask(apex, RecordType::SOA), format!("NoError: {apex} {SOA} / "));
}

#[test]
fn addresses_have_the_names_of_their_hosts() {
    assert_eq!(
        ask("1.0.128.10.in-addr.arpa.", RecordType::PTR),
        "NoError: 1.0.128.10.in-addr.arpa. 30 alpha.demo.ipop. / "
    );
    assert_eq!(
        ask("10.3.128.10.in-addr.arpa.", RecordType::PTR),
        "NoError: 10.3.128.10.in-addr.arpa. 30 www.shop.demo.ipop. / "
    );
    // The first that had it.
    assert_eq!(
        ask("9.3.128.10.in-addr.arpa.", RecordType::PTR),
        "NoError: 9.3.128.10.in-addr.arpa. 30 printer.demo.ipop. / "
    );
    let six = format!("1.{}8.2.1.0.0.0.d.f.ip6.arpa.", "0.".repeat(23));
    assert_eq!(ask(&six, RecordType::PTR), format!("NoError: {six} 30 alpha.demo.ipop. / "));
    let nobody = "77.15.128.10.in-addr.arpa.";
    assert_eq!(ask(nobody, RecordType::PTR), format!("NXDomain:  / 15.128.10.in-addr.arpa. {SOA}"));
    // A known host's, outside of the network; and nobody's.
    assert_eq!(
        ask("9.2.0.192.in-addr.arpa.", RecordType::PTR),
        "NoError: 9.2.0.192.in-addr.arpa. 30 printer.demo.ipop. / "
    );
    assert_eq!(ask("8.2.0.192.in-addr.arpa.", RecordType::PTR), "not ours");
    assert_eq!(ask("77.16.128.10.in-addr.arpa.", RecordType::PTR), "not ours");
    assert_eq!(ask("128.10.in-addr.arpa.", RecordType::PTR), "not ours");
    assert_eq!(ask("007.0.128.10.in-addr.arpa.", RecordType::PTR), "not ours");
}

#[test]
fn names_of_elsewhere_are_for_others() {
    for name in [".", "ipop.", "other.ipop.", "example.org.", "xdemo.ipop.", "arpa.", "in-addr.arpa."] {
        assert_eq!(ask(name, RecordType::A), "not ours", "{name}");
    }
}

#[test]
fn a_resolver_is_told_all_reverse_names_of_a_network() {
    let reverse = |networks: &[&str]| {
        let networks: Vec<Prefix> = networks.iter().map(|text| text.parse().unwrap()).collect();
        Zone::new("demo", "alpha", &networks).unwrap().reverse_domains()
    };
    assert_eq!(reverse(&["10.128.7.1/24"]), ["7.128.10.in-addr.arpa"]);
    assert_eq!(
        reverse(&["10.128.0.1/22", "fd00:128::1/64"])[..],
        [
            "0.128.10.in-addr.arpa",
            "1.128.10.in-addr.arpa",
            "2.128.10.in-addr.arpa",
            "3.128.10.in-addr.arpa",
            "0.0.0.0.0.0.0.0.8.2.1.0.0.0.d.f.ip6.arpa"
        ]
    );
    assert_eq!(reverse(&["10.128.0.1/32"]), ["1.0.128.10.in-addr.arpa"]);
    assert_eq!(reverse(&["10.128.0.1/9"]), Vec::<String>::new(), "128 of them are too many");
}

#[test]
fn names_that_the_dns_cannot_have_are_refused() {
    assert_eq!(
        Zone::new("a..b", "alpha", &[]).unwrap_err().to_string(),
        "`a..b` cannot be part of a name in the DNS"
    );
    assert_eq!(Zone::new("a.b", "n.1", &[]).unwrap().domain(), "a.b.ipop");
}

proptest! {
    #[test]
    fn the_reverse_of_an_address_is_that_address(bits: u128, is_v4: bool, len in 0u8..=32) {
        let address: IpAddr = match is_v4 {
            true => Ipv4Addr::from_bits(bits as u32).into(),
            false => Ipv6Addr::from_bits(bits).into(),
        };
        prop_assert_eq!(reverse(&reverse_top(address, width(address))), Some((address, width(address))));
        let len = len.min(width(address) / step(address)) * step(address);
        let network = Prefix::new(address, len).unwrap().network();
        prop_assert_eq!(reverse(&reverse_top(address, len)), Some((network.addr(), len)));
    }
}
