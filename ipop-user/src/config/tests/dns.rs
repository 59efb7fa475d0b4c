//! `[dns]`: what it means, and mistakes in it.

use super::*;

/// The example with a section of ours after `[datapath]`, whose first line is line 26.
fn with_dns(keys: &str) -> String {
    changed("security = \"clear-if-trusted\"\n", &format!("security = \"sealed\"\n[dns]\n{keys}\n"))
}

#[track_caller]
fn refuses_keys(keys: &str, message: &str) {
    assert_eq!(errors(&with_dns(keys)), message);
}

#[test]
fn every_key_is_taken_over() {
    let keys = r#"enabled = false
resolver = "resolv.conf"
forward = ["192.0.2.53", "[2001:db8::53]:5353", "127.0.0.1"]
serve = true
search = true
hosts = { Printer = ["10.128.0.9", "fd00:128::9"], "www.printer" = ["192.0.2.9"] }"#;
    let dns = parsed(&with_dns(keys)).config.dns;
    assert!(!dns.enabled && dns.serve && dns.search);
    assert_eq!(dns.resolver, Resolver::File);
    assert_eq!(format!("{:?}", dns.forward), "[192.0.2.53:53, [2001:db8::53]:5353, 127.0.0.1:53]");
    assert_eq!(
        format!("{:?}", dns.hosts),
        r#"{"printer": [10.128.0.9, fd00:128::9], "www.printer": [192.0.2.9]}"#
    );
    for (text, resolver) in [
        ("auto", Resolver::Auto),
        ("systemd-resolved", Resolver::Resolved),
        ("resolv.conf", Resolver::File),
        ("off", Resolver::Off),
    ] {
        assert_eq!(parsed(&with_dns(&format!("resolver = \"{text}\""))).config.dns.resolver, resolver);
    }
}

#[test]
fn services_have_names_and_ports() {
    let services = parsed(&with_dns("services = { \"_HTTP._tcp\" = 80 }")).config.dns.services;
    assert_eq!(format!("{services:?}"), r#"{"_http._tcp": 80}"#);
    for (keys, message) in [
        (
            "services = { http = 80 }",
            "t.toml:27:14: `http` cannot be a service in `dns.services`; write it like \"_http._tcp\"",
        ),
        (
            "services = { \"_http._tcp\" = 0 }",
            "t.toml:27:29: 0 is not a port; write the port of the service, 1 to 65535",
        ),
        (
            "services = { \"_a._tcp\" = 1, \"_A._tcp\" = 2 }",
            "t.toml:27:14: `_a._tcp` is there twice: the DNS knows no upper case; take one of them out",
        ),
    ] {
        refuses_keys(keys, message);
    }
}

#[test]
fn servers_are_addresses() {
    refuses_keys(
        "forward = [\"dns.example.org\"]",
        "t.toml:27:12: `dns.example.org` is not the address of a DNS server; \
         write one like 192.0.2.53, or 192.0.2.53:5353",
    );
    refuses_keys(
        "forward = [\"0.0.0.0\"]",
        "t.toml:27:12: `0.0.0.0` is the address of no host; list DNS servers that this host reaches",
    );
    refuses_keys(
        "forward = [\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\", \"192.0.2.4\", \"192.0.2.5\"]",
        "t.toml:27:64: more than 4 servers in `dns.forward`; take some out",
    );
    refuses_keys(
        "resolver = \"dnsmasq\"",
        "t.toml:27:12: `dns.resolver` has an unknown value; \
         use \"auto\", \"systemd-resolved\", \"resolv.conf\", \"off\"",
    );
}

#[test]
fn hosts_have_names_of_their_own_and_addresses() {
    let advice = "use 1 to 63 letters, digits, `.`, `_` and `-`, and not an IP address";
    for name in ["a b", ".a", "a..b", "10.0.0.1"] {
        refuses_keys(
            &format!("hosts = {{ \"{name}\" = [\"10.128.0.9\"] }}"),
            &format!("t.toml:27:11: `{name}` cannot be a name in `dns.hosts`; {advice}"),
        );
    }
    refuses_keys(
        "hosts = { Beta = [\"10.128.0.9\"] }",
        "t.toml:27:11: `Beta` is the name of the node in line 30; \
         it has that node's addresses: take it out, or rename it",
    );
    refuses_keys(
        "hosts = { printer = [\"10.128.0.9\"], Printer = [\"10.128.0.8\"] }",
        "t.toml:27:11: `printer` is there twice: the DNS knows no upper case; put its addresses into one list",
    );
    refuses_keys(
        "hosts = { printer = [] }",
        "t.toml:27:21: a name in `dns.hosts` has between 1 and 16 addresses; list them, like [\"10.128.0.9\"]",
    );
    refuses_keys(
        "hosts = { printer = [\"10.128.0.9/24\"] }",
        "t.toml:27:22: `10.128.0.9/24` is not an address; write it like 10.128.0.9 or fd00:128::9",
    );
    refuses_keys(
        "hosts = { printer = [\"127.0.0.1\"] }",
        "t.toml:27:22: `127.0.0.1` is a loopback address; list addresses of that host",
    );
}

#[test]
fn names_that_the_dns_does_not_tell_apart_are_warned_of() {
    assert_eq!(
        warnings(&changed("\"gamma\"", "\"BETA\"")),
        ["t.toml:34:8: peer name `BETA` is the same in the DNS as `beta`; \
             give it another: the DNS knows no upper case, and the first has the name"]
    );
    assert_eq!(
        warnings(&changed("\"gamma\"", "\"gamma.\"")),
        [
            "t.toml:34:8: peer name `gamma.` cannot be a name in the DNS; write no `.` at its ends and no two together"
        ]
    );
}
