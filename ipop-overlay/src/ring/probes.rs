//! Questions by which an operator looks at the ring: whether a node answers, by way of whom a message goes
//! to it, and to whom it is connected.
//!
//! A question has one answer at most, no longer than itself and on account of the neighbour that brought
//! it. An answer counts where a question waits for it, and where it comes in the name of the node that was
//! asked; those on its way can forge it, as they can withhold it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::counts::Count;
use super::limits::NEAR_PER_SIDE;
use super::wire::{Echo, EchoKind, Header, Kind, Mode, Roles, SURVEY_PAGE, Survey, SurveyAnswer, SurveyAsk};
use super::{Coordinates, Output, Ring, route};
use crate::address::NodeAddress;
use crate::time::Instant;

/// Questions that wait for their answer; the oldest is given up for a new one.
const PROBES_MAX: usize = 256;

/// Where a question on its way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its destination.
    Arrived,
    /// It had taken the hops that it might.
    UsedUp,
    /// The node knows no way further.
    NoWay,
}

/// A part of a node's connections, as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub number: u8,
    /// How many connections the node has, in all parts.
    pub total: u16,
    /// See [`Ring::log2_size`].
    pub log2_size: u16,
    pub coordinates: Coordinates,
    /// Who is at the other end, why the node keeps the connection, and why the other does. The nearest on the
    /// ring are in the first part.
    pub connections: Vec<(NodeAddress, Roles, Roles)>,
}

impl Page {
    /// How many parts there are.
    pub fn count(&self) -> u8 {
        u8::try_from(usize::from(self.total).div_ceil(SURVEY_PAGE)).unwrap_or(u8::MAX)
    }
}

/// Why there is no direct connection to a node yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// There is one.
    Connected,
    /// It is being made: the node has said where it is.
    Linking,
    /// The node has been asked, over the ring.
    Asked,
    /// It could not be made, and is not tried again before.
    Avoided(Instant),
    /// There is not enough traffic.
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Echo,
    Trace,
    Page(u8),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    token: u64,
    to: NodeAddress,
    what: What,
    sent: Instant,
}

/// Questions under way.
#[derive(Default)]
pub(super) struct Probes(VecDeque<Waiting>);

impl Probes {
    pub(super) const MAX: usize = PROBES_MAX;

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn insert(&mut self, waiting: Waiting) {
        if self.0.len() == PROBES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(waiting);
    }

    fn find(&self, token: u64, is_it: impl Fn(&Waiting) -> bool) -> Option<(usize, Waiting)> {
        let found = |waiting: &&(usize, Waiting)| waiting.1.token == token && is_it(&waiting.1);
        self.0.iter().copied().enumerate().find(|waiting| found(&waiting))
    }
}

impl Ring {
    /// Asks a node for an echo over the ring; [`Output::Echoed`] has the same `token`.
    pub fn echo(&mut self, to: NodeAddress, token: u64, now: Instant) {
        let (header, echo) = self.ask_for_echo(to, token, now);
        self.originate(header, None, &echo.to_bytes(), None, now);
    }

    /// The same the way that [`Ring::carry`] goes: what comes back shows that all has arrived which was
    /// carried before.
    pub fn echo_behind(&mut self, to: NodeAddress, token: u64, now: Instant) {
        let (header, echo) = self.ask_for_echo(to, token, now);
        self.originate_around(header, &echo.to_bytes(), now);
    }

    fn ask_for_echo(&mut self, to: NodeAddress, token: u64, now: Instant) -> (Header, Echo) {
        self.probes.insert(Waiting { token, to, what: What::Echo, sent: now });
        (self.header(Mode::Exact, Kind::Echo, to), Echo { kind: EchoKind::Asks, hops: 0, token })
    }

    /// Asks who the node is to which a message to another has come after so many hops;
    /// [`Output::Traced`] has the same `token`.
    pub fn trace(&mut self, to: NodeAddress, token: u64, hops: u16, now: Instant) {
        self.probes.insert(Waiting { token, to, what: What::Trace, sent: now });
        let header = self.header(Mode::Exact, Kind::Echo, to);
        let header = Header { hops_max: hops.clamp(1, header.hops_max), ..header };
        let echo = Echo { kind: EchoKind::Traces, hops: 0, token };
        self.originate(header, None, &echo.to_bytes(), None, now);
    }

    /// Asks a node for a part of its connections, by number; [`Output::Surveyed`] has the same `token`.
    pub fn survey(&mut self, of: NodeAddress, token: u64, page: u8, now: Instant) {
        self.probes.insert(Waiting { token, to: of, what: What::Page(page), sent: now });
        let header = self.header(Mode::Exact, Kind::Survey, of);
        let ask = Survey::Asks(SurveyAsk { page, token });
        self.originate(header, None, &ask.to_bytes(), None, now);
    }

    /// How many hops a message of this node's may take.
    pub fn hops_max(&self) -> u16 {
        super::hops_max(self.log2_size())
    }

    /// The node to which a message to another goes first.
    pub fn next_hop(&self, to: NodeAddress) -> Option<NodeAddress> {
        route::decide(&self.table, None, &self.header(Mode::Exact, Kind::Carried, to)).next
    }

    /// Why there is no direct connection to a node.
    pub fn outlook(&self, to: NodeAddress, now: Instant) -> Outlook {
        let until = self.avoided.get(&to).filter(|until| **until > now);
        if self.table.contains(to) {
            Outlook::Connected
        } else if self.is_linking(to) {
            Outlook::Linking
        } else if self.is_asking(to) {
            Outlook::Asked
        } else {
            until.map_or(Outlook::Quiet, |until| Outlook::Avoided(*until))
        }
    }

    /// Nodes of which this one knows: those that it is connected to, and their neighbours as they say.
    pub fn known(&self) -> impl Iterator<Item = NodeAddress> {
        let neighbours = self.table.iter().flat_map(|(_, edge)| edge.neighbours.iter().copied());
        self.table.iter().map(|(address, _)| address).chain(neighbours)
    }

    /// A part of this node's own connections.
    pub fn page(&self, number: u8) -> Page {
        let near = self.table.neighbours();
        let rest = self.table.iter().map(|(address, _)| address).filter(|address| !near.contains(address));
        let all = near.iter().copied().chain(rest).skip(usize::from(number) * SURVEY_PAGE).take(SURVEY_PAGE);
        let told = |address| {
            let edge = self.table.get(address)?;
            Some((address, edge.mine, edge.theirs))
        };
        Page {
            number,
            total: u16::try_from(self.table.len()).unwrap_or(u16::MAX),
            log2_size: self.log2_size(),
            coordinates: self.vivaldi.at(),
            connections: all.filter_map(told).collect(),
        }
    }

    pub(super) fn echo_message(&mut self, from: NodeAddress, header: &Header, payload: &[u8], now: Instant) {
        let Some(Echo { kind, hops, token }) = Echo::parse(payload) else {
            self.counts.add(Count::BadMessage);
            return;
        };
        let end = match kind {
            EchoKind::Asks | EchoKind::Traces => {
                let hops = header.hops.saturating_add(1);
                self.answer_echo(from, header, Echo { kind: EchoKind::Answers, hops, token }, now);
                return;
            }
            EchoKind::Answers => End::Arrived,
            EchoKind::UsedUp => End::UsedUp,
            EchoKind::NoWay => End::NoWay,
        };
        let source = header.source;
        let fits = |waiting: &Waiting| match waiting.what {
            What::Echo => end == End::Arrived && waiting.to == source,
            What::Trace => (end == End::Arrived) == (waiting.to == source),
            What::Page(_) => false,
        };
        let Some(waiting) = self.take_probe(token, fits) else { return };
        let rtt = now.since(waiting.sent);
        self.outputs.push_back(match waiting.what {
            What::Trace => Output::Traced { token, from: source, rtt, hops, end },
            What::Echo | What::Page(_) => Output::Echoed { token, from: source, rtt, hops },
        });
    }

    pub(super) fn survey_message(
        &mut self,
        from: NodeAddress,
        header: &Header,
        payload: &[u8],
        now: Instant,
    ) {
        match Survey::parse(payload).filter(|_| header.mode == Mode::Exact) {
            Some(Survey::Asks(SurveyAsk { page, token })) => {
                let Page { total, log2_size, coordinates, connections, .. } = self.page(page);
                let answer = SurveyAnswer { page, total, token, log2_size, coordinates, connections };
                let back = self.header(Mode::Exact, Kind::Survey, header.source);
                self.originate(back, None, &Survey::Answers(answer).to_bytes(), Some(from), now);
            }
            Some(Survey::Answers(answer)) => self.surveyed(header.source, answer, now),
            None => self.counts.add(Count::BadMessage),
        }
    }

    fn surveyed(&mut self, source: NodeAddress, answer: SurveyAnswer, now: Instant) {
        let SurveyAnswer { page: number, total, token, log2_size, coordinates, connections } = answer;
        let fits = |waiting: &Waiting| waiting.what == What::Page(number) && waiting.to == source;
        let Some(waiting) = self.take_probe(token, fits) else { return };
        let rtt = now.since(waiting.sent);
        let page = Page { number, total, log2_size, coordinates, connections };
        self.outputs.push_back(Output::Surveyed { token, from: source, rtt, page });
    }

    /// The question that an answer with this token fits. Another's answer leaves it waiting.
    fn take_probe(&mut self, token: u64, fits: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        if let Some((at, waiting)) = self.probes.find(token, fits) {
            self.probes.0.remove(at);
            return Some(waiting);
        }
        let is_asked = self.probes.find(token, |_| true).is_some();
        self.counts.add(if is_asked { Count::FalseAnswer } else { Count::Unexpected });
        None
    }

    /// A message that a neighbour sent on ends here. Its sender is told if it traces the way; nobody is told
    /// of what is no question.
    pub(super) fn trace_ended(
        &mut self,
        from: NodeAddress,
        header: &Header,
        payload: &[u8],
        kind: EchoKind,
        now: Instant,
    ) {
        if header.kind != Kind::Echo || header.mode != Mode::Exact {
            return;
        }
        if let Some(Echo { kind: EchoKind::Traces, token, .. }) = Echo::parse(payload) {
            self.answer_echo(from, header, Echo { kind, hops: header.hops, token }, now);
        }
    }

    fn answer_echo(&mut self, from: NodeAddress, header: &Header, answer: Echo, now: Instant) {
        let back = self.header(Mode::Exact, Kind::Echo, header.source);
        self.originate(back, self.way_back(from, header.source), &answer.to_bytes(), Some(from), now);
    }
}

/// The nearest of a node fit into the first part.
const _: () = assert!(2 * NEAR_PER_SIDE <= SURVEY_PAGE);
