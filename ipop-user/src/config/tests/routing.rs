//! `[routing]`: what it means, and mistakes in it.

use super::*;

const NODE: &str = "ipop:qlmpadkd6rsxkeuq4z5ept2gb4j6khhu";

/// The example with a section of ours after `[datapath]`, whose first line is line 26, as part of an overlay.
fn with_routing(keys: &str) -> String {
    let text =
        changed("security = \"clear-if-trusted\"\n", &format!("security = \"sealed\"\n[routing]\n{keys}\n"));
    text.replace("interfaces = [\"p1\"]\n", "bootstrap = []\n")
}

#[track_caller]
fn refuses_keys(keys: &str, message: &str) {
    assert_eq!(errors(&with_routing(keys)), message);
}

#[test]
fn every_key_is_taken_over() {
    let keys = format!(
        r#"announce = ["192.168.1.0/24", "fd01::/64", "0.0.0.0/0", "::/0"]
priority = 200
accept = [{{ prefix = "172.16.0.0/12" }}, {{ prefix = "fd02::/64", from = ["{NODE}"] }}]
exit_node = "{NODE}""#
    );
    let routing = parsed(&with_routing(&keys)).config.routing;
    assert_eq!(format!("{:?}", routing.announce), "[192.168.1.0/24, fd01::/64, 0.0.0.0/0, ::/0]");
    assert_eq!(routing.priority, 200);
    let node: NodeAddress = NODE.parse().unwrap();
    let [any, some] = &routing.accept[..] else { panic!("{routing:?}") };
    assert_eq!((any.prefix.to_string().as_str(), &any.from[..]), ("172.16.0.0/12", &[][..]));
    assert_eq!((some.prefix.to_string().as_str(), &some.from[..]), ("fd02::/64", &[node][..]));
    assert_eq!(routing.exit_node, Some(node));
    assert!(routing.takes());
}

#[test]
fn nothing_is_announced_or_taken_unless_it_is_written() {
    let routing = parsed(MINIMAL).config.routing;
    assert_eq!(
        routing,
        Routing {
            announce: Vec::new(),
            priority: defaults::ROUTING_PRIORITY,
            accept: Vec::new(),
            exit_node: None
        }
    );
    assert!(!routing.takes());
}

#[test]
fn what_is_announced_is_behind_this_node() {
    refuses_keys(
        "announce = [\"192.168.1.7/24\"]",
        "t.toml:27:13: `192.168.1.7/24` has bits set beyond its length; \
         write 192.168.1.0/24 for the network, or 192.168.1.7 for the one address",
    );
    refuses_keys(
        "announce = [\"site\"]",
        "t.toml:27:13: `site` is not an IP address or prefix; \
         write it like 10.128.0.2, 10.128.0.0/24 or fd00:128::/64",
    );
    for prefix in ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "fe80::/64", "ff02::/16"] {
        refuses_keys(
            &format!("announce = [\"{prefix}\"]"),
            &format!(
                "t.toml:27:13: `{prefix}` in `routing.announce` has addresses of no hosts elsewhere; \
                 announce networks that this node forwards to"
            ),
        );
    }
    for (prefix, own) in [("10.128.0.0/25", "10.128.0.0/24"), ("10.0.0.0/8", "10.128.0.0/24")] {
        refuses_keys(
            &format!("announce = [\"{prefix}\"]"),
            &format!(
                "t.toml:27:13: `{prefix}` in `routing.announce` overlaps the virtual network {own}; \
                 announce networks behind this node alone"
            ),
        );
    }
    refuses_keys(
        "announce = [\"192.168.0.0/16\"]",
        "t.toml:27:13: `192.168.0.0/16` in `routing.announce` overlaps `192.168.7.0/24` of peer `gamma`; \
         announce networks behind this node alone",
    );
    refuses_keys(
        "announce = [\"192.168.1.0/24\", \"192.168.1.0/24\"]",
        "t.toml:27:31: `192.168.1.0/24` is in `routing.announce` twice; take one out",
    );
    let many: Vec<String> = (0..33).map(|number| format!("\"172.16.{number}.0/24\"")).collect();
    let message = errors(&with_routing(&format!("announce = [{}]", many.join(", "))));
    assert!(
        message.ends_with(
            "more than 32 subnets in `routing.announce`; join them into shorter prefixes, or take some out"
        ),
        "{message}"
    );
    refuses_keys(
        "priority = 256",
        "t.toml:27:12: priority 256 is not between 0 and 255; \
         of several routers of one subnet, the one with the highest is used",
    );
}

#[test]
fn what_is_announced_is_not_the_pool_of_the_network() {
    let text = MINIMAL.replace(
        "addresses = [\"10.128.0.1/24\"]",
        "addresses = \"dhcp\"\nsecret = \"some long random text\"",
    );
    let with = |announced: &str| {
        format!("{text}[dhcp]\npool = \"10.128.0.0/16\"\n[routing]\nannounce = [\"{announced}\"]\n")
    };
    assert_eq!(errors(&with("192.168.1.0/24")), "no error");
    let message = errors(&with("10.128.7.0/24"));
    assert!(message.contains("overlaps the virtual network 10.128.0.0/16"), "{message}");
}

#[test]
fn what_is_taken_is_less_than_everything_and_from_nodes() {
    refuses_keys(
        "accept = [{ prefix = \"0.0.0.0/0\" }]",
        "t.toml:27:22: `0.0.0.0/0` in `routing.accept` is everything; name an exit node in `routing.exit_node`",
    );
    refuses_keys(
        "accept = [{ prefix = \"172.16.0.0/12\", from = [] }]",
        "t.toml:27:46: `from` in `routing.accept` has between 1 and 32 nodes; \
         leave it out to take the subnet from any member",
    );
    refuses_keys(
        "accept = [{ prefix = \"172.16.0.0/12\", from = [\"beta\"] }]",
        "t.toml:27:47: `beta` in `routing.accept` is not the address of a node; \
         write the `ipop:` address that `ipopctl status` shows on that node",
    );
    refuses_keys(
        "exit_node = \"beta\"",
        "t.toml:27:13: `beta` in `routing.exit_node` is not the address of a node; \
         write the `ipop:` address that `ipopctl status` shows on that node",
    );
    let many: Vec<String> =
        (0..65).map(|number| format!("{{ prefix = \"172.16.{number}.0/24\" }}")).collect();
    let message = errors(&with_routing(&format!("accept = [{}]", many.join(", "))));
    assert!(
        message.ends_with("more than 64 entries in `routing.accept`; join them into shorter prefixes"),
        "{message}"
    );
}

#[test]
fn subnets_travel_over_the_overlay() {
    let advice =
        "add `underlay.bootstrap` and `network.secret`, or list subnets in the `addresses` of a [[peer]]";
    for (keys, column) in [
        ("announce = [\"172.16.0.0/12\"]".to_owned(), 13),
        ("accept = [{ prefix = \"172.16.0.0/12\" }]".to_owned(), 11),
        (format!("exit_node = \"{NODE}\""), 13),
    ] {
        let text = with_routing(&keys).replace("bootstrap = []\n", "\n");
        assert_eq!(
            errors(&text),
            format!("t.toml:27:{column}: `[routing]` needs the overlay, and this node is in none; {advice}")
        );
    }
}
