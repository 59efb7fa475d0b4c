//! `addresses = "dhcp"` and `[dhcp]`.

use super::*;

const LEASED: &str = r#"
[node]
name = "alpha"
key_file = "/etc/ipop/key"
[network]
name = "demo"
secret = "some long random text"
addresses = "dhcp"
[dhcp]
"#;
const OWNER: &str = "ipop:xik72ueizen6orm4tvz3tovov2is7ii4";

fn dhcp(lines: &str) -> Dhcp {
    parsed(&format!("{LEASED}{lines}")).config.dhcp.unwrap_or_else(|| panic!("no [dhcp]"))
}

#[track_caller]
fn refused(lines: &str, expected: &str) {
    assert_eq!(errors(&format!("{LEASED}{lines}\n")), expected);
}

#[test]
fn a_pool_is_a_network_with_what_is_said_of_it() {
    assert_eq!(dhcp(""), Dhcp::default());
    assert_eq!(parsed(&LEASED.replace("[dhcp]\n", "")).config.dhcp, Some(Dhcp::default()));
    assert_eq!(parsed(MINIMAL).config.dhcp, None);
    let pool = dhcp("pool = \"10.128.0.0/16\"").pool.unwrap();
    assert_eq!((pool.prefix_len(), pool.lease_s(), pool.size()), (16, defaults::LEASE_S, 65_534));
    let whole = dhcp(&format!(
        "pool = \"10.128.0.0/24\"\nlease_s = 60\nipv6 = \"fd00:128::/64\"\naddress = \"10.128.0.7\"\n\
         reserved = {{ \"10.128.0.5\" = \"{OWNER}\" }}"
    ));
    let pool = whole.pool.unwrap();
    assert_eq!(pool.stateless_network(), Some("fd00:128::".parse().unwrap()));
    assert_eq!(pool.reserved().map(|(_, owner)| owner.to_string()).collect::<Vec<_>>(), [OWNER]);
    assert_eq!((pool.lease_s(), whole.address), (60, Some("10.128.0.7".parse().unwrap())));
    // Whoever does not know the pool may still want one address of it.
    assert_eq!(dhcp("address = \"fd00::7\"").address, Some("fd00::7".parse().unwrap()));
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    for (lines, expected) in [
        (
            "pool = \"10.128.0.1/16\"",
            "t.toml:10:8: `10.128.0.1/16` is an address in a network, and a pool is a network; write 10.128.0.0/16",
        ),
        (
            "pool = \"10.128.0.1/32\"",
            "t.toml:10:8: `10.128.0.1/32` has no addresses to lease; write the network, like \"10.128.0.0/16\" or \"fd00:128::/112\"",
        ),
        (
            "pool = \"224.0.0.0/8\"",
            "t.toml:10:8: `224.0.0.0/8` is a multicast address; write the network, like \"10.128.0.0/16\" or \"fd00:128::/112\"",
        ),
        (
            "pool = \"10.128.0.0/16\"\nlease_s = 59",
            "t.toml:11:11: a lease lasts from 60 to 86400 seconds; write `lease_s = 3600`",
        ),
        (
            "pool = \"10.128.0.0/16\"\nlease_s = -1",
            "t.toml:11:11: a lease lasts from 60 to 86400 seconds; write `lease_s = 3600`",
        ),
        (
            "pool = \"10.128.0.0/16\"\nipv6 = \"fd00::/48\"",
            "t.toml:11:8: `fd00::/48` is not an IPv6 network of 64 bits beside the pool; write one like \"fd00:128::/64\"",
        ),
        (
            "pool = \"10.128.0.0/16\"\nipv6 = \"10.0.0.0/8\"",
            "t.toml:11:8: `10.0.0.0/8` is not an IPv6 network of 64 bits beside the pool; write one like \"fd00:128::/64\"",
        ),
        (
            "pool = \"10.128.0.0/16\"\naddress = \"10.129.0.1\"",
            "t.toml:11:11: `10.129.0.1` is not an address of the pool; write one of the pool, or none",
        ),
        (
            "address = \"10.128.0.0/16\"",
            "t.toml:10:11: `10.128.0.0/16` is a network, and an address is wanted; write it without a length",
        ),
        ("address = \"127.0.0.1\"", "t.toml:10:11: `127.0.0.1` is a loopback address; write a host's"),
        (
            "lease_s = 600",
            "t.toml:10:11: this is said of a pool, and [dhcp] has none; add `pool = ...`, or leave it to the node that describes the network",
        ),
        (
            "pool = \"10.128.0.0/16\"\nreserved = { \"10.128.0.5\" = \"beta\" }",
            "t.toml:11:29: `beta` is not the address of a node; write it as `ipopctl status` shows it on that node, like ipop:...",
        ),
        ("pols = 1", "t.toml:10:1: unknown key `pols` in [dhcp]; did you mean `pool`?"),
    ] {
        refused(lines, expected);
    }
    let outside = format!("pool = \"10.128.0.0/16\"\nreserved = {{ \"10.1.0.5\" = \"{OWNER}\" }}");
    assert!(
        errors(&format!("{LEASED}{outside}")).contains("addresses that are not the pool's, or more than")
    );
}

#[test]
fn leases_are_for_nodes_of_an_overlay_without_addresses() {
    let listed = format!("{MINIMAL}[dhcp]\npool = \"10.128.0.0/16\"\n");
    assert!(
        errors(&listed).contains("[dhcp] is for nodes without addresses of their own"),
        "{}",
        errors(&listed)
    );
    let alone = LEASED.replace("secret = \"some long random text\"\n", "");
    assert!(errors(&alone).contains("addresses = \"dhcp\" needs the overlay"), "{}", errors(&alone));
    let peer = format!(
        "{LEASED}[[peer]]\nname = \"beta\"\npublic_key = \"{KEY_BETA}\"\naddresses = [\"10.128.0.2\"]\n"
    );
    assert!(errors(&peer).contains("needs the overlay"), "{}", errors(&peer));
    parsed(&format!("{peer}[underlay]\nbootstrap = []\n"));
}
