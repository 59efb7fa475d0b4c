//! Mistakes in `[[peer]]`, and what is questionable about one.

use super::*;

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
