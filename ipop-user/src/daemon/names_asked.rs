//! Names that the DNS is asked for and that this node does not know by itself: they are in the DHT.

use std::net::IpAddr;

use ipop_overlay::directory::{Answer, Question};
use tokio::sync::{mpsc, oneshot};

use super::dhcp::follows_from;
use super::{Daemon, clock};
use crate::config::{is_domain, is_name};
use crate::dns::{NoAnswer, Offer};

/// Questions of the DNS at a time: as many as it lets wait.
pub(super) const QUEUE: usize = 256;

/// What the DNS asks.
#[derive(Debug)]
pub(super) enum Ask {
    Addresses { host: String, reply: oneshot::Sender<Result<Option<Vec<IpAddr>>, NoAnswer>> },
    Name { address: IpAddr, reply: oneshot::Sender<Result<Option<String>, NoAnswer>> },
    Services { service: String, reply: oneshot::Sender<Result<Option<Vec<Offer>>, NoAnswer>> },
}

pub(super) type Asks = mpsc::Receiver<Ask>;

/// Those that are not answered yet, and what each waits for.
#[derive(Default)]
pub(super) struct Waiting(Vec<(Question, Ask)>);

/// What is still to be known.
enum Step<T> {
    Done(T),
    Wants(Question),
}

impl Daemon {
    /// The DNS asks.
    pub(super) fn ask_for_name(&mut self, ask: Ask) {
        if let Some((question, ask)) = self.answered(ask) {
            self.dhcp.asked.0.retain(|(_, other)| !other.is_given_up());
            match self.dhcp.asked.0.len() < QUEUE {
                true => self.dhcp.asked.0.push((question, ask)),
                false => ask.fail(),
            }
        }
    }

    /// A question of the directory's is answered, or could not be: who waits for it goes on.
    pub(super) fn answer_names(&mut self, question: &Question, is_answered: bool) {
        for (wanted, ask) in std::mem::take(&mut self.dhcp.asked.0) {
            if wanted != *question {
                self.dhcp.asked.0.push((wanted, ask));
            } else if !is_answered {
                ask.fail();
            } else if let Some(waiting) = self.answered(ask) {
                self.dhcp.asked.0.push(waiting);
            }
        }
    }

    /// Answers what can be; returns what has to wait, and for what.
    fn answered(&mut self, ask: Ask) -> Option<(Question, Ask)> {
        let can_be = match &ask {
            Ask::Addresses { host, .. } => is_name(host) && is_domain(host),
            Ask::Name { .. } | Ask::Services { .. } => true,
        };
        if self.overlay.is_none() || !can_be {
            ask.say_nothing();
            return None;
        }
        let question = match &ask {
            Ask::Addresses { host, .. } => match self.addresses_of(host) {
                Step::Done(addresses) => {
                    ask.say_addresses(addresses);
                    return None;
                }
                Step::Wants(question) => question,
            },
            Ask::Name { address, .. } => match self.name_of_address(*address) {
                Step::Done(name) => {
                    // One that has registered none is called by the beginning of its address.
                    let peer = self.holder(*address).and_then(|id| self.peers.get(&id));
                    let name = name.or_else(|| peer.map(|peer| peer.config.name.to_ascii_lowercase()));
                    ask.say_name(name);
                    return None;
                }
                Step::Wants(question) => question,
            },
            Ask::Services { service, .. } => match self.offers_of(service) {
                Step::Done(offers) => {
                    ask.say_offers(offers);
                    return None;
                }
                Step::Wants(question) => question,
            },
        };
        let now = clock::now();
        let directory = self.dhcp.directory();
        if directory.is_some_and(|directory| directory.ask(question.clone(), &mut self.node, now)) {
            return Some((question, ask));
        }
        ask.fail();
        None
    }

    fn known(&self, question: Question) -> Step<Answer> {
        let known = self.dhcp.known(&question, clock::now());
        known.map_or(Step::Wants(question), |answer| Step::Done(answer.clone()))
    }

    /// The addresses of a host which leases say are its own.
    fn addresses_of(&self, host: &str) -> Step<Option<Vec<IpAddr>>> {
        let (owner, addresses) = match self.known(Question::Host(host.to_owned())) {
            Step::Done(Answer::Owner { public_key, addresses, .. }) => (public_key, addresses),
            Step::Done(Answer::Nobody | Answer::Offered(_)) => return Step::Done(None),
            Step::Wants(question) => return Step::Wants(question),
        };
        let mut own = Vec::new();
        for address in addresses {
            if follows_from(address, &owner) {
                own.push(address);
                continue;
            }
            match self.known(Question::Owner(address)) {
                Step::Done(Answer::Owner { public_key, .. }) if public_key == owner => own.push(address),
                Step::Done(_) => {}
                Step::Wants(question) => return Step::Wants(question),
            }
        }
        Step::Done(Some(own))
    }

    /// The name of the host with a lease, which its record says is the same node's.
    fn name_of_address(&self, address: IpAddr) -> Step<Option<String>> {
        let (owner, host) = match self.known(Question::Owner(address)) {
            Step::Done(Answer::Owner { public_key, host, .. }) => (public_key, host),
            Step::Done(Answer::Nobody | Answer::Offered(_)) => return Step::Done(None),
            Step::Wants(question) => return Step::Wants(question),
        };
        if !is_name(&host) || !is_domain(&host) {
            return Step::Done(None);
        }
        match self.known(Question::Host(host.clone())) {
            Step::Done(Answer::Owner { public_key, .. }) if public_key == owner => Step::Done(Some(host)),
            Step::Done(_) => Step::Done(None),
            Step::Wants(question) => Step::Wants(question),
        }
    }

    /// Who offers a service and has the name that it is offered under.
    fn offers_of(&self, service: &str) -> Step<Option<Vec<Offer>>> {
        let offered = match self.known(Question::Service(service.to_owned())) {
            Step::Done(Answer::Offered(offered)) => offered,
            Step::Done(_) => return Step::Done(None),
            Step::Wants(question) => return Step::Wants(question),
        };
        let mut own = Vec::new();
        for (owner, offer) in offered {
            if !is_name(&offer.host) || !is_domain(&offer.host) {
                continue;
            }
            match self.known(Question::Host(offer.host.clone())) {
                Step::Done(Answer::Owner { public_key, .. }) if public_key == owner => own.push(offer),
                Step::Done(_) => {}
                Step::Wants(question) => return Step::Wants(question),
            }
        }
        Step::Done(Some(own).filter(|own| !own.is_empty()))
    }
}

impl Ask {
    fn is_given_up(&self) -> bool {
        match self {
            Self::Addresses { reply, .. } => reply.is_closed(),
            Self::Name { reply, .. } => reply.is_closed(),
            Self::Services { reply, .. } => reply.is_closed(),
        }
    }

    // Who has asked may have gone away.

    fn say_addresses(self, addresses: Option<Vec<IpAddr>>) {
        if let Self::Addresses { reply, .. } = self {
            drop(reply.send(Ok(addresses)));
        }
    }

    fn say_name(self, name: Option<String>) {
        if let Self::Name { reply, .. } = self {
            drop(reply.send(Ok(name)));
        }
    }

    fn say_offers(self, offers: Option<Vec<Offer>>) {
        if let Self::Services { reply, .. } = self {
            drop(reply.send(Ok(offers)));
        }
    }

    fn say_nothing(self) {
        match self {
            Self::Addresses { .. } => self.say_addresses(None),
            Self::Name { .. } => self.say_name(None),
            Self::Services { .. } => self.say_offers(None),
        }
    }

    fn fail(self) {
        match self {
            Self::Addresses { reply, .. } => drop(reply.send(Err(NoAnswer))),
            Self::Name { reply, .. } => drop(reply.send(Err(NoAnswer))),
            Self::Services { reply, .. } => drop(reply.send(Err(NoAnswer))),
        }
    }
}
