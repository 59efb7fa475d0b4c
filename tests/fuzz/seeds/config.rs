//! Configuration files: a whole one, a minimal one, and one for each kind of mistake; and the texts
//! that name things.

use super::Inputs;

const EXAMPLE: &str = r#"[node]
name = "alpha"
key_file = "alpha.key"
state_dir = "/var/lib/a"
control_socket = "/run/a.sock"
metrics = "127.0.0.1:9100"
[network]
name = "demo"
secret = "some long random text"
mode = "l3"
device = "ipop1"
addresses = ["10.1.0.1/24", "fd01::1/64"]
mtu = 1400
[underlay]
listen = ["udp://0.0.0.0:15000", "udp://[::]:15000"]
interfaces = ["p1"]
trusted = ["10.2.0.0/24"]
[datapath]
kernel = "on"
xdp = "native"
io = "io_uring"
security = "clear-if-trusted"
[[peer]]
name = "beta"
public_key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
addresses = ["10.1.0.2/32", "fd01::2"]
endpoint = "udp://10.2.0.2:15000"
[[peer]]
name = "gamma"
public_key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
addresses = ["10.1.0.3", "192.168.7.0/24"]
"#;

const LEASED: &str = r#"[node]
name = "alpha"
key_file = "/etc/ipop/key"
[network]
name = "demo"
secret = "some long random text"
addresses = "dhcp"
[dhcp]
pool = "10.1.0.0/16"
ipv6 = "fd01::/64"
lease_s = 600
address = "10.1.0.9"
reserved = { "10.1.0.5" = "ipop:xik72ueizen6orm4tvz3tovov2is7ii4" }
[dns]
services = { "_http._tcp" = 80 }
"#;

const MINIMAL: &str = r#"[node]
name = "alpha"
key_file = "/etc/ipop/key"
[network]
name = "demo"
addresses = ["10.1.0.1/24"]
"#;

/// Changes to the example: what kind, what, into what.
const CHANGES: &[[&str; 3]] = &[
    // Structure.
    ["unknown-key", "mtu =", "mtuu ="],
    ["unknown-section", "[underlay]", "[wireguard]"],
    ["missing-key", "name = \"alpha\"\n", ""],
    ["missing-secret", "secret = \"some long random text\"\n", ""],
    ["wrong-type", "name = \"alpha\"", "name = 5"],
    ["wrong-type-of-list", "[\"p1\"]", "\"p1\""],
    ["wrong-type-in-list", "[\"p1\"]", "[\"p1\", 7]"],
    ["unknown-value", "kernel = \"on\"", "kernel = \"maybe\""],
    ["no-value", "mtu = 1400", "mtu ="],
    ["key-twice", "mtu = 1400", "mtu = 1\nmtu = 2"],
    ["section-not-closed", "[datapath]", "[datapath"],
    // What later versions have.
    ["mode-l2", "\"l3\"", "\"l2\""],
    ["dhcp", "[\"10.1.0.1/24\", \"fd01::1/64\"]", "\"dhcp\""],
    ["sealed", "\"clear-if-trusted\"", "\"sealed\""],
    ["another-transport", "udp://10.2.0.2:15000", "tcp://10.2.0.2:15000"],
    ["bootstrap", "interfaces = [\"p1\"]", "bootstrap = [\"seed.example.org:15000\"]"],
    // Values.
    ["name", "\"alpha\"", "\"a b\""],
    ["name-with-terminal-codes", "\"alpha\"", "\"\\u001b[2J\""],
    ["path", "\"alpha.key\"", "\"\""],
    ["metrics", "127.0.0.1:9100", "localhost:0"],
    ["secret-too-short", "some long random text", "short"],
    ["device-too-long", "\"ipop1\"", "\"ipop1234567\""],
    ["device-with-slash", "\"ipop1\"", "\"a/b\""],
    ["no-addresses", "[\"10.1.0.1/24\", \"fd01::1/64\"]", "[]"],
    ["own-address-is-a-network", "10.1.0.1/24", "10.1.0.0/24"],
    ["own-address-of-no-host", "10.1.0.1/24", "0.0.0.0/8"],
    ["prefix-too-long", "10.1.0.1/24", "10.1.0.1/33"],
    ["prefix-spells-v4", "fd01::1/64", "::ffff:10.1.0.9"],
    ["own-address-twice", "fd01::1/64", "10.1.0.1"],
    ["mtu-too-small", "1400", "575"],
    ["mtu-too-small-for-v6", "1400", "1279"],
    ["mtu-no-number", "1400", "\"big\""],
    ["mtu-beyond-64-bits", "1400", "99999999999999999999"],
    ["no-listen", "[\"udp://0.0.0.0:15000\", \"udp://[::]:15000\"]", "[]"],
    ["listen-on-a-name", "udp://[::]:15000", "node:15000"],
    ["listen-on-the-kernel-port", "udp://[::]:15000", "udp://[::]:4790"],
    ["listen-in-the-way", "udp://[::]:15000", "10.0.0.1:15000"],
    ["no-interfaces", "[\"p1\"]", "[]"],
    ["interface-twice", "[\"p1\"]", "[\"p1\", \"p1\"]"],
    ["trusted-with-host-bits", "10.2.0.0/24", "10.2.0.1/24"],
    ["trusted-everything", "10.2.0.0/24", "0.0.0.0/0"],
    // Peers.
    ["peer-name-twice", "\"gamma\"", "\"beta\""],
    ["peer-name-is-ours", "\"gamma\"", "\"alpha\""],
    [
        "peer-key-twice",
        "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
    ],
    ["peer-key-is-none", "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=", "hello"],
    ["peer-without-addresses", "[\"10.1.0.3\", \"192.168.7.0/24\"]", "[]"],
    ["peer-prefix-with-host-bits", "192.168.7.0/24", "192.168.7.1/24"],
    ["peer-prefix-of-another", "192.168.7.0/24", "10.1.0.2"],
    ["peer-prefix-around-ours", "192.168.7.0/24", "fd01::/112"],
    ["peer-prefix-multicast", "192.168.7.0/24", "224.0.0.1"],
    ["endpoint-without-port", "udp://10.2.0.2:15000", "10.2.0.2"],
    ["endpoint-is-a-name", "udp://10.2.0.2:15000", "beta.example.org:15000"],
    ["endpoint-without-brackets", "udp://10.2.0.2:15000", "2001:db8::7:15000"],
    ["endpoint-not-trusted", "udp://10.2.0.2:15000", "10.9.0.2:15000"],
    ["endpoint-in-the-virtual-network", "udp://10.2.0.2:15000", "10.1.0.2:15000"],
];

pub(super) fn texts() -> Inputs {
    let mut inputs: Inputs = [
        ("example", EXAMPLE.to_owned()),
        ("minimal", MINIMAL.to_owned()),
        ("empty", "\n".to_owned()),
        ("section-is-a-number", "node = 5".to_owned()),
        ("peer-in-one-pair-of-brackets", MINIMAL.to_owned() + "[peer]\nname = \"beta\"\n"),
        ("leased", LEASED.to_owned()),
        ("line-ends-of-another-system", MINIMAL.replace('\n', "\r\n")),
        ("no-ascii", MINIMAL.replace("alpha", "\u{e4}\u{1f980}")),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text.into_bytes()))
    .collect();
    inputs.extend(CHANGES.iter().map(|[name, from, to]| {
        assert_eq!(EXAMPLE.matches(from).count(), 1, "{from} is once in the example");
        ((*name).to_owned(), EXAMPLE.replace(from, to).into_bytes())
    }));
    inputs
}

pub(super) fn names() -> Inputs {
    [
        ("v4", "10.1.0.1"),
        ("v6", "fd01::1"),
        ("v4-prefix", "10.1.0.1/24"),
        ("v6-prefix", "fd01::1/64"),
        ("everything", "::/0"),
        ("too-long", "10.1.0.1/33"),
        ("length-with-sign", "10.1.0.1/+8"),
        ("length-beyond-8-bits", "fd01::/999"),
        ("spells-v4", "::ffff:10.1.0.1"),
        ("endpoint-v4", "udp://10.2.0.2:15000"),
        ("endpoint-v6", "[2001:db8::7]:15000"),
        ("endpoint-scoped", "[fe80::1%3]:15000"),
        ("endpoint-name", "node-1.example.org:15000"),
        ("endpoint-port-0", "10.2.0.2:0"),
        ("endpoint-without-host", ":15000"),
        ("endpoint-multicast", "224.0.0.1:5"),
        ("key", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="),
        ("key-not-canonical", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmp="),
        ("node-address", "ipop:cvwdfhe4vhpkpvon2lcolq5sl5w63yns"),
        ("node-address-of-odd-class", "ipop:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"),
        ("name", "beta"),
        ("no-ascii", "ipop:\u{e4}\u{1f980}"),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
    .collect()
}

/// The fields of a token, each with what is wrong with it.
pub(super) fn tokens() -> Inputs {
    let text = |text: &str| [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat();
    let token = |network: &str, secret: &str, name: &str, endpoint: &str, addresses: &[&str]| {
        let addresses = addresses.iter().flat_map(|address| text(address)).collect();
        [text(network), text(secret), text(name), vec![7; 32], text(endpoint), addresses].concat()
    };
    let secret = "sixteen letters or more";
    let own = ["10.1.0.1/24", "fd01::1/64"];
    let good = token("lab", secret, "alpha", "10.2.0.2:15000", &own);
    [
        ("whole", good.clone()),
        ("without-endpoint", token("lab", secret, "alpha", "", &own[..1])),
        ("endpoint-is-a-name", token("lab", secret, "alpha", "alpha.example.org:15000", &own)),
        ("with-a-byte-more", [&good[..], &[0]].concat()),
        ("without-addresses", token("lab", secret, "alpha", "", &[])),
        ("secret-short", token("lab", "secret", "alpha", "", &own)),
        ("secret-no-ascii", token("lab", "\u{e4}\u{1f980}\"\n0123456789ab", "alpha", "", &own)),
        ("network-with-space", token("l b", secret, "alpha", "", &own)),
        ("name-for-a-terminal", token("lab", secret, "\u{1b}[2J", "", &own)),
        ("endpoint-port-0", token("lab", secret, "alpha", "10.2.0.2:0", &own)),
        ("address-too-long", token("lab", secret, "alpha", "", &["10.1.0.1/33"])),
        ("length-beyond-the-end", [&[0xff, 0xff][..], &good].concat()),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect()
}
