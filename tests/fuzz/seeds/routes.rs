//! Announcements of two routers.

use std::net::IpAddr;

use ipop_overlay::routes::{Announcement, Subnet};

use super::Inputs;

fn announcement(priority: u8, subnets: &[&str]) -> Vec<u8> {
    let subnet = |text: &&str| {
        let (address, len) = text.split_once('/').expect("a prefix");
        let address: IpAddr = address.parse().expect("an address");
        Subnet::new(address, len.parse().expect("a length")).expect("a length that an address has")
    };
    Announcement { priority, subnets: subnets.iter().map(subnet).collect() }.to_bytes()
}

/// Two announcements in one input, cut where the first one ends.
fn both(one: &[u8], two: &[u8]) -> Vec<u8> {
    let len = one.len() + two.len();
    let cut = (0..=255).find(|cut| len * usize::from(*cut) / 256 == one.len()).expect("short ones");
    [&[cut][..], one, two].concat()
}

pub(super) fn announcements() -> Inputs {
    let site = announcement(100, &["192.168.7.0/24", "fd07::/64"]);
    let wide = announcement(255, &["192.168.0.0/16"]);
    let exit = announcement(1, &["0.0.0.0/0", "::/0"]);
    let own =
        announcement(1, &["10.128.0.0/16", "10.128.3.4/32", "10.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4"]);
    let mut host_bits = site.clone();
    host_bits[19] = 1;
    let mut later = site.clone();
    later[0] = 2;
    let inputs = [
        ("the-same-twice", both(&site, &announcement(200, &["192.168.7.0/24"]))),
        ("overlapping", both(&wide, &site)),
        ("overlapping-younger", both(&site, &wide)),
        ("exits", both(&exit, &exit)),
        ("not-to-be-had", both(&own, &exit)),
        ("nested", both(&announcement(0, &["172.16.0.0/12", "172.16.3.0/24"]), &site)),
        ("nothing", both(&announcement(0, &[]), &site)),
        ("host-bits", both(&host_bits, &site)),
        ("another-version", both(&later, &site)),
    ];
    inputs.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}
