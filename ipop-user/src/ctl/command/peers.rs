//! `ipopctl peers`.

use crate::api::{Path, Peer};
use crate::ctl::format::{Align, microseconds, or_nothing, table};

pub(in crate::ctl) fn render(peers: &[Peer], width: u16) -> String {
    if peers.is_empty() {
        return "no peers; `ipopctl status` says whether the overlay is joined, or add a [[peer]] and run `ipopctl reload`\n".to_owned();
    }
    let headings = [
        ("peer", Align::Left),
        ("virtual IPs", Align::Left),
        ("endpoint", Align::Left),
        ("path", Align::Left),
        ("cipher", Align::Left),
        ("rtt", Align::Right),
        ("age", Align::Right),
    ];
    let rows = peers.iter().map(|peer| {
        vec![
            peer.name.clone(),
            peer.virtual_ips.join("\n"),
            or_nothing(peer.endpoint.as_ref(), String::clone),
            peer.path.name().to_owned(),
            cipher(peer),
            or_nothing(peer.rtt_us, microseconds),
            or_nothing(peer.last_handshake_s, |age| format!("{age} s")),
        ]
    });
    table(&headings, rows, width)
}

/// What protects the packets to a peer, in short.
fn cipher(peer: &Peer) -> String {
    match (&peer.cipher, peer.path) {
        (_, Path::None) => or_nothing(None::<&str>, |text| text.to_owned()),
        (Some(cipher), _) => cipher.split('-').next().unwrap_or_default().to_owned(),
        (None, _) => peer.security.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn peers_fit_80_columns() {
        let expected = "\
PEER   VIRTUAL IPS     ENDPOINT          PATH           CIPHER       RTT   AGE
beta   10.128.0.2      10.200.0.2:15000  direct-kernel  ChaCha20  180 us  84 s
       fd00:128::2
gamma  192.168.7.0/24  -                 none           -              -     -
";
        assert_eq!(render(&fake::peers(), 80), expected);
    }

    #[test]
    fn a_node_alone_is_told_what_to_do() {
        assert_eq!(
            render(&[], 80),
            "no peers; `ipopctl status` says whether the overlay is joined, or add a [[peer]] and run `ipopctl reload`\n"
        );
    }

    #[test]
    fn no_width_loses_a_character() {
        let mut peers = fake::peers();
        peers[0].name = "n".repeat(63);
        peers[0].endpoint = Some("[2001:db8:1234:5678:9abc:def0:1234:5678]:15000".to_owned());
        for width in [40, 80, 200] {
            let text = render(&peers, width);
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
            assert_eq!(text.lines().skip(1).collect::<String>().matches('n').count(), 63 + 3, "{text}");
        }
    }
}
