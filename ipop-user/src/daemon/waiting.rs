//! Before this node is a member of its group: it has no network yet, waits to be approved, and says so to its operator.

use anyhow::Result;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Signals, clock};
use crate::api;
use crate::config::Config;
use crate::control::Request;
use crate::group::{Conversation, Membership, Word};
use crate::key::PublicKey;

/// How the waiting has ended.
pub(super) enum Waited {
    Member(Box<Membership>),
    Stopped,
}

/// A node that is no member yet.
pub(super) struct Applicant<'a> {
    config: &'a Config,
    public_key: PublicKey,
    state: api::MembershipState,
    trouble: Option<String>,
    started: ipop_overlay::Instant,
}

impl<'a> Applicant<'a> {
    pub(super) fn new(config: &'a Config, public_key: PublicKey) -> Self {
        let state = api::MembershipState::Pending;
        Self { config, public_key, state, trouble: None, started: clock::now() }
    }

    /// Until it is a member, or is to stop.
    pub(super) async fn wait(
        mut self,
        conversation: &mut Conversation,
        requests: &mut mpsc::Receiver<Request>,
        signals: &mut Signals,
    ) -> Result<Waited> {
        info!("{}", self.reason());
        // Whoever starts it is not to wait for an administrator.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            warn!(%error, "the service manager was not told");
        }
        loop {
            tokio::select! {
                word = conversation.next_word() => match word {
                    Some(Word::Member(membership)) => {
                        membership.write(&self.config.node.state_dir)?;
                        info!(name = %membership.member.grant.node, "a member of the group");
                        return Ok(Waited::Member(membership));
                    }
                    Some(word) => self.hear(word),
                    None => anyhow::bail!("the conversation with the group's server has ended"),
                },
                Some(request) = requests.recv() => self.answer(request),
                _ = signals.terminate.recv() => return Ok(Waited::Stopped),
                _ = signals.interrupt.recv() => return Ok(Waited::Stopped),
                _ = signals.hangup.recv() => warn!("not reloaded: this node waits to be a member of its group"),
            }
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Other(status) => {
                self.trouble = None;
                let state = match status.as_str() {
                    "denied" => api::MembershipState::Denied,
                    "removed" => api::MembershipState::Removed,
                    _ => api::MembershipState::Pending,
                };
                if state != self.state {
                    self.state = state;
                    warn!("{}", self.reason());
                }
            }
            Word::Trouble(reason) => {
                warn!(reason, "the group's server");
                self.trouble = Some(reason);
            }
            Word::Well | Word::Member(_) => self.trouble = None,
        }
    }

    fn reason(&self) -> String {
        let address = self.public_key.node_address();
        match self.state {
            api::MembershipState::Denied => {
                "the group has denied this machine: ask its manager to approve it".to_owned()
            }
            api::MembershipState::Removed => {
                "the group has removed this machine: ask its manager to approve it again".to_owned()
            }
            api::MembershipState::Pending | api::MembershipState::Member => format!(
                "waiting to be approved by a manager of the group, who compares this machine's address: {address}"
            ),
        }
    }

    fn answer(&self, request: Request) {
        let nothing = || self.reason();
        match request {
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Peers(reply) => drop(reply.send(Vec::new())),
            Request::Links(reply) => drop(reply.send(Vec::new())),
            Request::Routes(reply) => drop(reply.send(Vec::new())),
            Request::Groups(reply) => {
                let (groups, links) = (Vec::new(), Vec::new());
                drop(reply.send(api::Groups { reason: Some(nothing()), groups, links }));
            }
            Request::Stations(reply) => {
                let stations = Vec::new();
                drop(reply.send(api::Stations { reason: Some(nothing()), shut_by: None, stations }));
            }
            Request::Dhcp(reply) => {
                let (mode, leases) = (api::DhcpMode::Dhcp, Vec::new());
                drop(reply.send(api::Dhcp { mode, pool: None, trouble: Some(nothing()), leases }));
            }
            Request::Counters(reply) => {
                let none = || std::iter::empty().collect();
                drop(reply.send(api::Counters { kernel: none(), user: none(), overlay: none() }));
            }
            Request::Explain { reply, .. } => drop(reply.send(Err(nothing()))),
            Request::Probe { probe, .. } => probe.refuse(nothing()),
            Request::Dht { reply, .. } => drop(reply.send(Err(nothing()))),
            Request::SetKernel { reply, .. } => drop(reply.send(Err(nothing()))),
            Request::Reload(reply) => drop(reply.send(Err(nothing()))),
        }
    }

    fn status(&self) -> api::Status {
        let none = Some("this node is no member of its group yet".to_owned());
        api::Status {
            name: self.config.node.name.clone(),
            address: self.public_key.node_address(),
            public_key: self.public_key.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: clock::now().since(self.started).as_secs(),
            network: self.config.network.name.clone(),
            device: self.config.network.device.as_str().to_owned(),
            virtual_ips: Vec::new(),
            mtu: 0,
            listen: Vec::new(),
            listen_tcp: Vec::new(),
            datapath: api::Datapath {
                kernel: api::KernelState::Off,
                kernel_reason: none.clone(),
                attach: None,
                xdp: api::XdpState::Off,
                xdp_reason: none.clone(),
                io: api::IoBackend::Epoll,
                io_reason: none,
                queues: 0,
                device_kind: api::DeviceKind::Tun,
            },
            interfaces: Vec::new(),
            peers_total: 0,
            peers_direct: 0,
            overlay: None,
            membership: Some(api::Membership {
                group: self.config.group.as_ref().map(|group| group.place.to_string()).unwrap_or_default(),
                state: self.state,
                reason: self.reason(),
                trouble: self.trouble.clone(),
                ..api::Membership::default()
            }),
            dns: api::Dns::default(),
            warnings: Vec::new(),
        }
    }
}
