//! The daemon's state as Prometheus metrics, in the OpenMetrics text format.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Request;
use super::routes::{Daemon, Failure};
use crate::api::{Counters, Groups, Link, OverlayState, Path, Peer, Status};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Asks the daemon once for everything and writes it down.
pub(super) async fn scrape(daemon: &Daemon) -> Result<String, Failure> {
    let snapshot = Snapshot {
        status: daemon.ask(Request::Status).await?,
        peers: daemon.ask(Request::Peers).await?,
        links: daemon.ask(Request::Links).await?,
        groups: daemon.ask(Request::Groups).await?,
        counters: daemon.ask(Request::Counters).await?,
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    // Writing into a String fails only where a metric of ours is ill-formed, which the tests show.
    encode(&mut text, &registry).map_err(|fmt::Error| Failure::Gone)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    status: Status,
    peers: Vec<Peer>,
    links: Vec<Link>,
    groups: Groups,
    counters: Counters,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.node(&mut encoder)?;
        self.peer_states(&mut encoder)?;
        self.peer_traffic(&mut encoder)?;
        self.link_states(&mut encoder)?;
        self.verdicts(&mut encoder)?;
        self.overlay(&mut encoder)
    }
}

impl Snapshot {
    fn node(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Status { name, network, version, .. } = &self.status;
        let labels = [("node", name), ("network", network), ("version", version)];
        encoder.encode_descriptor("ipop_build", "This node", None, MetricType::Info)?.encode_info(&labels)?;
        gauge(encoder, "ipop_uptime_seconds", "Time since the daemon started")?
            .encode_gauge(&self.status.uptime_s)?;
        gauge(encoder, "ipop_peers", "Peers configured")?.encode_gauge(&self.status.peers_total)?;
        gauge(encoder, "ipop_peers_direct", "Peers with a direct link")?
            .encode_gauge(&self.status.peers_direct)?;
        let on = u32::from(self.status.datapath.kernel == crate::api::KernelState::On);
        gauge(encoder, "ipop_kernel_path_on", "Whether the kernel path is on")?.encode_gauge(&on)?;
        gauge(encoder, "ipop_warnings", "Warnings that `ipopctl status` shows")?
            .encode_gauge(&(self.status.warnings.len() as u64))
    }

    fn peer_states(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut path =
            gauge(encoder, "ipop_peer_path", "1 for the path to the peer in use, 0 for the others")?;
        for peer in &self.peers {
            for kind in Path::ALL {
                let labels = [("peer", peer.name.as_str()), ("path", kind.name())];
                path.encode_family(&labels)?.encode_gauge(&u32::from(peer.path == kind))?;
            }
        }
        let mut rtt = gauge(encoder, "ipop_peer_rtt_seconds", "Round trip of control messages")?;
        for peer in &self.peers {
            if let Some(rtt_us) = peer.rtt_us {
                rtt.encode_family(&[("peer", &peer.name)])?.encode_gauge(&(rtt_us as f64 / 1e6))?;
            }
        }
        let mut handshake =
            gauge(encoder, "ipop_peer_handshake_age_seconds", "Time since the peer last proved who it is")?;
        for peer in &self.peers {
            if let Some(age_s) = peer.last_handshake_s {
                handshake.encode_family(&[("peer", &peer.name)])?.encode_gauge(&age_s)?;
            }
        }
        Ok(())
    }

    fn peer_traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut packets =
            counter(encoder, "ipop_peer_packets", "Packets of the peer, by path and direction")?;
        for Peer { name, traffic, .. } in &self.peers {
            for (path, direction, value) in [
                ("kernel", "tx", traffic.kernel_tx_packets),
                ("kernel", "rx", traffic.kernel_rx_packets),
                ("user", "tx", traffic.user_tx_packets),
                ("user", "rx", traffic.user_rx_packets),
            ] {
                let labels = [("peer", name.as_str()), ("path", path), ("direction", direction)];
                count(&mut packets, &labels, value)?;
            }
        }
        let mut bytes = counter(encoder, "ipop_peer_bytes", "Inner bytes of the peer, by direction")?;
        for Peer { name, traffic, .. } in &self.peers {
            for (direction, value) in [("tx", traffic.tx_bytes), ("rx", traffic.rx_bytes)] {
                count(&mut bytes, &[("peer", name.as_str()), ("direction", direction)], value)?;
            }
        }
        Ok(())
    }

    fn link_states(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = |link: &Link| [("peer", link.peer.clone()), ("link_id", link.link_id.clone())];
        let mut installed = gauge(encoder, "ipop_link_in_kernel", "Whether the kernel path holds the link")?;
        for link in &self.links {
            installed.encode_family(&labels(link))?.encode_gauge(&u32::from(link.kernel))?;
        }
        let mut mtu = gauge(encoder, "ipop_link_mtu_bytes", "Largest inner packet of the link")?;
        for link in &self.links {
            mtu.encode_family(&labels(link))?.encode_gauge(&link.mtu)?;
        }
        let mut lease =
            gauge(encoder, "ipop_link_lease_seconds", "How long the kernel path goes on without the daemon")?;
        for link in &self.links {
            if let Some(lease_ms) = link.lease_remaining_ms {
                lease.encode_family(&labels(link))?.encode_gauge(&(lease_ms as f64 / 1e3))?;
            }
        }
        Ok(())
    }

    fn verdicts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut packets = counter(encoder, "ipop_packets", "Packets by path and verdict")?;
        for (path, group) in [("kernel", &self.counters.kernel), ("user", &self.counters.user)] {
            for (verdict, counter) in &group.0 {
                let labels = [("path", path), ("verdict", verdict), ("class", &counter.class)];
                count(&mut packets, &labels, counter.value)?;
            }
        }
        Ok(())
    }

    fn overlay(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(overlay) = &self.status.overlay else { return Ok(()) };
        let is_joined = u32::from(overlay.state == OverlayState::Joined);
        gauge(encoder, "ipop_overlay_joined", "Whether this node is part of a ring")?
            .encode_gauge(&is_joined)?;
        gauge(encoder, "ipop_overlay_nodes", "Nodes of the network, as estimated")?
            .encode_gauge(&overlay.nodes_estimate)?;
        gauge(encoder, "ipop_overlay_connections", "Connections to other nodes of the ring")?
            .encode_gauge(&overlay.connections.total)?;
        let in_groups =
            |is_member: bool| self.groups.groups.iter().filter(move |group| group.member == is_member);
        let mut groups = gauge(encoder, "ipop_groups", "Groups in whose trees this node is")?;
        for (role, count) in [("member", in_groups(true).count()), ("on_the_way", in_groups(false).count())] {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            groups.encode_family(&[("role", role)])?.encode_gauge(&count)?;
        }
        let mut events = counter(encoder, "ipop_overlay_events", "What the overlay has counted")?;
        for (event, counter) in &self.counters.overlay.0 {
            count(&mut events, &[("event", event), ("class", &counter.class)], counter.value)?;
        }
        Ok(())
    }
}

fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

/// The format appends `_total` to the name.
fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn count(metric: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}
