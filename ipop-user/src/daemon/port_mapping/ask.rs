//! Asking a router, by the libraries that speak its protocols. What it says is not judged here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig,
    natpmp, pcp,
};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use tokio::time::timeout;

use super::plan::{Answer, LEASE, Protocol, Site};

/// PCP and NAT-PMP: three datagrams within 1.75 s.
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };
/// Giving back: two within 0.75 s.
const HASTE: TimeoutConfig = TimeoutConfig { max_retries: 1, ..PATIENCE };
/// To find a router that speaks UPnP: devices answer within 3 s, as they are asked to.
const SEARCH: Duration = Duration::from_secs(4);
/// For all that is asked of it then.
const UPNP: Duration = Duration::from_secs(8);
/// For giving back.
const UPNP_HASTE: Duration = Duration::from_secs(1);
/// Where devices that speak UPnP are asked for.
const SSDP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SSDP_PORT: u16 = 1900;
/// By what a person who looks at the router knows it.
const DESCRIPTION: &str = "ipop";

/// What is needed to renew a mapping or give it back.
#[derive(Debug)]
pub(super) enum Held {
    Pmp(PortMapping),
    Upnp { gateway: Gateway<Tokio>, port: NonZeroU16 },
}

/// Asks for a mapping by one protocol.
pub(super) async fn ask(protocol: Protocol, site: &Site) -> Result<(Held, Answer), String> {
    let options = PortMappingOptions {
        external_port: Some(site.port),
        lifetime_seconds: Some(lease_s()),
        timeout_config: Some(PATIENCE),
    };
    let gateway = GatewayAddress::from(site.gateway);
    match protocol {
        Protocol::Pcp => {
            let request =
                pcp::BaseMapRequest::new(gateway, site.local.into(), InternetProtocol::Udp, site.port);
            let mapping = pcp::port_mapping(request, None, None, options).await;
            of_mapping(mapping.map_err(|failure| pcp_failure(&failure))?).await
        }
        Protocol::NatPmp => {
            let mapping = natpmp::port_mapping(gateway, InternetProtocol::Udp, site.port, options).await;
            of_mapping(mapping.map_err(|failure| pmp_failure(&failure))?).await
        }
        Protocol::Upnp => {
            let gateway = find(site).await?;
            map(gateway, site, site.port).await
        }
    }
}

/// Asks for the same once more.
pub(super) async fn renew(held: &Held, site: &Site) -> Result<(Held, Answer), String> {
    match held {
        Held::Pmp(mapping) => {
            let mut mapping = mapping.clone();
            mapping.renew().await.map_err(|failure| match failure {
                crab_nat::MappingFailure::NatPmp(failure) => pmp_failure(&failure),
                crab_nat::MappingFailure::Pcp(failure) => pcp_failure(&failure),
            })?;
            of_mapping(mapping).await
        }
        Held::Upnp { gateway, port } => map(gateway.clone(), site, *port).await,
    }
}

/// Takes a mapping from the router. One that does not answer keeps it until its end.
pub(super) async fn give_back(held: Held) -> Result<(), String> {
    match held {
        Held::Pmp(mut mapping) => {
            mapping.timeout_config = HASTE;
            mapping.try_drop().await.map_err(|(failure, _)| failure.to_string())
        }
        Held::Upnp { gateway, port } => {
            let removed = gateway.remove_port(PortMappingProtocol::UDP, port.get());
            match timeout(UPNP_HASTE, removed).await {
                Ok(removed) => removed.map_err(|error| error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            }
        }
    }
}

fn lease_s() -> u32 {
    u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX)
}

/// What the router gave; by NAT-PMP its address is another question.
async fn of_mapping(mapping: PortMapping) -> Result<(Held, Answer), String> {
    let external = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => Ok(external_ip),
        PortMappingType::NatPmp => {
            natpmp::external_address(mapping.gateway(), Some(PATIENCE)).await.map(IpAddr::V4)
        }
    };
    match external {
        Ok(external) => {
            let answer = Answer {
                external: (external, mapping.external_port().get()),
                lease: Duration::from_secs(mapping.lifetime().into()),
                epoch: Some(mapping.gateway_epoch()),
            };
            Ok((Held::Pmp(mapping), answer))
        }
        Err(failure) => {
            // Of no use without the address.
            let _ = give_back(Held::Pmp(mapping)).await;
            Err(pmp_failure(&failure))
        }
    }
}

/// The router, if it speaks UPnP. Others on the LAN may answer as well: they are not asked for anything.
async fn find(site: &Site) -> Result<Gateway<Tokio>, String> {
    // Asked by itself, only the router answers; some answer only where all are asked.
    let (alone, among_all) = tokio::join!(search(site, site.gateway), search(site, SSDP));
    let mut other = None;
    let mut why = None;
    for found in [alone, among_all] {
        match found {
            Ok(gateway) if gateway.addr.ip() == IpAddr::V4(site.gateway) => return Ok(gateway),
            Ok(gateway) => other = Some(gateway.addr.ip()),
            Err(error) => why = Some(error),
        }
    }
    Err(match (other, why) {
        (Some(other), _) => format!("{other} answers for a router, and is not the one that this host uses"),
        (None, why) => why.unwrap_or_else(|| "no answer".to_owned()),
    })
}

async fn search(site: &Site, whom: Ipv4Addr) -> Result<Gateway<Tokio>, String> {
    let mut options = SearchOptions::default();
    // The address decides by which interface the question to all goes.
    options.bind_addr = SocketAddrV4::new(site.local, 0).into();
    options.broadcast_address = SocketAddrV4::new(whom, SSDP_PORT).into();
    (options.timeout, options.single_search_timeout) = (Some(SEARCH), Some(SEARCH));
    search_gateway(options).await.map_err(|error| match error {
        igd_next::SearchError::NoResponseWithinTimeout => "no answer".to_owned(),
        other => other.to_string(),
    })
}

async fn map(gateway: Gateway<Tokio>, site: &Site, port: NonZeroU16) -> Result<(Held, Answer), String> {
    match timeout(UPNP, map_at_leisure(gateway, site, port)).await {
        Ok(result) => result,
        Err(_) => Err("no answer".to_owned()),
    }
}

async fn map_at_leisure(
    gateway: Gateway<Tokio>,
    site: &Site,
    wanted: NonZeroU16,
) -> Result<(Held, Answer), String> {
    let udp = PortMappingProtocol::UDP;
    let local = SocketAddr::from((site.local, site.port.get()));
    let external = gateway.get_external_ip().await.map_err(|error| error.to_string())?;
    let port = match gateway.add_port(udp, wanted.get(), local, lease_s(), DESCRIPTION).await {
        Ok(()) => wanted.get(),
        // It cannot do less than for ever: then it is to be renewed as if it could.
        Err(AddPortError::OnlyPermanentLeasesSupported) => {
            let added = gateway.add_port(udp, wanted.get(), local, 0, DESCRIPTION).await;
            added.map(|()| wanted.get()).map_err(|error| error.to_string())?
        }
        // Another host has it.
        Err(AddPortError::PortInUse) => {
            let any = gateway.add_any_port(udp, local, lease_s(), DESCRIPTION).await;
            any.map_err(|error| error.to_string())?
        }
        Err(error) => return Err(error.to_string()),
    };
    let held = NonZeroU16::new(port).ok_or_else(|| "gave port 0".to_owned())?;
    let answer = Answer { external: (external, port), lease: LEASE, epoch: None };
    Ok((Held::Upnp { gateway, port: held }, answer))
}

fn pcp_failure(failure: &pcp::Failure) -> String {
    match failure {
        pcp::Failure::Timeout => "no answer".to_owned(),
        // A closed port, as ICMP says.
        pcp::Failure::Socket(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "not spoken there".to_owned()
        }
        other => other.to_string(),
    }
}

fn pmp_failure(failure: &natpmp::Failure) -> String {
    match failure {
        natpmp::Failure::Timeout => "no answer".to_owned(),
        natpmp::Failure::Socket(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "not spoken there".to_owned()
        }
        other => other.to_string(),
    }
}
