//! What a data thread does with handshake messages, before it troubles the sessions with them: a flood ends
//! here, at the price of one hash for each message.

use ipop_common::Counter;
use ipop_common::filter::{STRANGERS_MAX, WINDOW_NS};
use ipop_common::wireguard;

use super::admission::{Load, Sources};
use super::mac::{CookieKey, Mac1Key};
use crate::endpoint::Endpoint;
use crate::node::Refusal;
use crate::time::Instant;

/// Decides which handshake messages are handed on to [`Sessions`](super::Sessions).
///
/// Not under load, all whose sender knows the node's public key. Under load, those from where a peer is,
/// or that show a cookie; of each source only so many. Who is neither, or sends more, is a stranger, and all
/// strangers share what is left for them.
#[derive(Debug)]
pub struct Gate {
    mac1: Mac1Key,
    load: Load,
    sources: Sources,
    strangers: Strangers,
}

impl Gate {
    /// For messages to the holder of `mac1`.
    pub fn new(mac1: Mac1Key) -> Self {
        Self { mac1, load: Load::new(), sources: Sources::default(), strangers: Strangers::default() }
    }

    /// Whether a message is handed on. `cookies` is the last [`Output::Cookies`](super::Output::Cookies);
    /// `is_peers` says whether a peer is at its source.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(
        &mut self,
        now: Instant,
        source: Endpoint,
        datagram: &[u8],
        cookies: Option<&CookieKey>,
        is_peers: impl FnOnce() -> bool,
    ) -> Result<(), Refusal> {
        self.check(datagram).map_err(Refusal)?;
        if !self.load.count(now) {
            return Ok(());
        }
        let is_credible = is_peers() || cookies.is_some_and(|key| key.admits(now, source, datagram));
        if (is_credible && self.sources.admit(now, source)) || self.strangers.admit(now) {
            Ok(())
        } else {
            Err(Refusal(Counter::RxHandshakeFlood))
        }
    }

    /// Whether a question who this node is, or an answer to one of its own, is handed on: who asks is a
    /// stranger.
    ///
    /// # Errors
    /// There are too many.
    pub fn admit_introduction(&mut self, now: Instant) -> Result<(), Refusal> {
        self.strangers.admit(now).then_some(()).ok_or(Refusal(Counter::RxHandshakeFlood))
    }

    /// Whether another, who sees more of the messages, has found this node under load.
    pub fn tell_load(&mut self, under_load: bool) {
        self.load.tell(under_load);
    }

    /// Until when this node is under load, by what this gate has counted.
    pub fn load_until(&self) -> Instant {
        self.load.until()
    }

    /// A cookie reply has no mac1; who it is from, its seal says.
    fn check(&self, datagram: &[u8]) -> Result<(), Counter> {
        match (datagram.first(), datagram.len()) {
            (Some(&wireguard::TYPE_COOKIE_REPLY), wireguard::COOKIE_REPLY_LEN) => Ok(()),
            (Some(&wireguard::TYPE_COOKIE_REPLY), _) => Err(Counter::RxBadCookie),
            (Some(&wireguard::TYPE_INITIATION), wireguard::INITIATION_LEN)
            | (Some(&wireguard::TYPE_RESPONSE), wireguard::RESPONSE_LEN) => {
                self.mac1.admits(datagram).then_some(()).ok_or(Counter::RxBadMac1)
            }
            _ => Err(Counter::RxBadHandshake),
        }
    }
}

/// What all strangers share, in the same windows as the kernel's part.
#[derive(Debug, Default)]
struct Strangers {
    window: u64,
    admitted: u32,
}

impl Strangers {
    fn admit(&mut self, now: Instant) -> bool {
        let window = now.as_nanos() / WINDOW_NS;
        if window != self.window {
            (self.window, self.admitted) = (window, 0);
        }
        let is_admitted = self.admitted < STRANGERS_MAX;
        self.admitted += u32::from(is_admitted);
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, SocketAddr};
    use std::vec::Vec;

    use super::super::admission::MESSAGES_PER_SECOND;
    use super::super::mac::{Cookies, PeerMacs};
    use super::*;
    use ipop_common::wireguard::{COOKIE_REPLY_LEN, CookieReply, INITIATION_LEN, Initiation};

    const PUBLIC: [u8; 32] = [9; 32];

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn source(number: u32) -> Endpoint {
        SocketAddr::new(IpAddr::V4(number.into()), 15_000).into()
    }

    fn initiation(macs: &mut PeerMacs) -> Vec<u8> {
        let mut datagram = std::vec![0; INITIATION_LEN];
        datagram[0] = wireguard::TYPE_INITIATION;
        macs.fill_in(at(1), &mut datagram);
        datagram
    }

    /// A gate that has been flooded up to this moment, with a message that it lets through.
    fn under_load(now: Instant) -> (Gate, Vec<u8>) {
        let mut gate = Gate::new(Mac1Key::new(&PUBLIC));
        let good = initiation(&mut PeerMacs::new(&PUBLIC));
        let flood = 0..MESSAGES_PER_SECOND + STRANGERS_MAX;
        let admitted = flood.map(|number| gate.admit(now, source(number), &good, None, || false));
        assert!(admitted.into_iter().all(|admitted| admitted.is_ok()), "until now it is no flood");
        let one_more = gate.admit(now, source(u32::MAX), &good, None, || false);
        assert_eq!(one_more, Err(Refusal(Counter::RxHandshakeFlood)));
        (gate, good)
    }

    #[test]
    fn what_is_no_message_to_this_node_is_named() {
        let mut gate = Gate::new(Mac1Key::new(&PUBLIC));
        let mut admit = |datagram: &[u8]| gate.admit(at(1), source(1), datagram, None, || true);
        let refused = |counter| Err(Refusal(counter));
        assert_eq!(admit(&initiation(&mut PeerMacs::new(&PUBLIC))), Ok(()));
        assert_eq!(admit(&initiation(&mut PeerMacs::new(&[8; 32]))), refused(Counter::RxBadMac1));
        assert_eq!(admit(&[1, 0, 0, 0]), refused(Counter::RxBadHandshake));
        assert_eq!(admit(&[]), refused(Counter::RxBadHandshake));
        assert_eq!(admit(&[3; COOKIE_REPLY_LEN]), Ok(()));
        assert_eq!(admit(&[3; COOKIE_REPLY_LEN + 1]), refused(Counter::RxBadCookie));
    }

    #[test]
    fn strangers_share_what_is_left_for_them() {
        let (mut gate, good) = under_load(at(5000));
        let mut admitted = 0;
        for ms in 5010..5110 {
            for number in 0..50 {
                admitted += u32::from(gate.admit(at(ms), source(number), &good, None, || false).is_ok());
            }
        }
        assert_eq!(admitted, 10 * STRANGERS_MAX);
        assert_eq!(gate.admit(at(9000), source(1), &good, None, || false), Ok(()), "the flood is over");
    }

    #[test]
    fn a_flood_does_not_keep_peers_out_and_one_in_a_peers_name_not_the_others() {
        let (mut gate, good) = under_load(at(5000));
        let admitted = (0..100).filter(|_| gate.admit(at(5000), source(7), &good, None, || true).is_ok());
        assert_eq!(admitted.count(), 5, "the burst of one source");
        assert_eq!(gate.admit(at(5000), source(8), &good, None, || true), Ok(()));
    }

    #[test]
    fn who_has_a_cookie_is_no_stranger() {
        let (mut gate, good) = under_load(at(5000));
        let (mut cookies, mut macs) = (Cookies::new(&PUBLIC), PeerMacs::new(&PUBLIC));
        let first = Initiation::parse(&initiation(&mut macs)).unwrap();
        let mut random = |out: &mut [u8]| out.fill(0x77);
        let reply: CookieReply = cookies.reply(at(1), source(7), 5, &first.mac1, &mut random);
        assert!(macs.take_cookie(at(1), &reply));
        let key = cookies.take_new().unwrap();
        assert!(cookies.take_new().is_none(), "told once");
        let with_cookie = initiation(&mut macs);
        let refused = Err(Refusal(Counter::RxHandshakeFlood));
        assert_eq!(gate.admit(at(5000), source(7), &with_cookie, None, || false), refused);
        assert_eq!(gate.admit(at(5000), source(7), &with_cookie, Some(&key), || false), Ok(()));
        assert_eq!(gate.admit(at(5000), source(8), &with_cookie, Some(&key), || false), refused);
        assert_eq!(gate.admit(at(5000), source(7), &good, Some(&key), || false), refused);
    }
}
