//! Every message about a mistake, word for word.

use std::os::unix::fs::OpenOptionsExt;

use proptest::prelude::*;

use super::*;

const KEY_BETA: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const KEY_GAMMA: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

/// The example of the documentation. The tests of mistakes change one thing in it.
const EXAMPLE: &str = r#"[node]
name = "alpha"
key_file = "alpha.key"
state_dir = "/var/lib/alpha"
control_socket = "/run/alpha.sock"
metrics = "127.0.0.1:9100"

[network]
name = "demo"
secret = "some long random text"
mode = "l3"
device = "ipop1"
addresses = ["10.128.0.1/24", "fd00:128::1/64"]
mtu = 1400

[underlay]
listen = ["udp://0.0.0.0:15000", "udp://[::]:15000"]
interfaces = ["p1"]
trusted = ["10.200.0.0/24"]

[datapath]
kernel = "on"
xdp = "native"
io = "io_uring"
security = "clear-if-trusted"

[[peer]]
name = "beta"
public_key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
addresses = ["10.128.0.2/32", "fd00:128::2"]
endpoint = "udp://10.200.0.2:15000"

[[peer]]
name = "gamma"
public_key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
addresses = ["10.128.0.3", "192.168.7.0/24"]
"#;

const MINIMAL: &str = r#"
[node]
name = "alpha"
key_file = "/etc/ipop/key"
[network]
name = "demo"
addresses = ["10.128.0.1/24"]
"#;

fn parsed(text: &str) -> Loaded {
    parse(text, Path::new("/etc/ipop/t.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(text: &str) -> String {
    parse(text, Path::new("t.toml"))
        .map(|_| "no error".to_owned())
        .unwrap_or_else(|errors| errors.to_string())
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = parse(text, Path::new("t.toml")).unwrap_or_else(|errors| panic!("{errors}"));
    loaded.warnings.iter().map(Problem::to_string).collect()
}

/// The example with one piece replaced, which must be there exactly once.
fn changed(from: &str, to: &str) -> String {
    assert_eq!(EXAMPLE.matches(from).count(), 1, "{from}");
    EXAMPLE.replace(from, to)
}

/// Checks the message for one change to the example.
#[track_caller]
fn refuses(from: &str, to: &str, message: &str) {
    assert_eq!(errors(&changed(from, to)), message);
}

#[test]
fn the_example_means_what_it_says() {
    let Loaded { config, warnings } = parsed(EXAMPLE);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.node.name, "alpha");
    assert_eq!(config.node.key_file, Path::new("/etc/ipop/alpha.key"));
    assert_eq!(config.node.state_dir, Path::new("/var/lib/alpha"));
    assert_eq!(config.node.metrics, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(config.network.secret.as_ref().unwrap().expose(), b"some long random text");
    assert_eq!(config.network.device.as_str(), "ipop1");
    assert_eq!(format!("{:?}", config.network.addresses), "[10.128.0.1/24, fd00:128::1/64]");
    assert_eq!(config.network.mtu, Mtu::Bytes(1400));
    assert_eq!(format!("{:?}", config.underlay.listen), "[0.0.0.0:15000, [::]:15000]");
    assert_eq!(format!("{:?}", config.underlay.interfaces), r#"Some(["p1"])"#);
    assert!(config.underlay.trusts("10.200.0.2".parse().unwrap()));
    assert!(!config.underlay.trusts("10.201.0.2".parse().unwrap()));
    assert_eq!(config.datapath, Datapath { kernel: Kernel::On, xdp: Xdp::Native, io: Io::IoUring });
    let [beta, gamma] = &config.peers[..] else { panic!("{:?}", config.peers) };
    assert_eq!((beta.name.as_str(), beta.line), ("beta", 27));
    assert_eq!(beta.public_key.to_string(), KEY_BETA);
    assert_eq!(format!("{:?}", beta.addresses), "[10.128.0.2/32, fd00:128::2/128]");
    assert_eq!(beta.endpoint, Some(Endpoint::Address("10.200.0.2:15000".parse().unwrap())));
    assert_eq!(gamma.public_key.to_string(), KEY_GAMMA);
    assert_eq!(gamma.endpoint, None);
}

#[test]
fn what_the_file_leaves_out_has_the_documented_defaults() {
    let config = parsed(MINIMAL).config;
    assert_eq!(config.node.state_dir, Path::new(defaults::STATE_DIR));
    assert_eq!(config.node.control_socket, Path::new(defaults::CONTROL_SOCKET));
    assert_eq!(config.node.metrics, None);
    assert_eq!(config.network.secret, None);
    assert_eq!(config.network.device.as_str(), defaults::DEVICE);
    assert_eq!(config.network.mtu, defaults::MTU);
    assert_eq!(format!("{:?}", config.underlay.listen), "[0.0.0.0:15000, [::]:15000]");
    assert_eq!(config.underlay.interfaces, None);
    assert!(config.underlay.trusted.is_empty() && config.underlay.bootstrap.is_empty());
    assert_eq!(config.datapath, Datapath { kernel: defaults::KERNEL, xdp: defaults::XDP, io: defaults::IO });
    assert!(config.peers.is_empty());
    // The defaults that are texts are values of the language.
    let spelled_out = MINIMAL.to_owned()
        + &format!("mode = \"{}\"\n[datapath]\nsecurity = \"{}\"\n", defaults::MODE, defaults::SECURITY);
    assert_eq!(parsed(&spelled_out).config, config);
}

#[test]
fn secrets_are_not_in_the_debug_form() {
    let text = format!("{:?}", parsed(EXAMPLE));
    assert!(!text.contains("some long random text"), "{text}");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    refuses(
        "name = \"alpha\"",
        "naem = \"alpha\"",
        "t.toml:2:1: unknown key `naem` in [node]; did you mean `name`?",
    );
    refuses("mtu =", "mtuu =", "t.toml:14:1: unknown key `mtuu` in [network]; did you mean `mtu`?");
    refuses(
        "endpoint =",
        "end_point =",
        "t.toml:31:1: unknown key `end_point` in [[peer]]; did you mean `endpoint`?",
    );
    refuses(
        "io =",
        "colour =",
        "t.toml:24:1: unknown key `colour` in [datapath]; known here: `kernel`, `xdp`, `io`, `security`",
    );
    refuses(
        "[underlay]",
        "[underly]",
        "t.toml:16:2: unknown section or key `underly`; did you mean [underlay]?",
    );
    refuses(
        "[underlay]",
        "[wireguard]",
        "t.toml:16:2: unknown section or key `wireguard`; \
         known here: [node], [network], [underlay], [datapath], [[peer]]",
    );
}

#[test]
fn syntax_errors_name_the_place() {
    refuses(
        "mtu = 1400",
        "mtu =",
        "t.toml:14:6: not TOML: string values must be quoted, expected literal string; mend the syntax",
    );
    refuses("mtu = 1400", "mtu = 1\nmtu = 2", "t.toml:15:1: not TOML: duplicate key; mend the syntax");
    assert_eq!(errors("[node\n"), "t.toml:1:6: not TOML: unclosed table, expected `]`; mend the syntax");
}

#[test]
fn missing_keys_and_sections_are_named() {
    assert_eq!(errors(""), "t.toml:1:1: section [node] is missing; add it; `ipopctl init` writes an example");
    refuses("name = \"alpha\"\n", "", "t.toml:1:1: [node] lacks the key `name`; add `name = ...`");
    refuses(
        "public_key = \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"\n",
        "",
        "t.toml:27:1: [[peer]] lacks the key `public_key`; add `public_key = ...`",
    );
    refuses(
        "secret = \"some long random text\"\n",
        "",
        "t.toml:8:1: [network] lacks the key `secret`, which peers need; \
         add `secret = ...`, the same 16 or more characters on every node",
    );
}

#[test]
fn wrong_types_are_named() {
    refuses(
        "name = \"alpha\"",
        "name = 5",
        "t.toml:2:8: `node.name` must be a string; put the value in quotes",
    );
    refuses("[\"p1\"]", "\"p1\"", "t.toml:18:14: `underlay.interfaces` must be a list; put the value in [ ]");
    refuses(
        "[\"p1\"]",
        "[\"p1\", 7]",
        "t.toml:18:21: `underlay.interfaces` must be a string; put the value in quotes",
    );
    refuses(
        "io = \"io_uring\"",
        "io = 3",
        "t.toml:24:6: `datapath.io` must be a string; put the value in quotes",
    );
    refuses(
        "mtu = 1400",
        "mtu = \"big\"",
        "t.toml:14:7: `network.mtu` must be \"auto\" or a number of bytes; mend the value",
    );
    refuses(
        "mtu = 1400",
        "mtu = 99999999999999999999",
        "t.toml:14:7: `network.mtu` must be \"auto\" or a number of bytes; mend the value",
    );
    refuses(
        "addresses = [\"10.128.0.1/24\", \"fd00:128::1/64\"]",
        "addresses = \"static\"",
        "t.toml:13:13: `network.addresses` must be a list like [\"10.128.0.1/24\"]; mend the value",
    );
    refuses(
        "\"10.128.0.3\"",
        "103",
        "t.toml:36:14: `peer.addresses` must be a string; put the value in quotes",
    );
    assert_eq!(
        errors("node = 5"),
        "t.toml:1:8: `node` must be a section; write it as a [section] of its own"
    );
    assert_eq!(
        errors(&(MINIMAL.to_owned() + "[peer]\nname = \"beta\"")),
        "t.toml:8:1: `peer` must be one or more sections; write [[peer]], in two pairs of brackets"
    );
}

#[test]
fn a_secret_of_the_wrong_type_is_not_repeated() {
    let message = errors(&changed("\"some long random text\"", "31415926535897932"));
    assert_eq!(message, "t.toml:10:10: `network.secret` must be a string; put the value in quotes");
}

#[test]
fn unknown_values_are_refused_with_the_known_ones() {
    refuses(
        "kernel = \"on\"",
        "kernel = \"maybe\"",
        "t.toml:22:10: `datapath.kernel` has an unknown value; use \"auto\", \"on\", \"off\"",
    );
    refuses("\"l3\"", "\"l4\"", "t.toml:11:8: `network.mode` has an unknown value; use \"l3\", \"l2\"");
}

#[test]
fn what_comes_with_later_versions_says_so() {
    refuses("\"l3\"", "\"l2\"", "t.toml:11:8: mode \"l2\" is not in this version; use \"l3\"");
    refuses(
        "addresses = [\"10.128.0.1/24\", \"fd00:128::1/64\"]",
        "addresses = \"dhcp\"",
        "t.toml:13:13: addresses = \"dhcp\" is not in this version; \
         list this node's addresses, like [\"10.128.0.1/24\"]",
    );
    refuses(
        "\"clear-if-trusted\"",
        "\"sealed\"",
        "t.toml:25:12: security \"sealed\" is not in this version; \
         use \"clear-if-trusted\", and list in `underlay.trusted` only networks that you trust",
    );
    refuses(
        "udp://10.200.0.2:15000",
        "tcp://10.200.0.2:15000",
        "t.toml:31:12: `tcp://` is not in this version; use udp://, the only transport so far",
    );
}

#[test]
fn names_are_short_and_plain() {
    for name in ["", "a b", "10.0.0.1", "naïve", "a/b", &"n".repeat(64)] {
        refuses(
            "\"alpha\"",
            &format!("\"{name}\""),
            &format!(
                "t.toml:2:8: `{name}` cannot be a `node.name`; \
                 use 1 to 63 letters, digits, `.`, `_` and `-`, and not an IP address"
            ),
        );
    }
    refuses(
        "\"beta\"",
        r#""be\u001b[2Jta""#,
        "t.toml:28:8: `be\\u{1b}[2Jta` cannot be a `peer.name`; \
         use 1 to 63 letters, digits, `.`, `_` and `-`, and not an IP address",
    );
}

#[test]
fn paths_are_paths() {
    refuses("\"alpha.key\"", "\"\"", "t.toml:3:12: `node.key_file` is not a path; write the path of a file");
    refuses(
        "\"/run/alpha.sock\"",
        &format!("\"/{}\"", "s".repeat(107)),
        "t.toml:5:18: the path of a socket has at most 107 bytes; choose a shorter one, like /run/ipop/ipopd.sock",
    );
    refuses(
        "\"127.0.0.1:9100\"",
        "\"9100\"",
        "t.toml:6:11: `9100` is not an address and port for metrics; write one like 127.0.0.1:9100 or [::1]:9100",
    );
}

#[test]
fn secrets_are_long() {
    refuses(
        "\"some long random text\"",
        "\"fifteen letters\"",
        "t.toml:10:10: `network.secret` has fewer than 16 characters; \
         use a long random one; `ipopctl init` writes one",
    );
    parsed(&changed("\"some long random text\"", "\"sixteen letters!\""));
}

#[test]
fn device_names_leave_room_for_a_suffix() {
    refuses(
        "\"ipop1\"",
        "\"ipop1234567\"",
        "t.toml:12:10: device name `ipop1234567` is longer than 10 bytes; use at most 10 bytes, like `ipop0`",
    );
    parsed(&changed("\"ipop1\"", "\"ipop123456\""));
    refuses("\"ipop1\"", "\"\"", "t.toml:12:10: device name `` is empty; use at most 10 bytes, like `ipop0`");
    for name in ["a/b", "a b", "..", "a:b", "ip%d"] {
        refuses(
            "\"ipop1\"",
            &format!("\"{name}\""),
            &format!(
                "t.toml:12:10: device name `{name}` has a `/`, `:`, `%` or space in it, or is dots alone; \
                 use at most 10 bytes, like `ipop0`"
            ),
        );
    }
}

#[test]
fn own_addresses_are_addresses_of_a_host() {
    let own = |text: &str, message: &str| refuses("\"10.128.0.1/24\"", text, message);
    own(
        "\"10.128.0.0/24\"",
        "t.toml:13:14: `10.128.0.0/24` is a network, and this node needs an address in it; write one like 10.128.0.1/24",
    );
    own(
        "\"0.0.0.0/0\"",
        "t.toml:13:14: `0.0.0.0/0` is the address of no host; give this node an address of its own",
    );
    own(
        "\"127.0.0.1/8\"",
        "t.toml:13:14: `127.0.0.1/8` is a loopback address; give this node an address of its own",
    );
    own(
        "\"ff02::1/64\"",
        "t.toml:13:14: `ff02::1/64` is a multicast address; give this node an address of its own",
    );
    own(
        "\"10.128.0/24\"",
        "t.toml:13:14: `10.128.0/24` is not an IP address or prefix; \
         write it like 10.128.0.2, 10.128.0.0/24 or fd00:128::/64",
    );
    own(
        "\"10.128.0.1/33\"",
        "t.toml:13:14: prefix length of `10.128.0.1/33` is over 32; write a length that the address has bits for",
    );
    own(
        "\"::ffff:10.128.0.1\"",
        "t.toml:13:14: `::ffff:10.128.0.1` is an IPv4 address in IPv6 clothes; write it as IPv4",
    );
    own(
        "\"10.128.0.1/24\", \"10.128.0.1/16\"",
        "t.toml:13:31: `10.128.0.1` is listed twice; take one of them out",
    );
    refuses(
        "addresses = [\"10.128.0.1/24\", \"fd00:128::1/64\"]",
        "addresses = []",
        "t.toml:13:13: `network.addresses` is empty; give this node an address, like \"10.128.0.1/24\"",
    );
    // Both addresses of a prefix of two are hosts.
    parsed(&changed("\"10.128.0.1/24\"", "\"10.9.0.0/31\""));
}

#[test]
fn the_mtu_is_within_bounds() {
    for mtu in ["575", "65536", "-1"] {
        refuses(
            "1400",
            mtu,
            &format!("t.toml:14:7: mtu {mtu} is not between 576 and 65535; use \"auto\", which is exact"),
        );
    }
    refuses(
        "1400",
        "1279",
        "t.toml:14:7: mtu 1279 is too small for the IPv6 addresses of this node; use \"auto\" or at least 1280",
    );
    assert_eq!(parsed(&(MINIMAL.to_owned() + "mtu = 576")).config.network.mtu, Mtu::Bytes(576));
    assert_eq!(parsed(&changed("1400", "65535")).config.network.mtu, Mtu::Bytes(65_535));
}

#[test]
fn listening_addresses_can_be_bound_together() {
    let listen = |text: &str, message: &str| {
        refuses("[\"udp://0.0.0.0:15000\", \"udp://[::]:15000\"]", text, message);
    };
    listen(
        "[]",
        "t.toml:17:10: `underlay.listen` is empty; \
         list an address like \"udp://0.0.0.0:15000\", or take the key out for the default",
    );
    listen(
        "[\"node:15000\"]",
        "t.toml:17:11: `node:15000` is not an address and port to listen on; \
         write address:port, like udp://0.0.0.0:15000 or udp://[::]:15000",
    );
    listen(
        "[\"udp://10.0.0.1:4790\"]",
        "t.toml:17:11: port 4790 belongs to the kernel path; choose another port, like 15000",
    );
    listen(
        "[\"0.0.0.0:7\", \"10.0.0.1:7\"]",
        "t.toml:17:24: `10.0.0.1:7` cannot be bound beside `0.0.0.0:7`; take one of them out",
    );
    listen(
        "[\"10.0.0.1:7\", \"udp://10.0.0.1:7\"]",
        "t.toml:17:25: `10.0.0.1:7` cannot be bound beside `10.0.0.1:7`; take one of them out",
    );
    parsed(&changed("\"udp://0.0.0.0:15000\"", "\"10.0.0.1:7\", \"10.0.0.2:7\", \"10.0.0.1:8\""));
}

#[test]
fn interfaces_are_named_once() {
    refuses(
        "[\"p1\"]",
        "[]",
        "t.toml:18:14: `underlay.interfaces` is empty; \
         list interfaces, or take the key out to use those on the routes to the peers",
    );
    refuses(
        "[\"p1\"]",
        "[\"p1\", \"p1\"]",
        "t.toml:18:21: interface `p1` is listed twice; take one of them out",
    );
    refuses(
        "[\"p1\"]",
        "[\"sixteen-bytes-xx\"]",
        "t.toml:18:15: interface name `sixteen-bytes-xx` is longer than 15 bytes; `ip link` lists the names",
    );
}

#[test]
fn trusted_networks_are_networks() {
    refuses(
        "10.200.0.0/24",
        "10.200.0.1/24",
        "t.toml:19:12: `10.200.0.1/24` has bits set beyond its length; \
         write 10.200.0.0/24 for the network, or 10.200.0.1 for the one address",
    );
    assert!(parsed(&changed("10.200.0.0/24", "10.200.0.2")).warnings.is_empty());
}

#[test]
fn bootstrap_endpoints_are_checked_and_said_to_be_unused() {
    let with = |list: &str| changed("interfaces = [\"p1\"]", &format!("bootstrap = {list}"));
    assert_eq!(
        errors(&with("[\"seed.example.org\"]")),
        "t.toml:18:14: `seed.example.org` has no port; \
         write host:port, like 192.0.2.7:15000, [2001:db8::7]:15000 or node.example.org:15000"
    );
    assert_eq!(
        warnings(&with("[\"udp://seed.example.org:15000\"]")),
        ["t.toml:18:13: `underlay.bootstrap` is not used by this version; list every peer as a [[peer]]"]
    );
}

#[test]
fn peers_have_keys_addresses_and_endpoints() {
    for bad in ["", "hello", &KEY_BETA[..43], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        refuses(
            KEY_BETA,
            bad,
            "t.toml:29:14: `peer.public_key` is not the base64 of a public key; \
             paste what `ipopctl key pub FILE` prints on that node",
        );
    }
    refuses(
        "[\"10.128.0.3\", \"192.168.7.0/24\"]",
        "[]",
        "t.toml:36:13: `peer.addresses` is empty; list the virtual addresses of that node, like \"10.128.0.2\"",
    );
    refuses(
        "192.168.7.0/24",
        "192.168.7.1/24",
        "t.toml:36:28: `192.168.7.1/24` has bits set beyond its length; \
         write 192.168.7.0/24 for the network, or 192.168.7.1 for the one address",
    );
    refuses(
        "192.168.7.0/24",
        "224.0.0.1",
        "t.toml:36:28: `224.0.0.1` is a multicast address; list virtual addresses of that node",
    );
    refuses(
        "udp://10.200.0.2:15000",
        "10.200.0.2",
        "t.toml:31:12: `10.200.0.2` has no port; \
         write host:port, like 192.0.2.7:15000, [2001:db8::7]:15000 or node.example.org:15000",
    );
}

#[test]
fn an_endpoint_may_be_a_name() {
    let config = parsed(&changed("udp://10.200.0.2:15000", "udp://beta.example.org:15000")).config;
    let expected = Endpoint::Host { name: "beta.example.org".to_owned(), port: 15_000 };
    assert_eq!(config.peers[0].endpoint, Some(expected));
}

#[test]
fn peers_share_neither_names_nor_keys() {
    refuses(
        "\"gamma\"",
        "\"beta\"",
        "t.toml:34:8: peer name `beta` is taken by line 28; give each peer a name of its own",
    );
    refuses(
        "\"gamma\"",
        "\"alpha\"",
        "t.toml:34:8: peer name `alpha` is this node's own; a node is no peer of itself: rename it or take it out",
    );
    refuses(
        KEY_GAMMA,
        KEY_BETA,
        "t.toml:35:14: peer `gamma` has the same key as `beta`; \
         give each peer the key that `ipopctl key pub FILE` prints on that node",
    );
}

#[test]
fn peers_share_no_addresses() {
    let gamma = |text: &str, message: &str| refuses("192.168.7.0/24", text, message);
    gamma(
        "10.128.0.2",
        "t.toml:36:28: `10.128.0.2/32` of peer `gamma` overlaps `10.128.0.2/32` of peer `beta`; \
         give each address to one node",
    );
    gamma(
        "fd00:128::/112",
        "t.toml:36:28: `fd00:128::/112` of peer `gamma` overlaps this node's own address fd00:128::1; \
         give each address to one node\n\
         t.toml:36:28: `fd00:128::/112` of peer `gamma` overlaps `fd00:128::2/128` of peer `beta`; \
         give each address to one node",
    );
    gamma(
        "10.128.0.1",
        "t.toml:36:28: `10.128.0.1/32` of peer `gamma` overlaps this node's own address 10.128.0.1; \
         give each address to one node",
    );
    // Our own network holds the peers, and a peer may nest its own prefixes.
    parsed(&changed("192.168.7.0/24", "192.168.7.0/24\", \"192.168.7.9"));
}

#[test]
fn mistakes_in_values_are_reported_all_at_once_in_the_order_of_the_file() {
    let text =
        changed("mtu = 1400", "mtu = 5").replace("\"p1\"", "\"a/b\"").replace("10.200.0.2:", "10.200.0.2;");
    let lines: Vec<String> = errors(&text).lines().map(str::to_owned).collect();
    let places: Vec<&str> = lines.iter().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(places, ["t.toml:14:7", "t.toml:18:15", "t.toml:31:12"]);
}

#[test]
fn more_peers_than_the_tables_hold_are_refused() {
    let mut text = MINIMAL.to_owned() + "secret = \"sixteen letters!\"\n";
    for n in 0..=ipop_common::limits::LINKS_MAX {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        let key = PublicKey::from_bytes(key);
        let addr = Ipv4Addr::from_bits(0x0b00_0000 + n);
        text += &format!("[[peer]]\nname = \"n{n}\"\npublic_key = \"{key}\"\naddresses = [\"{addr}\"]\n");
    }
    assert_eq!(
        errors(&text),
        "t.toml:16393:1: more than 4096 peers, the most that this version links to; take some out"
    );
}

#[test]
fn questionable_values_are_warned_of() {
    assert_eq!(
        warnings(&changed("10.200.0.0/24", "10.201.0.0/24")),
        ["t.toml:31:12: peer `beta` has its endpoint 10.200.0.2 in no trusted network, and gets no link; \
          add its network to `underlay.trusted` on both nodes if that wire is yours; sealed links come with a later version"]
    );
    assert_eq!(
        warnings(&changed("10.200.0.0/24", "0.0.0.0/0")),
        ["t.toml:19:12: `0.0.0.0/0` trusts every network, and what crosses it can be read and forged; \
          list only networks that are yours"]
    );
    assert_eq!(
        warnings(&changed("10.200.0.2:15000", "10.128.0.2:15000").replace("10.200.0.0/24", "10.128.0.2")),
        ["t.toml:31:12: peer `beta` has its endpoint 10.128.0.2 inside the virtual network 10.128.0.0/24; \
          use an address that is reached without the virtual network"]
    );
    assert_eq!(
        warnings(&(EXAMPLE.to_owned() + "endpoint = \"10.200.0.2:15000\"\n")),
        ["t.toml:37:12: peer `gamma` has the same endpoint as `beta`; \
          two nodes cannot share an address and port: correct one"]
    );
}

#[test]
fn a_peer_with_our_own_key_is_found_once_the_key_is_known() {
    let config = parsed(EXAMPLE).config;
    let own: PublicKey = KEY_GAMMA.parse().unwrap();
    assert_eq!(
        config.check_own_key(Path::new("t.toml"), &own).unwrap_err().to_string(),
        "t.toml:33: peer `gamma` has this node's own public key; take this [[peer]] out, or give it the other node's key"
    );
    assert_eq!(config.check_own_key(Path::new("t.toml"), &PublicKey::from_bytes([9; 32])), Ok(()));
}

fn write_with_mode(path: &Path, text: impl AsRef<[u8]>, mode: u32) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).mode(mode).open(path).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

#[test]
fn files_that_others_can_read_are_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let (config, key) = (directory.path().join("ipop.toml"), directory.path().join("alpha.key"));
    write_with_mode(&config, EXAMPLE, 0o600);
    write_with_mode(&key, "key", 0o600);
    assert_eq!(load(&config).unwrap().warnings, []);
    write_with_mode(&config, EXAMPLE, 0o644);
    write_with_mode(&key, "key", 0o640);
    let warnings: Vec<String> = load(&config).unwrap().warnings.iter().map(Problem::to_string).collect();
    let expected = [(&config, "0644"), (&key, "0640")].map(|(path, mode)| {
        let path = path.display();
        format!("{path}: holds a secret, and its mode {mode} opens it to others than its owner; run `chmod 600 {path}`")
    });
    assert_eq!(warnings, expected);
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let reason = |path: &Path| load(path).unwrap_err().to_string().replace(&path.display().to_string(), "F");
    let path = directory.path().join("ipop.toml");
    assert_eq!(
        reason(&path),
        "F: cannot read: No such file or directory (os error 2); \
         write one with `ipopctl init`, or name another with --config"
    );
    assert_eq!(reason(directory.path()), "F: cannot read: Is a directory (os error 21); check the path");
    write_with_mode(&path, b"[node]\nname = \"\xff\"\n", 0o600);
    assert_eq!(reason(&path), "F:2: not UTF-8 text; save the file as UTF-8");
    assert_eq!(reason(Path::new("/dev/zero")), "F: too long for a configuration file; check the path");
}

proptest! {
    #[test]
    fn no_damage_to_the_file_panics_and_every_message_is_one_line_with_a_place(
        at in 0..EXAMPLE.len(), cut in 0usize..12, insert in "[\\[\\]a-z0-9\"=.,:/{}\n -]{0,6}"
    ) {
        let mut text = EXAMPLE.to_owned();
        text.replace_range(at..(at + cut).min(EXAMPLE.len()), &insert);
        if let Err(errors) = parse(&text, Path::new("t.toml")) {
            for line in errors.to_string().lines() {
                prop_assert!(line.starts_with("t.toml:") && line.contains("; "), "{}", line);
            }
            prop_assert_eq!(errors.to_string().lines().count(), errors.problems().len());
        }
    }
}
