//! Mistakes in the values of `[node]`, `[network]`, `[underlay]` and `[datapath]`.

use super::*;

#[test]
fn a_scheme_is_for_the_keys_that_take_it() {
    refuses(
        "udp://10.200.0.2:15000",
        "tcp://10.200.0.2:15000",
        "t.toml:31:12: `tcp://` is not for this key; `underlay.listen` and `endpoint` take udp://, \
         `underlay.tcp` takes tcp://, `underlay.bootstrap` both",
    );
}

#[test]
fn a_network_of_frames_is_an_overlay_without_subnets() {
    refuses(
        "\"l3\"",
        "\"l2\"",
        "t.toml:11:8: mode \"l2\" needs an overlay, which carries what is for all; add `underlay.bootstrap`",
    );
    let frames = changed("\"l3\"", "\"l2\"").replace("interfaces = [\"p1\"]\n", "bootstrap = []\n");
    assert_eq!(parsed(&frames).config.datapath.kernel, Kernel::On);
    let network = parsed(&frames).config.network;
    assert_eq!((network.mode, network.frame_overhead()), (Mode::L2, 16));
    assert_eq!(network.mtu, Mtu::Bytes(1416), "so that packets of the configured length pass");
    let none = frames.replace("[\"10.128.0.1/24\", \"fd00:128::1/64\"]", "[]");
    assert!(parsed(&none).config.network.addresses.is_empty(), "a switch needs none");
    assert_eq!(
        errors(&frames.replace("mtu = 1400", "multicast = false")),
        "t.toml:11:8: mode \"l2\" and `network.multicast = false` contradict one another; \
         take `network.multicast` out"
    );
    assert_eq!(
        errors(&(frames + "[routing]\nannounce = [\"172.16.0.0/24\"]\n")),
        "t.toml:11:8: [routing] is for mode \"l3\"; bridge the LAN, or let the routers of it speak to one \
         another over the virtual network"
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
        "t.toml:13:13: `network.addresses` is empty; give this node an address, like \"10.128.0.1/24\", or write \"dhcp\"",
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
fn queues_are_few() {
    let with = |queues: &str| format!("{MINIMAL}[datapath]\nqueues = {queues}\n");
    let two = Queues::Number(std::num::NonZeroU8::new(2).unwrap());
    assert_eq!(parsed(&with("2")).config.datapath.queues, two);
    for queues in ["0", "17", "-1"] {
        let message = errors(&with(queues));
        let wanted =
            format!("{queues} queues are not between 1 and 16; use \"auto\", or at most one for each CPU");
        assert!(message.contains(&wanted), "{message}");
    }
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
    assert_eq!(
        warnings(&changed("\"clear-if-trusted\"", "\"sealed\"")),
        ["t.toml:19:12: `underlay.trusted` has no effect: all links are sealed; \
          set datapath.security = \"clear-if-trusted\" for clear links between trusted networks"]
    );
}

#[test]
fn bootstrap_endpoints_are_checked() {
    let with = |list: &str| changed("interfaces = [\"p1\"]", &format!("bootstrap = {list}"));
    assert_eq!(
        errors(&with("[\"seed.example.org\"]")),
        "t.toml:18:14: `seed.example.org` has no port; \
         write host:port, like 192.0.2.7:15000, [2001:db8::7]:15000 or node.example.org:15000"
    );
    assert!(warnings(&with("[\"udp://seed.example.org:15000\"]")).is_empty());
    let key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
    assert!(warnings(&with(&format!("[\"udp://seed.example.org:15000#{key}\"]"))).is_empty());
    assert_eq!(
        errors(&with("[\"udp://192.0.2.7:15000#abc\"]")),
        "t.toml:18:14: what follows # in `udp://192.0.2.7:15000#abc` is no public key; \
         write the key that `ipopctl key pub` prints there, or leave out both"
    );
}

#[test]
fn tcp_addresses_are_checked() {
    let with = |list: &str| changed("interfaces = [\"p1\"]", &format!("tcp = {list}"));
    assert!(warnings(&with("[\"tcp://0.0.0.0:443\", \"[::]:443\"]")).is_empty());
    assert!(warnings(&with("[]")).is_empty());
    assert_eq!(
        errors(&with("[\"tcp://0.0.0.0:443\", \"tcp://192.0.2.1:443\"]")),
        "t.toml:18:29: `192.0.2.1:443` cannot be bound beside `0.0.0.0:443`; take one of them out"
    );
    assert_eq!(
        errors(&with("[\"443\"]")),
        "t.toml:18:8: `443` is not an address and port to listen on; \
         write address:port, like tcp://0.0.0.0:443 or tcp://[::]:443"
    );
}

#[test]
fn outside_addresses_and_stun_servers_are_checked() {
    let with = |list: &str| changed("interfaces = [\"p1\"]", &format!("bootstrap = []\n{list}"));
    let good = "port_mapping = false\nexternal = [\"udp://203.0.113.5:15000\", \"[2001:db8::5]:15000\"]\n\
                stun = [\"stun.example.org:3478\", \"192.0.2.9:3478\"]";
    let underlay = parsed(&with(good)).config.underlay;
    assert!(!underlay.port_mapping);
    let external: Vec<String> = underlay.external.iter().map(ToString::to_string).collect();
    assert_eq!(external, ["203.0.113.5:15000", "[2001:db8::5]:15000"]);
    let stun: Vec<String> = underlay.stun.iter().map(ToString::to_string).collect();
    assert_eq!(stun, ["stun.example.org:3478", "192.0.2.9:3478"]);
    let write = "write address:port as others see it, like 203.0.113.5:15000 or [2001:db8::5]:15000";
    for (value, reason) in [
        ("gate.example.org:15000", "`gate.example.org:15000` is not an outside address and port"),
        ("203.0.113.5", "`203.0.113.5` is not an outside address and port"),
        ("203.0.113.5:0", "`203.0.113.5:0` has port 0"),
        ("0.0.0.0:15000", "`0.0.0.0:15000` is the address of no host"),
        ("127.0.0.1:15000", "`127.0.0.1:15000` leads others to themselves"),
        ("224.0.0.1:15000", "`224.0.0.1:15000` is a multicast address"),
    ] {
        let text = with(&format!("external = [\"{value}\"]"));
        assert_eq!(errors(&text), format!("t.toml:19:13: {reason}; {write}"));
    }
    assert_eq!(
        errors(&with("external = [\"203.0.113.5:1\", \"203.0.113.5:1\"]")),
        "t.toml:19:30: `203.0.113.5:1` is listed twice; take one of them out"
    );
    let many = format!("{:?}", (1..=6).map(|port| format!("203.0.113.5:{port}")).collect::<Vec<_>>());
    assert_eq!(
        errors(&with(&format!("external = {many}"))),
        "t.toml:19:12: `underlay.external` lists 6; list at most 5"
    );
    assert_eq!(
        errors(&with("stun = [\"stun.example.org\"]")),
        "t.toml:19:9: `stun.example.org` has no port; \
         write host:port, like 192.0.2.7:15000, [2001:db8::7]:15000 or node.example.org:15000"
    );
}

#[test]
fn turn_servers_are_checked() {
    let with =
        |entries: &str| changed("interfaces = [\"p1\"]", &format!("bootstrap = []\nturn = [{entries}]"));
    let entry =
        |server: &str| format!("{{ server = \"{server}\", username = \"node\", password = \"hush\" }}");
    let good =
        ["turn:192.0.2.9", "turn:[2001:db8::9]?transport=tcp", "turn:turn.example.org:443?transport=tcp"];
    let list: Vec<String> = good.map(entry).to_vec();
    let underlay = parsed(&with(&list.join(", "))).config.underlay;
    let servers: Vec<String> = underlay.turn.iter().map(ToString::to_string).collect();
    assert_eq!(
        servers,
        [
            "turn:192.0.2.9:3478?transport=udp",
            "turn:[2001:db8::9]:3478?transport=tcp",
            "turn:turn.example.org:443?transport=tcp"
        ]
    );
    assert_eq!(underlay.turn[0].password.expose_text(), "hush");
    assert!(!format!("{underlay:?}").contains("hush"));
    let write = "write turn:host:port?transport=udp or =tcp, like turn:turn.example.org:3478?transport=tcp";
    for (server, reason) in [
        ("turn.example.org:3478", "`turn.example.org:3478` is no URI of a TURN server"),
        (
            "turns:turn.example.org",
            "`turns:turn.example.org` is to be reached by TLS, which is not in this version",
        ),
        ("turn:turn.example.org?transport=sctp", "`transport=sctp` is no transport to a TURN server"),
        ("turn:192.0.2.9:0", "`turn:192.0.2.9:0` has port 0"),
        ("turn:", "`turn:` names no host"),
    ] {
        assert_eq!(errors(&with(&entry(server))), format!("t.toml:19:20: {reason}; {write}"));
    }
    let twice = format!("{}, {}", entry("turn:192.0.2.9"), entry("turn:192.0.2.9:3478"));
    assert!(errors(&with(&twice)).contains("`turn:192.0.2.9:3478` is there twice; take one of them out"));
    let many: Vec<String> = (1..=5).map(|port| entry(&format!("turn:192.0.2.9:{port}"))).collect();
    assert!(errors(&with(&many.join(", "))).contains("there are 5 [[underlay.turn]]; write at most 4"));
    let nameless = "{ server = \"turn:192.0.2.9\", username = \"\", password = \"a secret\\n\" }";
    let errors = errors(&with(nameless));
    assert!(
        errors.contains("this `username` is empty") && errors.contains("this `password` is empty"),
        "{errors}"
    );
    assert!(!errors.contains("a secret"), "{errors}");
}

#[test]
fn who_is_in_no_overlay_tells_nobody_where_it_is() {
    let text = changed("interfaces = [\"p1\"]", "external = [\"203.0.113.5:15000\"]");
    assert_eq!(
        warnings(&text),
        [
            "t.toml:18:12: `underlay.external` has no effect: this node is in no overlay, and tells nobody where it \
          is; add `underlay.bootstrap`, or take it out"
        ]
    );
}
