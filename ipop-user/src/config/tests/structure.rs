//! Mistakes in the structure: syntax, unknown and missing keys, wrong types and unknown values.

use super::*;

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
        "t.toml:24:1: unknown key `colour` in [datapath]; known here: `kernel`, `xdp`, `io`, `security`, `seal`, `queues`",
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
         known here: [node], [network], [underlay], [datapath], [dns], [dhcp], [routing], [[peer]]",
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
        "t.toml:14:7: `network.mtu` must be \"auto\" or a number; mend the value",
    );
    refuses(
        "mtu = 1400",
        "mtu = 99999999999999999999",
        "t.toml:14:7: `network.mtu` must be \"auto\" or a number; mend the value",
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
fn a_node_of_a_group_says_nothing_that_the_group_says() {
    let node = "[node]\nname = \"alpha\"\nkey_file = \"key\"\n[network]\n";
    let group = "group = \"https://group.example.org/g/lab\"\n";
    let loaded = parse(&format!("{node}{group}"), Path::new("t.toml")).unwrap().config;
    assert_eq!(
        (loaded.network.name.as_str(), loaded.has_overlay(), loaded.is_member()),
        ("lab", true, false)
    );
    assert_eq!(loaded.group.unwrap().place.to_string(), "https://group.example.org/g/lab");
    for (more, line, what) in [
        ("name = \"test\"\n", 6, "`network.name`"),
        ("secret = \"a secret that is long\"\n", 6, "`network.secret`"),
        ("addresses = \"dhcp\"\n", 6, "`network.addresses`"),
        ("[dhcp]\n", 6, "[dhcp]"),
    ] {
        let message = errors(&format!("{node}{group}{more}"));
        let expected = format!("{what} and `network.group` contradict one another: the group says this");
        assert!(message.contains(&expected) && message.starts_with(&format!("t.toml:{line}:")), "{message}");
    }
    let open = errors(&format!("{node}group = \"http://group.example.org/g/lab\"\n"));
    assert!(open.contains("is not HTTPS"), "{open}");
    let alone = errors(&format!("{node}name = \"a\"\naddresses = \"dhcp\"\ngroup_token = \"x\"\n"));
    assert!(alone.contains("`network.group_token` is for a node of a group"), "{alone}");
    let nothing = errors(node);
    assert!(nothing.contains("[network] lacks the key `name`; add `name = ...`"), "{nothing}");
}
