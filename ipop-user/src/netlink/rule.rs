//! The rules by which this host looks into the table of subnets. Owns the rules that carry our protocol number, and
//! no others.
//!
//! | priority | rule | what for |
//! |---|---|---|
//! | 11700 | `lookup main suppress_prefixlength 0` | the host's own routes, but for its default one, go first |
//! | 11701 | `iif DEVICE goto 11704` | what comes from the overlay does not go back into it |
//! | 11702 | `to 224.0.0.0/3 goto 11704` | multicast and broadcast stay on the host's wires; IPv4 alone, an exit node gets none of IPv6 |
//! | 11703 | `not fwmark UNDERLAY_MARK lookup 117` | all but the daemon's own packets |
//! | 11704 | `nop` | |

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::{RouteHeader, RouteProtocol};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tracing::debug;

use super::route::{ROUTE_PROTOCOL, SUBNETS_TABLE};
use super::{Netlink, Result};

/// The firewall mark of what the daemon itself sends: `IPOP`. Its packets find their way as if there were no virtual
/// network, as those of `wg-quick` do.
pub const UNDERLAY_MARK: u32 = 0x4950_4f50;

/// Marks what a socket sends as the daemon's own. Without the right to do so, the daemon has no rules either.
pub fn mark_underlay(socket: &impl AsFd) {
    if let Err(error) = SockRef::from(socket).set_mark(UNDERLAY_MARK) {
        debug!(%error, "a socket is not marked");
    }
}

/// Opens a TCP connection of the daemon's own.
///
/// # Errors
/// Why there is none.
pub async fn connect_underlay(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    mark_underlay(&socket);
    socket.connect(to).await
}

/// The first of our rules: before `main`, and before what `ip rule add` gives by itself.
const FIRST: u32 = 11_700;
/// Where the rules end.
const LAST: u32 = FIRST + 4;
/// Multicast, and what is for no host, up to the broadcast address.
const NO_HOSTS: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 3);

/// A rule: what of it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Main,
    FromDevice,
    ToMany,
    Subnets,
    End,
}

impl Rule {
    /// In the order in which they are made. One that is jumped to comes before those that jump, and the one that
    /// keeps the host's own routes before the one that would overrule them.
    const ALL: [Self; 5] = [Self::End, Self::Main, Self::FromDevice, Self::ToMany, Self::Subnets];

    fn priority(self) -> u32 {
        match self {
            Self::Main => FIRST,
            Self::FromDevice => FIRST + 1,
            Self::ToMany => FIRST + 2,
            Self::Subnets => FIRST + 3,
            Self::End => LAST,
        }
    }

    fn message(self, family: AddressFamily, device: &str) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family;
        message.header.action = RuleAction::ToTable;
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.priority()));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
        match self {
            Self::Main => {
                message.header.table = RouteHeader::RT_TABLE_MAIN;
                attributes.push(RuleAttribute::SuppressPrefixLen(0));
            }
            Self::FromDevice => {
                message.header.action = RuleAction::Goto;
                attributes.push(RuleAttribute::Iifname(device.to_owned()));
                attributes.push(RuleAttribute::Goto(LAST));
            }
            Self::ToMany => {
                message.header.action = RuleAction::Goto;
                message.header.dst_len = NO_HOSTS.1;
                attributes.push(RuleAttribute::Destination(NO_HOSTS.0.into()));
                attributes.push(RuleAttribute::Goto(LAST));
            }
            Self::Subnets => {
                message.header.table = SUBNETS_TABLE;
                message.header.flags = RuleFlags::Invert;
                attributes.push(RuleAttribute::FwMark(UNDERLAY_MARK));
                attributes.push(RuleAttribute::FwMask(u32::MAX));
            }
            Self::End => message.header.action = RuleAction::Nop,
        }
        message
    }
}

impl Netlink {
    /// Has the host look into the table of subnets, but for what comes from `device` and for marked packets; or into
    /// it no more. A host without IPv6 has the rules of IPv4 alone.
    ///
    /// # Errors
    /// Why the kernel refuses one.
    pub async fn sync_rules(&self, device: &str, is_wanted: bool) -> Result<()> {
        let mut outcome = Ok(());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let present = self.our_rules(family).await?;
            // An earlier run's may name another device.
            for rule in present {
                outcome = outcome.and(self.remove_rule(rule).await);
            }
            let is_of_family = |rule: &Rule| *rule != Rule::ToMany || family == AddressFamily::Inet;
            for rule in Rule::ALL.into_iter().filter(|rule| is_wanted && is_of_family(rule)) {
                outcome = outcome.and(self.add_rule(rule.message(family, device)).await);
            }
        }
        outcome
    }

    async fn our_rules(&self, family: AddressFamily) -> Result<Vec<RuleMessage>> {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let answer = match self.dump(RouteNetlinkMessage::GetRule(request)).await {
            Ok(answer) => answer,
            Err(failure) if matches!(failure.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {
                return Ok(Vec::new());
            }
            Err(failure) => return Err(failure.explain("list the rules".into(), "any")),
        };
        let rules = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRule(rule) => Some(rule),
            _ => None,
        });
        Ok(rules.filter(is_ours).collect())
    }

    async fn remove_rule(&self, rule: RuleMessage) -> Result<()> {
        match self.request(RouteNetlinkMessage::DelRule(rule), 0).await {
            Ok(_) => Ok(()),
            Err(failure) if matches!(failure.errno(), Some(libc::ENOENT | libc::ESRCH)) => Ok(()),
            Err(failure) => Err(failure.explain("remove a rule".into(), "any")),
        }
    }

    async fn add_rule(&self, rule: RuleMessage) -> Result<()> {
        let priority = rule.attributes.first().cloned();
        match self.request(RouteNetlinkMessage::NewRule(rule), NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(_) => Ok(()),
            Err(failure) if matches!(failure.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => Ok(()),
            Err(failure) => Err(failure.explain(format!("add the rule {priority:?}"), "any")),
        }
    }
}

/// Whether a rule carries our protocol number and one of our priorities.
fn is_ours(rule: &RuleMessage) -> bool {
    let ours = RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    let is_in_range = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::Priority(priority) if (FIRST..=LAST).contains(priority));
    rule.attributes.contains(&ours) && rule.attributes.iter().any(is_in_range)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{Emitable, Parseable};

    use super::*;

    #[test]
    fn our_rules_are_known_again_and_no_others() {
        for rule in Rule::ALL {
            let message = rule.message(AddressFamily::Inet, "ipop0");
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            let read = RuleMessage::parse(&bytes).unwrap();
            assert!(is_ours(&read), "{rule:?}");
            let mut foreign = read.clone();
            foreign.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
            assert!(!is_ours(&foreign), "{rule:?}");
            let mut elsewhere = read;
            elsewhere.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Priority(_)));
            elsewhere.attributes.push(RuleAttribute::Priority(LAST + 1));
            assert!(!is_ours(&elsewhere), "{rule:?}");
        }
    }

    #[test]
    fn the_hosts_own_routes_go_first_and_the_jump_skips_the_subnets() {
        let order =
            [Rule::Main, Rule::FromDevice, Rule::ToMany, Rule::Subnets, Rule::End].map(Rule::priority);
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    }
}
