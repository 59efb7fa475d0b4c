//! The address of a node on the overlay.

/// 160 bits that follow from a node's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress(pub [u8; 20]);

impl core::fmt::Debug for NodeAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ipop:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
