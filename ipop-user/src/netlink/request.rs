//! One request to the kernel and its whole answer. Knows netlink's envelope (acknowledgement,
//! error, end of dump, extended acknowledgement) and nothing of what is inside.

use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::{self, Connection};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::sys::protocols::NETLINK_GENERIC;

use super::{Error, LinkRef, Netlink, Result};

/// The kernel answers at once, except while another process holds its RTNL lock.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How often a list is asked for that changed while it was given.
const DUMP_ATTEMPTS_MAX: usize = 8;
/// `NLM_F_DUMP_INTR`: the dump is inconsistent, because something changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words about an error.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `struct nlmsghdr`, which precedes those words.
const NETLINK_HEADER_LEN: usize = 16;

/// Why a request brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    Refused { errno: i32, detail: String },
    NoAnswer,
    Closed,
}

impl Failure {
    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::NoAnswer | Self::Closed => None,
        }
    }

    /// The kernel's own words, or those of the C library for its error number.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Refused { detail, .. } if !detail.is_empty() => detail.clone(),
            Self::Refused { errno, .. } => io::Error::from_raw_os_error(*errno).to_string(),
            Self::NoAnswer => "no answer".into(),
            Self::Closed => "netlink socket closed".into(),
        }
    }

    /// The error for whoever asked. `action` completes "cannot ..".
    pub(super) fn explain(self, action: String, device: &str) -> Error {
        match self {
            Self::Refused { errno: libc::EPERM, .. } => Error::NotPermitted { action },
            Self::Refused { errno: libc::ENODEV, .. } => Error::NoDevice { device: device.into() },
            Self::Refused { errno, detail } => {
                Error::Kernel { action, source: io::Error::from_raw_os_error(errno), detail }
            }
            Self::NoAnswer => Error::NoAnswer { action, deadline_s: ANSWER_DEADLINE.as_secs() },
            Self::Closed => Error::Closed { action },
        }
    }
}

impl Netlink {
    /// Opens the request sockets in the caller's network namespace and spawns the tasks that
    /// serve them, which end with the last clone of the handle.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn connect() -> Result<Self> {
        let (mut connection, handle, unsolicited) =
            rtnetlink::new_connection_with_strict_check().map_err(Error::Socket)?;
        // Nothing unsolicited is wanted here: changes have their own socket, the `Monitor`.
        drop(unsolicited);
        tell_all(&mut connection).map_err(Error::Socket)?;
        tokio::spawn(connection);
        let (mut connection, generic, unsolicited) =
            proto::new_connection(NETLINK_GENERIC).map_err(Error::Socket)?;
        drop(unsolicited);
        tell_all(&mut connection).map_err(Error::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle, generic })
    }

    /// A request with the given flags (beside REQUEST and ACK), and all that came before the
    /// acknowledgement.
    pub(super) async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags).await.map(|answer| answer.messages)
    }

    /// All objects that match `message`: one consistent picture of them, unless they change faster
    /// than they can be listed.
    pub(super) async fn dump(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        let mut attempt = 1;
        loop {
            let answer = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP).await?;
            if !answer.interrupted || attempt == DUMP_ATTEMPTS_MAX {
                return Ok(answer.messages);
            }
            attempt += 1;
        }
    }

    /// [`Self::request`] about one device. `action` makes "set ipop0 up" of its name.
    pub(super) async fn request_for(
        &self,
        ifindex: u32,
        message: RouteNetlinkMessage,
        flags: u16,
        action: impl FnOnce(&str) -> String,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        match self.request(message, flags).await {
            Ok(messages) => Ok(messages),
            Err(failure) => Err(self.explain_for(ifindex, failure, action).await),
        }
    }

    /// [`Failure::explain`] with the device's name, as far as it still has one.
    pub(super) async fn explain_for(
        &self,
        ifindex: u32,
        failure: Failure,
        action: impl FnOnce(&str) -> String,
    ) -> Error {
        let device = self.name_of(ifindex).await;
        failure.explain(action(&device), &device)
    }

    /// The device's name for a message to people: `#7` if it has none any more.
    pub(super) async fn name_of(&self, ifindex: u32) -> String {
        match self.link_message(LinkRef::Index(ifindex)).await.ok().and_then(|link| super::link::name(&link))
        {
            Some(name) => name,
            None => format!("#{ifindex}"),
        }
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answer<RouteNetlinkMessage>, Failure> {
        let messages = self.handle.clone().request(with_flags(message, flags));
        whole_answer(messages.map_err(|_| Failure::Closed)?).await
    }
}

/// Only an acknowledgement tells a finished request from a dead connection.
fn tell_all<T>(connection: &mut Connection<T>) -> io::Result<()>
where
    T: NetlinkSerializable + NetlinkDeserializable + fmt::Debug + Send + Unpin + 'static,
{
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    let socket = connection.socket_mut().socket_mut();
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)
}

pub(super) fn with_flags<T>(message: T, flags: u16) -> NetlinkMessage<T> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message))
}

/// All that comes before the acknowledgement.
pub(super) async fn whole_answer<T>(
    mut messages: impl Stream<Item = NetlinkMessage<T>> + Unpin,
) -> Result<Answer<T>, Failure> {
    let answer = async {
        let mut answer = Answer { messages: Vec::new(), interrupted: false };
        while let Some(message) = messages.next().await {
            if answer.take(message)? {
                return Ok(answer);
            }
        }
        Err(Failure::Closed)
    };
    tokio::time::timeout(ANSWER_DEADLINE, answer).await.unwrap_or(Err(Failure::NoAnswer))
}

#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) messages: Vec<T>,
    interrupted: bool,
}

impl<T> Answer<T> {
    /// Takes the next message; `true` when it was the last.
    fn take(&mut self, message: NetlinkMessage<T>) -> Result<bool, Failure> {
        self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                self.messages.push(inner);
                Ok(false)
            }
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(true),
            NetlinkPayload::Error(error) => Err(refused(&error)),
            NetlinkPayload::Done(done) if done.code < 0 => {
                Err(Failure::Refused { errno: done.code.saturating_neg(), detail: words(&done.extended_ack) })
            }
            NetlinkPayload::Done(_) => Ok(true),
            NetlinkPayload::Overrun(_) => Err(Failure::NoAnswer),
            _ => Ok(false),
        }
    }
}

fn refused(error: &ErrorMessage) -> Failure {
    let attributes = error.header.get(NETLINK_HEADER_LEN..).unwrap_or_default();
    Failure::Refused { errno: error.raw_code().saturating_neg(), detail: words(attributes) }
}

/// The kernel's words in the attributes of an extended acknowledgement; empty if there are none.
fn words(attributes: &[u8]) -> String {
    let message =
        NlasIterator::new(attributes).map_while(Result::ok).find(|nla| nla.kind() == NLMSGERR_ATTR_MSG);
    message
        .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches(['\0', '\n', '.']).to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's answer (6.18) to a route lookup that names a table.
    const REFUSAL: &[u8] = include_bytes!("fixtures/error-extack.bin");

    fn refusal() -> Failure {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(REFUSAL).unwrap();
        empty().take(message).unwrap_err()
    }

    fn empty() -> Answer<RouteNetlinkMessage> {
        Answer { messages: Vec::new(), interrupted: false }
    }

    fn failure(errno: i32) -> Failure {
        Failure::Refused { errno, detail: String::new() }
    }

    #[test]
    fn an_error_carries_the_kernels_own_words() {
        assert_eq!(refusal().errno(), Some(libc::EINVAL));
        assert_eq!(refusal().reason(), "ipv4: Invalid values in header for route get request");
        let error = refusal().explain("look up a route".into(), "a0");
        assert_eq!(
            error.to_string(),
            "cannot look up a route: Invalid argument (os error 22) (ipv4: Invalid values in header for route get request)"
        );
    }

    #[test]
    fn a_damaged_error_has_no_words() {
        // The last three bytes are padding.
        for len in 0..REFUSAL.len() - 3 {
            let attributes =
                REFUSAL.get(NETLINK_HEADER_LEN + 4 + NETLINK_HEADER_LEN..len).unwrap_or_default();
            assert_eq!(words(attributes), "", "{len}");
        }
    }

    #[test]
    fn errors_that_an_operator_can_mend_say_how() {
        let denied = failure(libc::EPERM).explain("set a0 up".into(), "a0").to_string();
        assert!(denied.starts_with("cannot set a0 up: needs CAP_NET_ADMIN: run as root"), "{denied}");
        let gone = failure(libc::ENODEV).explain("set a0 up".into(), "a0").to_string();
        assert!(gone.starts_with("there is no network device a0"), "{gone}");
    }

    #[test]
    fn an_interrupted_dump_is_known_as_such() {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_DUMP_INTR;
        let mut answer = empty();
        assert!(!answer.take(NetlinkMessage::new(header, NetlinkPayload::Noop)).unwrap());
        assert!(answer.interrupted);
    }
}
