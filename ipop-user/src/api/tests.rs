//! The shapes as JSON, and what names a peer.

use serde_json::{Value, json};

use super::*;

fn key() -> PublicKey {
    PublicKey::from_bytes([7; 32])
}

fn peer() -> Peer {
    Peer {
        name: "beta".to_owned(),
        address: key().node_address(),
        virtual_ips: vec!["10.128.0.2".to_owned()],
        endpoint: Some("10.200.0.2:15000".to_owned()),
        path: Path::DirectKernel,
        path_reason: "the kernel path holds the link".to_owned(),
        security: Security::Sealed,
        cipher: Some(CIPHER.to_owned()),
        rtt_us: None,
        traffic: Traffic { tx_packets: 3, kernel_tx_packets: 2, user_tx_packets: 1, ..Traffic::default() },
        may_begin: "tcp 5432".to_owned(),
        peer_may_begin: "nothing".to_owned(),
        last_handshake_s: Some(4),
        last_heard_s: Some(1),
        public_key: key().to_string(),
        mtu: Some(1464),
        link_id: Some(link_id(0x1a2b)),
    }
}

#[test]
fn a_peer_has_the_promised_fields_flat() {
    let json = serde_json::to_value(peer()).unwrap();
    assert_eq!(
        json,
        json!({
            "name": "beta", "address": key().node_address().to_string(),
            "virtual_ips": ["10.128.0.2"], "endpoint": "10.200.0.2:15000",
            "path": "direct-kernel", "path_reason": "the kernel path holds the link",
            "security": "sealed", "cipher": "ChaCha20-Poly1305", "rtt_us": null,
            "tx_packets": 3, "rx_packets": 0, "tx_bytes": 0, "rx_bytes": 0,
            "kernel_tx_packets": 2, "kernel_rx_packets": 0,
            "user_tx_packets": 1, "user_rx_packets": 0,
            "may_begin": "tcp 5432", "peer_may_begin": "nothing",
            "last_handshake_s": 4, "last_heard_s": 1, "public_key": key().to_string(),
            "mtu": 1464, "link_id": "001a2b",
        })
    );
    assert_eq!(serde_json::from_value::<Peer>(json).unwrap(), peer());
}

#[test]
fn a_field_of_a_newer_daemon_is_no_error() {
    let mut json = serde_json::to_value(peer()).unwrap();
    json["colour"] = Value::from("green");
    assert_eq!(serde_json::from_value::<Peer>(json).unwrap(), peer());
}

#[test]
fn names_are_those_of_json() {
    for path in Path::ALL {
        assert_eq!(serde_json::to_value(path).unwrap(), path.name());
    }
    for security in [Security::Sealed, Security::Clear] {
        assert_eq!(serde_json::to_value(security).unwrap(), security.name());
    }
    assert_eq!(serde_json::to_value(IoBackend::IoUring).unwrap(), "io_uring");
}

#[test]
fn counters_are_maps_by_name() {
    let counters = Counters {
        kernel: [(Counter::TxEncapsulated, 9)].into_iter().collect(),
        user: CounterGroup::default(),
        overlay: CounterGroup::default(),
    };
    assert_eq!(
        serde_json::to_value(&counters).unwrap(),
        json!({ "kernel": { "tx_encapsulated": {
            "value": 9, "help": Counter::TxEncapsulated.help(), "class": "ok" } }, "user": {}, "overlay": {} })
    );
}

#[test]
fn a_ping_is_summed_up() {
    let ping = Ping::new("beta".to_owned(), &[Some(10), None, Some(21)]);
    assert_eq!((ping.count, ping.lost), (3, 1));
    assert_eq!((ping.min_us, ping.avg_us, ping.max_us), (Some(10), Some(15), Some(21)));
    assert_eq!(ping.results[1], Probe { seq: 2, rtt_us: None, hops: None });
    let silence = Ping::new("beta".to_owned(), &[None]);
    assert_eq!((silence.lost, silence.avg_us), (1, None));
}

#[test]
fn a_peer_is_found_by_name_address_key_and_virtual_ip() {
    let peer = config::Peer {
        name: "beta".to_owned(),
        public_key: key(),
        addresses: vec!["10.128.0.2".parse().unwrap(), "fd00::/64".parse().unwrap()],
        endpoint: None,
        line: 1,
    };
    let address = key().node_address().to_string();
    for text in ["beta", "10.128.0.2", "fd00::77", &address, &key().to_string()] {
        assert!(Selector::parse(text).matches(&peer), "{text}");
    }
    for text in [&address[..6], &address[..20], &address[..20].to_ascii_lowercase()] {
        assert!(Selector::parse(text).matches(&peer), "{text}");
    }
    let other = PublicKey::from_bytes([8; 32]);
    for text in
        ["Beta", "", "ipop:", "ipop:9", "10.128.0.3", &other.node_address().to_string(), &other.to_string()]
    {
        assert!(!Selector::parse(text).matches(&peer), "{text}");
    }
}
