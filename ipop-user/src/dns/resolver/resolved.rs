//! systemd-resolved: told by D-Bus that names of the network's domain are asked of this node, by the link that is
//! the virtual device, and no others (org.freedesktop.resolve1(5)).

use std::net::IpAddr;
use std::os::linux::fs::MetadataExt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tracing::debug;
use zbus::Connection;
use zbus::zvariant::{DynamicType, Type};

const BUS: (&str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
const SERVICE: &str = "org.freedesktop.resolve1";
const PATH: &str = "/org/freedesktop/resolve1";
const MANAGER: &str = "org.freedesktop.resolve1.Manager";
/// For the bus, and the service, to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why systemd-resolved does not help.
#[derive(Debug, thiserror::Error)]
pub(in crate::dns) enum ResolvedError {
    #[error("systemd-resolved does not run")]
    Absent,
    #[error("systemd-resolved serves another network namespace")]
    Elsewhere,
    #[error("systemd-resolved does not answer")]
    Silent,
    #[error("systemd-resolved: {0}")]
    Refused(#[from] zbus::Error),
}

/// The service, and the virtual device as its link.
#[derive(Debug)]
pub(in crate::dns) struct Resolved {
    bus: Connection,
    ifindex: i32,
}

impl Resolved {
    /// Finds the service, which is not started for this.
    pub(in crate::dns) async fn find(ifindex: u32) -> Result<Self, ResolvedError> {
        // Without a bus there is nobody on it.
        let bus = match timeout(PATIENCE, Connection::system()).await {
            Ok(Ok(bus)) => bus,
            Ok(Err(error)) => {
                debug!(%error, "no system bus");
                return Err(ResolvedError::Absent);
            }
            Err(_) => return Err(ResolvedError::Absent),
        };
        Self::on(bus, ifindex).await
    }

    async fn on(bus: Connection, ifindex: u32) -> Result<Self, ResolvedError> {
        let ifindex = i32::try_from(ifindex).unwrap_or_default();
        let resolved = Self { bus, ifindex };
        if !resolved.ask_bus::<bool>("NameHasOwner").await? {
            return Err(ResolvedError::Absent);
        }
        let pid: u32 = resolved.ask_bus("GetConnectionUnixProcessID").await?;
        match [format!("/proc/{pid}/ns/net"), "/proc/self/ns/net".to_owned()].map(std::fs::metadata) {
            // Its links are not ours.
            [Ok(theirs), Ok(ours)] if theirs.st_ino() != ours.st_ino() => Err(ResolvedError::Elsewhere),
            // A daemon that may not look runs as a service on the host itself.
            _ => Ok(resolved),
        }
    }

    /// Has names in `domains` asked of `servers`; those of `search` are tried for short names too.
    pub(in crate::dns) async fn install(
        &self,
        servers: &[IpAddr],
        domains: &[String],
        search: Option<&str>,
    ) -> Result<(), ResolvedError> {
        let servers: Vec<(i32, Vec<u8>)> = servers
            .iter()
            .map(|server| match server {
                IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
                IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
            })
            .collect();
        let routed = |domain: &String| (domain.clone(), search != Some(domain.as_str()));
        let domains: Vec<(String, bool)> = domains.iter().map(routed).collect();
        // Nobody signs these names, and they do not leave the host unsealed.
        for method in ["SetLinkDNSSEC", "SetLinkDNSOverTLS"] {
            if let Err(error) = self.call(method, &(self.ifindex, "no")).await {
                debug!(method, %error, "left as it is");
            }
        }
        self.call("SetLinkDefaultRoute", &(self.ifindex, false)).await?;
        self.call("SetLinkDNS", &(self.ifindex, servers)).await?;
        self.call("SetLinkDomains", &(self.ifindex, domains)).await
    }

    /// Has the link forgotten.
    pub(in crate::dns) async fn undo(&self) -> Result<(), ResolvedError> {
        self.call("RevertLink", &(self.ifindex,)).await
    }

    async fn call<B>(&self, method: &str, body: &B) -> Result<(), ResolvedError>
    where
        B: Serialize + DynamicType + Sync,
    {
        let call = self.bus.call_method(Some(SERVICE), PATH, Some(MANAGER), method, body);
        timeout(PATIENCE, call).await.map_err(|_| ResolvedError::Silent)??;
        Ok(())
    }

    /// What the bus says of the service.
    async fn ask_bus<T: DeserializeOwned + Type>(&self, method: &str) -> Result<T, ResolvedError> {
        let (name, path) = BUS;
        let call = self.bus.call_method(Some(name), path, Some(name), method, &(SERVICE,));
        let reply = timeout(PATIENCE, call).await.map_err(|_| ResolvedError::Silent)??;
        Ok(reply.body().deserialize::<T>()?)
    }
}

#[cfg(test)]
mod tests;
