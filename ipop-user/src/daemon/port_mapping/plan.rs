//! What is to be asked of the router and when, and what is believed of its answers. Does no I/O and reads no
//! clock.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use ipop_overlay::Instant;

/// For how long a mapping is asked for: what a killed daemon leaves behind is gone then.
pub(super) const LEASE: Duration = Duration::from_secs(1200);
/// A shorter one is not worth having, and would have the router asked all the time.
const LEASE_MIN: Duration = Duration::from_secs(60);
/// The router is asked again so often: one that was switched off and on has forgotten the mapping, and may have
/// another address.
const RENEW: Duration = Duration::from_secs(300);
/// A router that gave nothing is asked again after so long, then half as often each time.
const RETRY: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// By how much a router's clock may fall behind this host's, as 1/8, and besides (RFC 6886, 3.6; RFC 6887, 8.5).
const EPOCH_SLACK: u64 = 2;

/// How routers are asked, in the order in which that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Protocol {
    Pcp,
    NatPmp,
    Upnp,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    pub(in crate::daemon) const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is to be reached from outside, and by which router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Site {
    pub(in crate::daemon) gateway: Ipv4Addr,
    /// This host's address on the way there.
    pub(in crate::daemon) local: Ipv4Addr,
    pub(in crate::daemon) port: NonZeroU16,
}

/// What a router says that it has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) external: (IpAddr, u16),
    pub(super) lease: Duration,
    /// Seconds since the router started, where it says that.
    pub(super) epoch: Option<u32>,
}

/// Why an answer is not believed, or of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// No host can have this address outside of a router.
    Impossible(IpAddr),
    /// There is another NAT behind the router.
    Inside(IpAddr),
    /// It is this host's own.
    Own(IpAddr),
    NoPort,
    Short(Duration),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Impossible(ip) => write!(f, "says that its outside address is {ip}, which none can have"),
            Self::Inside(ip) => write!(f, "its outside address {ip} is behind another NAT"),
            Self::Own(ip) => write!(f, "says that its outside address is {ip}, which is this host's"),
            Self::NoPort => f.write_str("gave port 0"),
            Self::Short(lease) => write!(f, "gives ports for {} s only", lease.as_secs()),
        }
    }
}

impl Answer {
    /// Where others are to look for this host, if that can be. Anything that is not on the internet is refused:
    /// to others it is either nothing, or a host of their own.
    pub(super) fn place(&self, site: &Site) -> Result<SocketAddr, Unfit> {
        let (ip, port) = self.external;
        let IpAddr::V4(v4) = ip else { return Err(Unfit::Impossible(ip)) };
        let [a, b, c, _] = v4.octets();
        let is_shared = a == 100 && b & 0b1100_0000 == 64;
        // The ends of DS-Lite's tunnels (RFC 6333), behind which an operator translates.
        let is_tunnel = [a, b, c] == [192, 0, 0];
        if v4 == site.local {
            Err(Unfit::Own(ip))
        } else if v4.is_private() || is_shared || is_tunnel {
            Err(Unfit::Inside(ip))
        } else if a == 0 || v4.is_loopback() || v4.is_link_local() || a >= 224 {
            Err(Unfit::Impossible(ip))
        } else if port == 0 {
            Err(Unfit::NoPort)
        } else if self.lease < LEASE_MIN {
            Err(Unfit::Short(self.lease))
        } else {
            Ok(SocketAddr::new(ip, port))
        }
    }
}

/// A port of the router's that leads here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Mapped {
    pub(in crate::daemon) protocol: Protocol,
    pub(in crate::daemon) external: SocketAddr,
    /// When it ends unless it is renewed.
    pub(in crate::daemon) until: Instant,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Ask by each protocol in turn.
    Ask(Site),
    /// Ask again by the one that it was given by.
    Renew(Site, Protocol),
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Held,
    /// Held, and the router has been switched off and on since the last answer.
    HeldAnew,
    /// What was given is to be given back.
    Refused(Unfit),
}

/// Where this node stands with its router.
#[derive(Debug, Default)]
pub(super) struct Plan {
    site: Option<Site>,
    mapped: Option<Mapped>,
    epoch: Option<(u32, Instant)>,
    /// Why nothing was given, by protocol.
    failures: Vec<(Protocol, String)>,
    wait: Duration,
    next_at: Instant,
}

impl Plan {
    /// What is to be reached has changed, or not. Says whether what is held is to be given back.
    pub(super) fn follow(&mut self, site: Option<Site>, now: Instant) -> bool {
        if self.site == site {
            return false;
        }
        let is_held = self.mapped.is_some();
        *self = Self { site, next_at: now, ..Self::default() };
        is_held
    }

    pub(super) fn mapped(&self) -> Option<Mapped> {
        self.mapped
    }

    pub(super) fn failures(&self) -> &[(Protocol, String)] {
        &self.failures
    }

    /// When there is something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.site.map(|_| self.next_at)
    }

    pub(super) fn due(&self, now: Instant) -> Option<Task> {
        let site = self.site.filter(|_| self.next_at <= now)?;
        Some(match self.mapped {
            Some(mapped) => Task::Renew(site, mapped.protocol),
            None => Task::Ask(site),
        })
    }

    /// A router has answered a question of [`Plan::due`].
    pub(super) fn answered(&mut self, protocol: Protocol, answer: &Answer, now: Instant) -> Verdict {
        let Some(site) = self.site else { return Verdict::Refused(Unfit::NoPort) };
        let external = match answer.place(&site) {
            Ok(external) => external,
            Err(unfit) => {
                self.mapped = None;
                return Verdict::Refused(unfit);
            }
        };
        let lease = answer.lease.min(LEASE);
        let is_anew = match (self.epoch, answer.epoch) {
            (Some((before, at)), Some(epoch)) => is_restarted(before, epoch, now.since(at)),
            _ => false,
        };
        self.epoch = answer.epoch.map(|epoch| (epoch, now));
        self.mapped = Some(Mapped { protocol, external, until: now.after(lease) });
        (self.wait, self.next_at) = (Duration::ZERO, now.after(RENEW.min(lease / 2)));
        self.failures.clear();
        if is_anew { Verdict::HeldAnew } else { Verdict::Held }
    }

    /// No protocol gave anything, or nothing that is of use. What is held stays so until its end.
    pub(super) fn failed(&mut self, failures: Vec<(Protocol, String)>, now: Instant) {
        self.failures = failures;
        match self.mapped.filter(|mapped| mapped.until > now) {
            // Half of what is left, that it is not all spent on one question.
            Some(mapped) => self.next_at = now.after((mapped.until.since(now) / 2).max(RETRY)),
            None => {
                (self.mapped, self.epoch) = (None, None);
                self.wait = (self.wait * 2).clamp(RETRY, RETRY_MAX);
                self.next_at = now.after(self.wait);
            }
        }
    }
}

/// Whether a router's clock has begun anew since it said `before`, so long ago.
fn is_restarted(before: u32, now: u32, since: Duration) -> bool {
    let expected = u64::from(before) + since.as_secs() * 7 / 8;
    u64::from(now) + EPOCH_SLACK < expected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site {
            gateway: Ipv4Addr::new(10, 1, 0, 1),
            local: Ipv4Addr::new(10, 1, 0, 2),
            port: NonZeroU16::new(15_000).unwrap_or(NonZeroU16::MIN),
        }
    }

    fn answer(external: &str, lease_s: u64) -> Answer {
        let external: SocketAddr = external.parse().unwrap_or_else(|_| panic!("{external}"));
        Answer {
            external: (external.ip(), external.port()),
            lease: Duration::from_secs(lease_s),
            epoch: Some(1000),
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn only_what_can_be_on_the_internet_is_believed() {
        for good in
            ["203.0.113.5:1", "198.51.100.101:65535", "100.63.255.255:9", "100.128.0.0:9", "1.1.1.1:1"]
        {
            assert_eq!(answer(good, 120).place(&site()), Ok(good.parse().expect("an address")), "{good}");
        }
        let refused = |external: &str| answer(external, 1200).place(&site()).expect_err(external);
        for bad in ["0.0.0.0:5", "0.1.2.3:5", "127.0.0.1:5", "169.254.1.1:5", "224.0.0.1:5", "240.0.0.1:5"] {
            assert!(matches!(refused(bad), Unfit::Impossible(_)), "{bad}");
        }
        for bad in ["255.255.255.255:5", "[::1]:5", "[2001:db8::1]:5", "[::ffff:203.0.113.5]:5"] {
            assert!(matches!(refused(bad), Unfit::Impossible(_)), "{bad}");
        }
        for bad in
            ["10.0.0.5:5", "172.16.0.1:5", "192.168.1.1:5", "100.64.0.1:5", "100.127.255.1:5", "192.0.0.4:5"]
        {
            assert!(matches!(refused(bad), Unfit::Inside(_)), "{bad}");
        }
        assert_eq!(refused("10.1.0.2:5"), Unfit::Own(site().local.into()));
        assert_eq!(refused("203.0.113.5:0"), Unfit::NoPort);
        let short = answer("203.0.113.5:5", 1);
        assert_eq!(short.place(&site()), Err(Unfit::Short(Duration::from_secs(1))));
    }

    #[test]
    fn a_mapping_is_renewed_well_before_it_ends() {
        let mut plan = Plan::default();
        assert_eq!((plan.due(at(1)), plan.next_at()), (None, None));
        assert!(!plan.follow(Some(site()), at(1)));
        assert_eq!(plan.due(at(1)), Some(Task::Ask(site())));
        assert_eq!(plan.answered(Protocol::NatPmp, &answer("203.0.113.5:7", 7200), at(2)), Verdict::Held);
        let mapped = plan.mapped().expect("a mapping");
        assert_eq!(mapped.until, at(2).after(LEASE), "no longer than was asked for");
        assert_eq!(plan.due(at(2).after(RENEW / 2)), None);
        assert_eq!(plan.due(at(2).after(RENEW)), Some(Task::Renew(site(), Protocol::NatPmp)));
        // A short one in the middle of its life.
        plan.answered(Protocol::NatPmp, &answer("203.0.113.5:7", 120), at(400));
        assert_eq!(plan.next_at(), Some(at(460)));
        // The same site again changes nothing.
        assert!(!plan.follow(Some(site()), at(401)));
        assert_eq!(plan.mapped().map(|mapped| mapped.external), "203.0.113.5:7".parse().ok());
    }

    #[test]
    fn however_short_the_leases_the_router_is_not_asked_all_the_time() {
        let mut plan = Plan::default();
        plan.follow(Some(site()), at(0));
        let mut asked = 0;
        for second in 0..3600 {
            if plan.due(at(second)).is_some() {
                asked += 1;
                let lease = if asked % 2 == 0 { 60 } else { 1 };
                let verdict = plan.answered(Protocol::Pcp, &answer("203.0.113.5:7", lease), at(second));
                if let Verdict::Refused(unfit) = verdict {
                    plan.failed(vec![(Protocol::Pcp, unfit.to_string())], at(second));
                }
            }
        }
        assert!(asked <= 3600 / 30, "{asked}");
    }

    #[test]
    fn a_router_that_says_nothing_keeps_what_it_gave_until_the_end_and_no_longer() {
        let mut plan = Plan::default();
        plan.follow(Some(site()), at(0));
        plan.answered(Protocol::Upnp, &answer("203.0.113.5:7", 1200), at(0));
        let mut now = at(0);
        let mut asked = 0;
        while let Some(next) = plan.next_at().filter(|_| plan.mapped().is_some()) {
            now = next;
            asked += 1;
            plan.failed(vec![(Protocol::Upnp, "no answer".to_owned())], now);
            assert!(asked < 20);
        }
        assert!(now.since(at(1200)) <= RETRY, "{now:?}");
        assert!((3..=10).contains(&asked), "{asked}");
        // Then all protocols are tried, ever less often.
        let mut waits = Vec::new();
        for _ in 0..12 {
            let next = plan.next_at().expect("more to do");
            assert_eq!(plan.due(next), Some(Task::Ask(site())));
            plan.failed(Vec::new(), next);
            waits.push(plan.next_at().expect("more to do").since(next));
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert_eq!(waits.last(), Some(&RETRY_MAX));
    }

    #[test]
    fn a_lie_ends_what_was_held() {
        let mut plan = Plan::default();
        plan.follow(Some(site()), at(0));
        plan.answered(Protocol::Pcp, &answer("203.0.113.5:7", 1200), at(0));
        let lie = answer("127.0.0.1:7", 1200);
        let verdict = plan.answered(Protocol::Pcp, &lie, at(300));
        assert_eq!(verdict, Verdict::Refused(Unfit::Impossible(lie.external.0)));
        plan.failed(vec![(Protocol::Pcp, "lies".to_owned())], at(300));
        assert_eq!((plan.mapped(), plan.due(at(301))), (None, None));
    }

    #[test]
    fn another_network_begins_anew() {
        let mut plan = Plan::default();
        plan.follow(Some(site()), at(0));
        plan.failed(Vec::new(), at(1));
        let moved = Site { local: Ipv4Addr::new(10, 1, 0, 9), ..site() };
        assert!(!plan.follow(Some(moved), at(2)), "there was nothing to give back");
        assert_eq!(plan.due(at(2)), Some(Task::Ask(moved)));
        plan.answered(Protocol::Pcp, &answer("203.0.113.5:7", 1200), at(3));
        assert!(plan.follow(None, at(4)));
        assert_eq!((plan.mapped(), plan.next_at()), (None, None));
    }

    #[test]
    fn a_router_whose_clock_begins_anew_was_switched_off() {
        let mut plan = Plan::default();
        plan.follow(Some(site()), at(0));
        let said = |epoch| Answer { epoch: Some(epoch), ..answer("203.0.113.5:7", 1200) };
        plan.answered(Protocol::Pcp, &said(1000), at(0));
        assert_eq!(plan.answered(Protocol::Pcp, &said(1300), at(300)), Verdict::Held);
        // A clock that goes slow by an eighth is no restart.
        assert_eq!(plan.answered(Protocol::Pcp, &said(1562), at(600)), Verdict::Held);
        assert_eq!(plan.answered(Protocol::Pcp, &said(5), at(900)), Verdict::HeldAnew);
        assert_eq!(plan.answered(Protocol::Pcp, &said(u32::MAX), at(1200)), Verdict::Held);
        assert_eq!(plan.answered(Protocol::Pcp, &said(0), at(1500)), Verdict::HeldAnew);
    }
}
