//! A TURN client (RFC 8656): an address at a server, which hands on what comes there from those that are permitted,
//! and sends from there what this node wants sent. The protocol is that of a library, which does no I/O; this is the
//! connection to the server, by UDP or TCP.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipop_common::Counter;
use stun_types::attribute::ErrorCode;
use stun_types::message::{Message, MessageClass, MessageHeader, TransactionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tracing::debug;
use turn_client_proto::api::{
    DelayedMessageOrChannelSend, Transmit, TransmitBuild, TurnClientApi, TurnConfig, TurnEvent, TurnPollRet,
    TurnRecvRet,
};
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{Instant, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

use crate::config::Transport;
use crate::netlink::{connect_underlay, mark_underlay};
use crate::stun;
use crate::userpath::clock::monotonic_ns;

/// How long a TCP connection to the server may take to open.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// Requests are repeated as RFC 8489 says, but given up sooner: another server may be there.
const RTO: Duration = Duration::from_millis(500);
const RESENDS: u32 = 4;
/// So often the server is asked whether it is there: that also keeps what is on the way from forgetting this node.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// One that has left so many questions unanswered is gone.
const UNANSWERED_MAX: u8 = 3;
/// What one datagram of the server may have.
const READ_MAX: usize = 64 << 10;
/// Lengths of the headers (RFC 8489, 5, and RFC 8656, 12.4), and what messages are filled up to by TCP.
const STUN_HEADER_LEN: usize = 20;
const CHANNEL_HEADER_LEN: usize = 4;
const PADDING: usize = 4;
/// Bytes that wait for a TCP connection.
const OUT_MAX: usize = 256 << 10;
/// Addresses that one allocation permits. A node that has used them up gets another allocation.
const PERMITTED_MAX: usize = 128;
/// Datagrams that wait until their receiver is permitted.
const HELD_MAX: usize = 32;
/// Who has been sent so many is sent the rest by a channel, which adds 4 bytes where an indication adds 36.
const BIND_AFTER: u8 = 8;
const CHANNELS_MAX: usize = 64;
/// The library is asked no more often than this at a time: what else there is to do comes first then.
const POLLS_MAX: usize = 32;
/// Requests whose answers are known again.
const REQUESTS_MAX: usize = 16;
/// The error of a server to which the name and the password are not good (RFC 8489, 14.8).
const UNAUTHENTICATED: u16 = 401;

/// What is to be sent, and to whom.
pub type Outgoing = (SocketAddr, Vec<u8>);

/// Where a server is, and who this node is there.
#[derive(Debug)]
pub struct Account {
    pub place: SocketAddr,
    pub transport: Transport,
    pub credentials: TurnCredentials,
}

/// What the connection hands on.
pub trait Client: Send {
    /// The server has given this node an address.
    fn granted(&mut self, relayed: SocketAddr);
    /// A datagram has come there.
    fn received(&mut self, from: SocketAddr, datagram: &[u8]);
    /// One datagram has not been sent, for this reason.
    fn dropped(&mut self, counter: Counter);
}

/// Has an address at a server until that ends, or until nobody has anything to send any more; says why.
pub async fn live(account: Account, outgoing: mpsc::Receiver<Outgoing>, client: &mut impl Client) -> String {
    let wire = match Wire::open(account.transport, account.place).await {
        Ok(wire) => wire,
        Err(error) => return format!("it is not reached: {error}"),
    };
    let local = match wire.local_addr() {
        Ok(local) => local,
        Err(error) => return format!("it is not reached: {error}"),
    };
    let mut config = TurnConfig::new(account.credentials);
    config.set_request_retransmits(RTO, RTO * 8, RESENDS, RTO * 8);
    match account.transport {
        Transport::Udp => {
            let turn = TurnClientUdp::allocate(local, account.place, config);
            Conversation::new(turn, wire, client).run(outgoing).await
        }
        Transport::Tcp => {
            let turn = TurnClientTcp::allocate(local, account.place, config);
            Conversation::new(turn, wire, client).run(outgoing).await
        }
    }
}

/// The connection to the server, and what has come by it.
struct Wire {
    socket: Socket,
    incoming: Vec<u8>,
}

enum Socket {
    Udp(UdpSocket),
    /// And what waits to be written.
    Tcp(TcpStream, Vec<u8>),
}

impl Wire {
    async fn open(transport: Transport, to: SocketAddr) -> io::Result<Self> {
        let socket = match transport {
            Transport::Udp => {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                mark_underlay(&socket);
                socket.connect(to).await?;
                Socket::Udp(socket)
            }
            Transport::Tcp => {
                let stream = tokio::time::timeout(OPEN_PATIENCE, connect_underlay(to)).await;
                let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream, Vec::new())
            }
        };
        Ok(Self { socket, incoming: Vec::with_capacity(READ_MAX) })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Udp(socket) => socket.local_addr(),
            Socket::Tcp(stream, _) => stream.local_addr(),
        }
    }

    fn has_room(&self) -> bool {
        match &self.socket {
            Socket::Udp(_) => true,
            Socket::Tcp(_, out) => out.len() < OUT_MAX,
        }
    }

    /// Sends, or has it wait for that; says whether it could.
    fn send(&mut self, message: &[u8]) -> bool {
        match &mut self.socket {
            Socket::Udp(socket) => socket.try_send(message).is_ok(),
            Socket::Tcp(_, out) => {
                let end = out.len() + message.len().next_multiple_of(PADDING);
                out.extend_from_slice(message);
                out.resize(end, 0);
                true
            }
        }
    }

    /// Waits until something has come, and writes what waits meanwhile.
    async fn receive(&mut self) -> io::Result<()> {
        self.incoming.reserve(READ_MAX);
        match &mut self.socket {
            Socket::Udp(socket) => {
                self.incoming.clear();
                socket.recv_buf(&mut self.incoming).await?;
                Ok(())
            }
            Socket::Tcp(stream, out) => {
                let (mut read, mut write) = stream.split();
                loop {
                    tokio::select! {
                        read = read.read_buf(&mut self.incoming) => return match read? {
                            0 => Err(io::ErrorKind::UnexpectedEof.into()),
                            _ => Ok(()),
                        },
                        written = write.write(out), if !out.is_empty() => drop(out.drain(..written?)),
                    }
                }
            }
        }
    }

    /// The next message that has come as a whole. By TCP one follows the other, and a datagram is one.
    fn next_message(&mut self) -> io::Result<Option<Vec<u8>>> {
        if matches!(self.socket, Socket::Udp(_)) {
            let message = std::mem::take(&mut self.incoming);
            return Ok((!message.is_empty()).then_some(message));
        }
        let Some(len) = message_len(&self.incoming)? else { return Ok(None) };
        let padded = len.next_multiple_of(PADDING);
        if self.incoming.len() < padded {
            return Ok(None);
        }
        let mut message: Vec<u8> = self.incoming.drain(..padded).collect();
        message.truncate(len);
        Ok(Some(message))
    }
}

/// How long the message at the front of a stream is, without what fills it up to four bytes (RFC 8656, 12.5); `None`
/// while that has not come.
fn message_len(stream: &[u8]) -> io::Result<Option<usize>> {
    let &[first, _, high, low, ..] = stream else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    match first >> 6 {
        0 => Ok(Some(STUN_HEADER_LEN + len)),
        1 => Ok(Some(CHANNEL_HEADER_LEN + len)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it sends what is no message of TURN")),
    }
}

/// Whether a receiver may be sent to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Permission {
    Asked,
    Given,
    Refused,
}

struct Conversation<'a, T, C> {
    turn: T,
    wire: Wire,
    client: &'a mut C,
    permitted: BTreeMap<IpAddr, Permission>,
    held: VecDeque<Outgoing>,
    /// How many datagrams have been sent to those that may be worth a channel.
    sent: BTreeMap<SocketAddr, u8>,
    /// When the server was asked last whether it is there, and how often it has said nothing since.
    asked_at: Instant,
    unanswered: u8,
    /// The numbers of the last requests.
    requests: VecDeque<TransactionId>,
    /// The last error of the server's, and how often that was one about who this node is.
    error: Option<(u16, String)>,
    unauthenticated: u8,
}

fn now() -> Instant {
    Instant::from_nanos(i64::try_from(monotonic_ns()).unwrap_or(i64::MAX))
}

impl<'a, T: TurnClientApi, C: Client> Conversation<'a, T, C> {
    fn new(turn: T, wire: Wire, client: &'a mut C) -> Self {
        Self {
            turn,
            wire,
            client,
            permitted: BTreeMap::new(),
            held: VecDeque::new(),
            sent: BTreeMap::new(),
            asked_at: now(),
            unanswered: 0,
            requests: VecDeque::new(),
            error: None,
            unauthenticated: 0,
        }
    }

    async fn run(mut self, mut outgoing: mpsc::Receiver<Outgoing>) -> String {
        loop {
            let wait = match self.drive() {
                Ok(wait) => wait,
                Err(reason) => return reason,
            };
            let has_room = self.wire.has_room();
            tokio::select! {
                received = self.wire.receive() => {
                    if let Err(error) = received.and_then(|()| self.take_in()) {
                        return format!("the connection to it has ended: {error}");
                    }
                    if self.is_refused() {
                        return self.reason("no answer");
                    }
                }
                next = outgoing.recv(), if has_room => match next {
                    Some((to, datagram)) => {
                        if !self.send(to, datagram) {
                            return "it permits no more addresses at a time: another one is asked for".to_owned();
                        }
                    }
                    None => return self.close().await,
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Does what the library wants; says how long it wants nothing.
    fn drive(&mut self) -> Result<Duration, String> {
        let now = now();
        let left = self.keep_alive(now)?;
        for _ in 0..POLLS_MAX {
            while let Some(transmit) = self.turn.poll_transmit(now) {
                // A request that is lost is repeated.
                self.note_request(&transmit.data);
                self.wire.send(&transmit.data);
            }
            while let Some(event) = self.turn.poll_event() {
                self.event(&event)?;
            }
            match self.turn.poll(now) {
                TurnPollRet::Closed => return Err(self.reason("it has ended the allocation")),
                TurnPollRet::WaitUntil(at) if at > now => return Ok(left.min(at.duration_since(now))),
                // The other two are about peers that are reached by TCP.
                _ => {}
            }
        }
        Ok(Duration::from_millis(1))
    }

    /// Asks the server whether it is there, when that is due; says how long it is not.
    fn keep_alive(&mut self, now: Instant) -> Result<Duration, String> {
        let left = KEEPALIVE.saturating_sub(now.saturating_duration_since(self.asked_at));
        if left > Duration::ZERO {
            return Ok(left);
        }
        if self.unanswered >= UNANSWERED_MAX {
            return Err("it does not answer any more".to_owned());
        }
        (self.asked_at, self.unanswered) = (now, self.unanswered + 1);
        self.wire.send(&stun::binding_request(TransactionId::generate()));
        Ok(KEEPALIVE)
    }

    fn event(&mut self, event: &TurnEvent) -> Result<(), String> {
        match event {
            TurnEvent::AllocationCreated(_, relayed) => {
                (self.error, self.unauthenticated) = (None, 0);
                self.client.granted(*relayed);
            }
            TurnEvent::AllocationCreateFailed(_) => return Err(self.reason("no answer")),
            TurnEvent::PermissionCreated(_, ip) => self.answered(*ip, Permission::Given),
            TurnEvent::PermissionCreateFailed(_, ip) => self.answered(*ip, Permission::Refused),
            _ => {}
        }
        Ok(())
    }

    /// Why there is no address, in words.
    fn reason(&self, without: &str) -> String {
        match &self.error {
            // The first one asks for the name and the password.
            Some((UNAUTHENTICATED, _)) if self.unauthenticated > 1 => {
                "it does not accept the username and the password".to_owned()
            }
            Some((UNAUTHENTICATED, _)) | None => without.to_owned(),
            Some((code, reason)) => format!("it refuses: {code} {reason}"),
        }
    }

    fn answered(&mut self, ip: IpAddr, answer: Permission) {
        debug!(%ip, is_given = answer == Permission::Given, "a TURN server about a permission");
        self.permitted.insert(ip, answer);
        let (now, later) = self.held.drain(..).partition(|(to, _)| to.ip() == ip);
        self.held = later;
        let now: VecDeque<Outgoing> = now;
        now.into_iter().for_each(|(to, datagram)| self.send_permitted(to, datagram));
    }

    /// Sends, once the receiver is permitted; false if no more can be.
    fn send(&mut self, to: SocketAddr, datagram: Vec<u8>) -> bool {
        match self.permitted.get(&to.ip()) {
            Some(Permission::Given | Permission::Refused) => self.send_permitted(to, datagram),
            known => {
                let is_new = known.is_none();
                if is_new {
                    if self.permitted.len() >= PERMITTED_MAX {
                        return false;
                    }
                    let asked = self.turn.create_permission(TransportType::Udp, to.ip(), now());
                    let permission = if asked.is_ok() { Permission::Asked } else { Permission::Refused };
                    self.permitted.insert(to.ip(), permission);
                }
                if self.held.len() >= HELD_MAX {
                    self.held.pop_front();
                    self.client.dropped(Counter::TxTurnFull);
                }
                self.held.push_back((to, datagram));
            }
        }
        true
    }

    fn send_permitted(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        let now = now();
        if self.permitted.get(&to.ip()) != Some(&Permission::Given) {
            return self.client.dropped(Counter::TxTurnRefused);
        }
        let has_taken = match self.turn.send_to(TransportType::Udp, to, datagram, now) {
            Ok(Some(transmit)) => self.wire.send(&bytes(transmit)),
            Ok(None) => true,
            Err(error) => {
                debug!(%to, %error, "not sent by a TURN server");
                return self.client.dropped(Counter::TxTurnRefused);
            }
        };
        if !has_taken {
            self.client.dropped(Counter::TxTurnFull);
        }
        self.worth_a_channel(to, now);
    }

    fn worth_a_channel(&mut self, to: SocketAddr, now: Instant) {
        if !self.sent.contains_key(&to) && self.sent.len() >= CHANNELS_MAX {
            return;
        }
        let sent = self.sent.entry(to).or_default();
        if *sent == BIND_AFTER {
            // Without one, it goes as before.
            let _ = self.turn.bind_channel(TransportType::Udp, to, now);
        }
        *sent = sent.saturating_add(1);
    }

    /// Takes in the messages that have come.
    fn take_in(&mut self) -> io::Result<()> {
        let now = now();
        while let Some(message) = self.wire.next_message()? {
            self.unanswered = 0;
            self.note_error(&message);
            let (transport, from, to) =
                (self.turn.transport(), self.turn.remote_addr(), self.turn.local_addr());
            if let TurnRecvRet::PeerData(data) =
                self.turn.recv(Transmit::new(&message, transport, from, to), now)
            {
                self.client.received(data.peer, data.data());
            }
        }
        Ok(())
    }

    fn note_request(&mut self, bytes: &[u8]) {
        if let Ok(header) = MessageHeader::from_bytes(bytes) {
            self.requests.truncate(REQUESTS_MAX - 1);
            self.requests.push_front(header.transaction_id());
        }
    }

    /// Whether the server knows who this node says that it is, and takes it for nobody: the library goes on asking.
    fn is_refused(&self) -> bool {
        self.turn.relayed_addresses().next().is_none() && self.unauthenticated > 1
    }

    /// The library says that a request has failed, and not why. Only an answer to a request counts.
    fn note_error(&mut self, bytes: &[u8]) {
        let is_error = MessageHeader::from_bytes(bytes).is_ok_and(|header| {
            header.get_type().has_class(MessageClass::Error)
                && self.requests.contains(&header.transaction_id())
        });
        let Some(message) = Message::from_bytes(bytes).ok().filter(|_| is_error) else { return };
        if let Ok(error) = message.attribute::<ErrorCode>() {
            self.unauthenticated +=
                u8::from(error.code() == UNAUTHENTICATED && self.unauthenticated < u8::MAX);
            let reason: String = error.reason().chars().filter(|c| !c.is_control()).take(100).collect();
            debug!(code = error.code(), reason, "an error of a TURN server");
            self.error = Some((error.code(), reason));
        }
    }

    /// Gives the address back.
    async fn close(mut self) -> String {
        let _ = self.turn.delete(now());
        while let Some(transmit) = self.turn.poll_transmit(now()) {
            self.wire.send(&transmit.data);
        }
        if let Socket::Tcp(stream, out) = &mut self.wire.socket {
            let _ = stream.write_all(out).await;
        }
        "it is not needed any more".to_owned()
    }
}

fn bytes(transmit: TransmitBuild<DelayedMessageOrChannelSend<Vec<u8>>>) -> Vec<u8> {
    transmit.build().data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_follow_each_other_by_tcp_and_are_filled_up() {
        // A STUN message is filled up by its attributes; channel data of 5 bytes has 3 behind it.
        let stun = [&[0x01, 0x01, 0, 4, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12], &[0x80, 0x22, 0, 0]].concat();
        assert_eq!(message_len(&stun).expect("a message"), Some(24));
        let channel = [0x40, 0x00, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        assert_eq!(message_len(&channel).expect("a message"), Some(9));
        for short in 0..4 {
            assert_eq!(message_len(&channel[..short]).expect("a message"), None);
        }
        assert!(message_len(&[0x80, 0, 0, 0]).is_err());
        assert!(
            message_len(b"HTTP/1.1 400").is_ok(),
            "no message, and as long as it says: nothing comes of it"
        );
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_longer_than_two_bytes_can_say(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(Some(len)) = message_len(&bytes) {
                prop_assert!((CHANNEL_HEADER_LEN..=STUN_HEADER_LEN + 65_535).contains(&len));
            }
        }
    }
}
