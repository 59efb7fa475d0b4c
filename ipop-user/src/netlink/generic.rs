//! Generic netlink: the family `netdev` (Linux 6.3), which tells what a device can do with XDP
//! (include/uapi/linux/netdev.h). Every number below is of the kernel's interface.

use std::convert::Infallible;

use rtnetlink::packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable, NlasIterator,
};
use rtnetlink::sys::SocketAddr;

use super::request::{Failure, whole_answer, with_flags};
use super::{Netlink, Result};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `_NAME`.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NETDEV_FAMILY_NAME`, `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX` and `_XDP_FEATURES`.
const NETDEV: &[u8] = b"netdev\0";
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const NDO_XMIT: u64 = 4;

/// `struct genlmsghdr`.
const HEADER_LEN: usize = 4;

/// A message of any family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

impl Message {
    fn new(family: u16, command: u8, kind: u16, value: &[u8]) -> Self {
        let attribute = DefaultNla::new(kind, value.to_vec());
        let mut attributes = vec![0; attribute.buffer_len()];
        attribute.emit(&mut attributes);
        Self { family, command, attributes }
    }

    /// The value of the attribute of that kind; `None` where there is none of that length.
    fn value<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        let mut attributes = NlasIterator::new(&self.attributes).map_while(Result::ok);
        attributes.find(|nla| nla.kind() == kind)?.value().try_into().ok()
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER_LEN + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(HEADER_LEN);
        // The version of both families is 1 at least.
        header.copy_from_slice(&[self.command, 1, 0, 0]);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    /// What is cut off has no attributes.
    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            family: header.message_type,
            command: payload.first().copied().unwrap_or_default(),
            attributes: payload.get(HEADER_LEN..).unwrap_or_default().to_vec(),
        })
    }
}

impl Netlink {
    /// Whether the device sends frames that XDP gives it (`NETDEV_XDP_ACT_NDO_XMIT`); `false` where the kernel
    /// does not tell, as before Linux 6.3.
    ///
    /// # Errors
    /// The kernel's refusal, as of a device that is gone.
    pub async fn sends_for_xdp(&self, ifindex: u32) -> Result<bool> {
        match self.xdp_features(ifindex).await {
            Ok(features) => Ok(features.is_some_and(|features| features & NDO_XMIT != 0)),
            Err(failure) => {
                let action = |device: &str| format!("ask what {device} can do with XDP");
                Err(self.explain_for(ifindex, failure, action).await)
            }
        }
    }

    async fn xdp_features(&self, ifindex: u32) -> Result<Option<u64>, Failure> {
        let family = match self.ask(Message::new(CONTROL, GET_FAMILY, FAMILY_NAME, NETDEV)).await {
            Ok(answer) => answer.and_then(|family| family.value(FAMILY_ID)).map(u16::from_ne_bytes),
            Err(failure) if failure.errno() == Some(libc::ENOENT) => None,
            Err(failure) => return Err(failure),
        };
        let Some(family) = family else { return Ok(None) };
        let answer = self.ask(Message::new(family, GET_DEVICE, IFINDEX, &ifindex.to_ne_bytes())).await?;
        Ok(answer.and_then(|device| device.value(XDP_FEATURES)).map(u64::from_ne_bytes))
    }

    async fn ask(&self, message: Message) -> Result<Option<Message>, Failure> {
        let message = with_flags(message, NLM_F_REQUEST | NLM_F_ACK);
        let messages = self.generic.request(message, SocketAddr::new(0, 0));
        let answer = whole_answer(messages.map_err(|_| Failure::Closed)?).await?;
        Ok(answer.messages.into_iter().next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_whole_or_not_at_all() {
        let message = Message::new(7, GET_DEVICE, XDP_FEATURES, &NDO_XMIT.to_ne_bytes());
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let mut header = NetlinkHeader::default();
        header.message_type = 7;
        let read = |bytes: &[u8]| Message::deserialize(&header, bytes).unwrap();
        assert_eq!(read(&bytes), message);
        assert_eq!(message.value(XDP_FEATURES), Some(NDO_XMIT.to_ne_bytes()));
        assert_eq!(message.value::<8>(IFINDEX), None);
        assert_eq!(message.value::<4>(XDP_FEATURES), None);
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]).value::<8>(XDP_FEATURES), None, "{len}");
        }
    }
}
