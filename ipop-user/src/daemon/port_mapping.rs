//! A port of the router's that leads to this node, where it is behind one that gives ports: asked for by PCP,
//! NAT-PMP or UPnP, renewed, and given back in the end. What it says is one more place at which others may look
//! for this node, behind those at which members see it, and nothing is sent there but handshakes.
//!
//! | file | what |
//! |---|---|
//! | `plan` | what is asked when, and what is believed |
//! | `ask` | the protocols |

mod ask;
mod plan;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipop_common::Counter;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info};

use self::ask::Held;
use self::plan::{Answer, Plan, Protocol, Task, Verdict};
pub(super) use self::plan::{Mapped, Site};
use super::{Daemon, clock};
use crate::api;
use crate::netlink::UNDERLAY_MARK;
use crate::userpath::Counters;

/// By the way to this address of the internet the router is found: that of the nearest PCP server (RFC 7723).
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 9);
/// For giving back what is held when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// Of what a router says in an error.
const REASON_MAX: usize = 120;

/// What is known of the router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    site: Option<Site>,
    mapped: Option<Mapped>,
    /// Why it gives nothing, by protocol.
    failures: Vec<(Protocol, String)>,
}

/// The daemon's end of the task that asks the router.
pub(super) struct PortMapping {
    wanted: watch::Sender<Option<Site>>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
    /// Why no router is asked.
    reason: String,
}

impl PortMapping {
    pub(super) fn start(counters: Arc<Counters>) -> Self {
        let (wanted, site) = watch::channel(None);
        let (state, seen) = watch::channel(State::default());
        let router = Router { plan: Plan::default(), held: None, counters };
        let task = tokio::spawn(router.run(site, state));
        Self { wanted, state: seen, task, reason: "the host's routes have not been looked at yet".to_owned() }
    }

    /// What is to be reached from outside from now on, or why nothing is.
    fn follow(&mut self, site: Result<Site, String>) {
        let site = site.map_err(|reason| self.reason = reason).ok();
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, site) != site);
    }

    /// Returns when there is news of the router.
    pub(super) async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // The task has ended, and says nothing any more.
            std::future::pending::<()>().await;
        }
    }

    fn external(&mut self) -> Option<SocketAddr> {
        self.state.borrow_and_update().mapped.map(|mapped| mapped.external)
    }

    /// Gives back what is held, as far as the router answers soon.
    pub(super) async fn close(self) {
        drop(self.wanted);
        let abort = self.task.abort_handle();
        if timeout(FAREWELL, self.task).await.is_err() {
            abort.abort();
            debug!("the router has not taken its port back, and keeps it until the lease ends");
        }
    }

    pub(super) fn status(&self) -> api::PortMapping {
        let state = self.state.borrow();
        let reason = match (&state.site, state.failures.is_empty()) {
            _ if state.mapped.is_some() => None,
            (None, _) => Some(self.reason.clone()),
            (Some(_), true) => Some("the router is being asked".to_owned()),
            (Some(_), false) => {
                let why = |(protocol, why): &(Protocol, String)| format!("{protocol}: {why}");
                Some(state.failures.iter().map(why).collect::<Vec<_>>().join("; "))
            }
        };
        api::PortMapping {
            external: state.mapped.map(|mapped| mapped.external),
            protocol: state.mapped.map(|mapped| mapped.protocol.name().to_owned()),
            lease_s: state.mapped.map(|mapped| mapped.until.since(clock::now()).as_secs()),
            gateway: state.site.map(|site| site.gateway),
            reason,
        }
    }
}

/// The task that asks.
struct Router {
    plan: Plan,
    held: Option<Held>,
    counters: Arc<Counters>,
}

impl Router {
    /// Until nobody wants anything any more.
    async fn run(mut self, mut wanted: watch::Receiver<Option<Site>>, state: watch::Sender<State>) {
        loop {
            let site = *wanted.borrow_and_update();
            if self.plan.follow(site, clock::now())
                && let Some(held) = self.held.take()
            {
                give_back(held).await;
            }
            if let Some(task) = self.plan.due(clock::now()) {
                // What is asked for at the moment when the daemon ends is left to its lease.
                let mut end = wanted.clone();
                tokio::select! {
                    () = self.carry_out(task) => {}
                    () = ended(&mut end) => break,
                }
            }
            let (mapped, failures) = (self.plan.mapped(), self.plan.failures().to_vec());
            state.send_if_modified(|before| {
                let now = State { site, mapped, failures };
                std::mem::replace(before, now.clone()) != now
            });
            let next = self.plan.next_at();
            let rest = async {
                match next {
                    Some(at) => tokio::time::sleep(clock::until(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { break },
                () = rest => {}
            }
        }
        if let Some(held) = self.held.take() {
            give_back(held).await;
        }
    }

    async fn carry_out(&mut self, task: Task) {
        let mut failures = Vec::new();
        match task {
            Task::Ask(site) => {
                for protocol in Protocol::ALL {
                    match ask::ask(protocol, &site).await {
                        Ok(answered) => match self.judge(protocol, answered).await {
                            Ok(()) => return,
                            Err(why) => failures.push((protocol, why)),
                        },
                        Err(why) => failures.push((protocol, short(&why))),
                    }
                }
            }
            Task::Renew(site, protocol) => {
                let answered = match &self.held {
                    Some(held) => ask::renew(held, &site).await,
                    None => Err("nothing is held".to_owned()),
                };
                match answered {
                    Ok(answered) => match self.judge(protocol, answered).await {
                        Ok(()) => return,
                        Err(why) => failures.push((protocol, why)),
                    },
                    Err(why) => failures.push((protocol, short(&why))),
                }
            }
        }
        for (protocol, why) in &failures {
            debug!(%protocol, why, "the router gives no port");
        }
        self.plan.failed(failures, clock::now());
        if self.plan.mapped().is_none() {
            self.held = None;
        }
    }

    /// Keeps what the router has given if it can be true, and else gives it back.
    async fn judge(&mut self, protocol: Protocol, (held, answer): (Held, Answer)) -> Result<(), String> {
        let before = self.plan.mapped().map(|mapped| mapped.external);
        match self.plan.answered(protocol, &answer, clock::now()) {
            Verdict::Refused(unfit) => {
                self.counters.add(Counter::RxBadMapping, 1);
                self.held = None;
                give_back(held).await;
                return Err(unfit.to_string());
            }
            Verdict::HeldAnew => {
                info!(%protocol, "the router has forgotten its ports, and has given one again");
            }
            Verdict::Held => {}
        }
        self.held = Some(held);
        let external = self.plan.mapped().map(|mapped| mapped.external);
        if let Some(external) = external.filter(|_| external != before) {
            info!(%protocol, %external, "the router has given a port");
        }
        Ok(())
    }
}

async fn give_back(held: Held) {
    if let Err(why) = ask::give_back(held).await {
        debug!(
            why = short(&why),
            "the router has not taken its port back, and keeps it until the lease ends"
        );
    }
}

/// Returns when the daemon wants nothing any more.
async fn ended(wanted: &mut watch::Receiver<Option<Site>>) {
    while wanted.changed().await.is_ok() {}
}

/// What a router says, for a log or a terminal.
fn short(text: &str) -> String {
    let mut shown: String = text.chars().take(REASON_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(REASON_MAX).is_some() {
        shown.push_str("..");
    }
    shown
}

impl Daemon {
    /// Looks for the router that is to be asked, and tells the task that asks.
    pub(super) async fn follow_router(&mut self) {
        let site = self.site().await;
        self.port_mapping.follow(site);
    }

    async fn site(&self) -> Result<Site, String> {
        if !self.config.underlay.port_mapping {
            return Err("underlay.port_mapping = false in the configuration".to_owned());
        }
        if self.overlay.is_none() {
            return Err("this node is in no overlay, and tells nobody where it is".to_owned());
        }
        let way = self.netlink.resolve(ANYWHERE.into(), Some(UNDERLAY_MARK), &self.device.own()).await;
        let way = way.map_err(|error| format!("no router: {error}"))?;
        let (Some(IpAddr::V4(gateway)), IpAddr::V4(local)) = (way.gateway, way.source) else {
            return Err("no router: the internet is on the link".to_owned());
        };
        if !is_inside(local) {
            return Err(format!("{local} needs none: it is no address of an inside network"));
        }
        let port = self.port_for(&SocketAddr::new(local.into(), 0));
        match NonZeroU16::new(port).filter(|_| self.listens_at(local.into())) {
            Some(port) => Ok(Site { gateway, local, port }),
            None => Err(format!("underlay.listen has no address by which {local} is reached")),
        }
    }

    /// The router has given a port, or takes one back: others are told.
    pub(super) fn router_answered(&mut self) {
        let external = self.port_mapping.external();
        let configured = self.config.underlay.external.iter().copied();
        self.node.set_lent(configured.chain(external).collect());
    }
}

/// Whether an address is one that somebody has to translate.
fn is_inside(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || a == 100 && b & 0b1100_0000 == 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_router_says_is_short_and_plain() {
        assert_eq!(short("no answer"), "no answer");
        assert_eq!(short("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        let long = "x".repeat(1 << 20);
        assert_eq!(short(&long).len(), REASON_MAX + 2);
    }

    #[test]
    fn only_inside_addresses_need_a_router() {
        for inside in ["10.1.0.2", "172.31.0.1", "192.168.0.1", "100.64.0.1", "100.127.255.255"] {
            assert!(inside.parse().is_ok_and(is_inside), "{inside}");
        }
        for outside in ["198.51.100.1", "100.63.0.1", "100.128.0.1", "172.32.0.1", "203.0.113.2"] {
            assert!(!outside.parse().is_ok_and(is_inside), "{outside}");
        }
    }
}
