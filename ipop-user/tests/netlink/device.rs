//! Devices: made, recognised, quiet; refusals in words.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use ipop_user::netlink::{Error, LinkState, Netlink, Payload};
use nix::sys::socket::{self, AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType};

use crate::net::{DEADLINE, Net, PORT, eventually};

#[test]
fn a_vxlan_device_is_made_recognised_and_removed() {
    let Some(net) = Net::new("vxlan") else { return };
    net.run(async |netlink| {
        net.ip("link add other0 type bridge");
        assert_eq!(netlink.vxlan_matches("ipop0", Payload::Packets, PORT).await.unwrap(), None);
        let ifindex = netlink.create_vxlan("ipop0", Payload::Packets, PORT, 1464).await.unwrap();
        let link = netlink.link(ifindex).await.unwrap();
        let made = LinkState {
            ifindex,
            name: "ipop0".into(),
            mtu: 1464,
            master: None,
            mac: None,
            up: false,
            running: false,
            carrier: false,
            kind: Some("vxlan".into()),
            arphrd: 65534,
        };
        assert_eq!(link, made);

        netlink.set_up(ifindex).await.unwrap();
        netlink.set_mtu(ifindex, 1400).await.unwrap();
        let link = netlink.link("ipop0").await.unwrap();
        assert_eq!(link, LinkState { mtu: 1400, up: true, running: true, carrier: true, ..made });
        assert!(UdpSocket::bind(("0.0.0.0", PORT)).is_err(), "the device must own its port");

        assert_eq!(netlink.vxlan_matches("ipop0", Payload::Packets, PORT).await.unwrap(), Some(ifindex));
        assert_eq!(netlink.vxlan_matches("ipop0", Payload::Packets, PORT + 1).await.unwrap(), None);
        assert_eq!(netlink.vxlan_matches("other0", Payload::Packets, PORT).await.unwrap(), None);
        assert!(netlink.links().await.unwrap().contains(&link));

        netlink.set_down(ifindex).await.unwrap();
        assert!(!netlink.link(ifindex).await.unwrap().up);
        netlink.delete(ifindex).await.unwrap();
        netlink.delete(ifindex).await.expect("a device that is gone already is no error");
        assert!(matches!(netlink.link("ipop0").await, Err(Error::NoDevice { device }) if device == "ipop0"));
        assert!(matches!(netlink.link("a-name-that-no-device-can-have").await, Err(Error::NoDevice { .. })));
        assert!(matches!(netlink.set_up(ifindex).await, Err(Error::NoDevice { .. })));
    });
}

#[test]
fn a_vxlan_device_for_frames_is_an_ethernet_device_that_a_bridge_takes() {
    let Some(net) = Net::new("frames") else { return };
    net.run(async |netlink| {
        let ifindex = netlink.create_vxlan("ipop0", Payload::Frames, PORT, 1448).await.unwrap();
        let mac = [2, 1, 2, 3, 4, 5];
        netlink.set_mac(ifindex, mac).await.unwrap();
        netlink.set_up(ifindex).await.unwrap();
        net.ip("link add br0 type bridge");
        net.ip("link set ipop0 master br0");
        let link = netlink.link("ipop0").await.unwrap();
        assert_eq!((link.mac, link.arphrd, link.mtu, link.master.is_some()), (Some(mac), 1, 1448, true));
        assert_eq!(netlink.vxlan_matches("ipop0", Payload::Frames, PORT).await.unwrap(), Some(ifindex));
        assert_eq!(netlink.vxlan_matches("ipop0", Payload::Packets, PORT).await.unwrap(), None);
    });
}

#[test]
fn names_and_ports_that_are_taken_are_named() {
    let Some(net) = Net::new("taken") else { return };
    net.run(async |netlink| {
        let first = netlink.create_vxlan("ipop0", Payload::Packets, PORT, 1464).await.unwrap();
        let again = netlink.create_vxlan("ipop0", Payload::Packets, PORT + 1, 1464).await;
        assert!(matches!(again, Err(Error::DeviceExists { name }) if name == "ipop0"));
        let same_port = netlink.create_vxlan("ipop1", Payload::Packets, PORT, 1464).await;
        assert!(matches!(same_port, Err(Error::PortInUse { port: PORT, device }) if device == "ipop1"));

        let owner = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
        let error = netlink.set_up(first).await.unwrap_err();
        assert!(matches!(&error, Error::PortInUse { port: PORT, device } if device == "ipop0"), "{error}");
        assert!(
            error.to_string().starts_with("UDP port 4790, which ipop0 needs, has another owner"),
            "{error}"
        );
        drop(owner);
        // Another test's child may hold a copy of the socket until it has begun its program.
        let start = Instant::now();
        while let Err(error) = netlink.set_up(first).await {
            assert!(start.elapsed() < DEADLINE, "{error}");
        }
    });
}

#[test]
fn without_the_capability_the_error_says_which_and_how() {
    let Some(net) = Net::new("denied") else { return };
    net.run(async |_| {
        become_nobody();
        let netlink = Netlink::connect().unwrap();
        let error = netlink.create_vxlan("ipop0", Payload::Packets, PORT, 1464).await.unwrap_err();
        let expected = "cannot create the VXLAN device ipop0: needs CAP_NET_ADMIN: run as root or with the unit in packaging/";
        assert_eq!(error.to_string(), expected);
        assert!(netlink.link("lo").await.is_ok(), "reading needs no capability");
    });
}

#[test]
fn an_idle_device_of_ours_is_silent() {
    let Some(net) = Net::new("quiet") else { return };
    net.run(async |netlink| {
        let sniffer = Sniffer::open();
        let ours = netlink.create_vxlan("ipop0", Payload::Packets, PORT, 1464).await.unwrap();
        netlink.set_addrgenmode_none(ours).await.unwrap();
        netlink.set_quiet(ours).await.unwrap();
        netlink.set_quiet(ours).await.unwrap();
        for key in ["router_solicitations", "accept_ra", "autoconf"] {
            assert_eq!(
                fs::read_to_string(format!("/proc/sys/net/ipv6/conf/ipop0/{key}")).unwrap(),
                "0\n",
                "{key}"
            );
        }
        let wanted = [("10.128.0.1".parse().unwrap(), 24), ("fd00:128::1".parse().unwrap(), 64)];
        netlink.set_up(ours).await.unwrap();
        netlink.sync_addresses(ours, &wanted).await.unwrap();
        assert_eq!(netlink.addresses(ours).await.unwrap(), wanted, "no link-local address");

        // The kernel's own way shows how long to listen: until its second solicitation is out.
        let talkative = netlink.create_vxlan("other0", Payload::Packets, PORT + 1, 1464).await.unwrap();
        netlink.set_up(talkative).await.unwrap();
        let mut senders = Vec::new();
        let solicited = || {
            senders.extend(sniffer.senders());
            senders.iter().filter(|&&sender| sender == talkative).count() >= 2
        };
        eventually("an untreated device solicits routers", solicited).await;
        assert!(!senders.contains(&ours), "{senders:?}");
    });
}

#[test]
fn many_requests_at_once_get_their_own_answers() {
    let Some(net) = Net::new("many") else { return };
    net.run(async |netlink| {
        let lo = netlink.link("lo").await.unwrap();
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let netlink = netlink.clone();
                tokio::spawn(async move {
                    if n % 2 == 0 { netlink.link("lo").await } else { netlink.link(u32::MAX >> 1).await }
                })
            })
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            match task.await.unwrap() {
                Ok(link) => assert!(n % 2 == 0 && link == lo),
                Err(error) => assert!(n % 2 == 1 && matches!(error, Error::NoDevice { .. }), "{error}"),
            }
        }
    });
}

/// Sees the packets that the stack gives to any device of the namespace.
struct Sniffer(OwnedFd);

impl Sniffer {
    fn open() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Self(socket::socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap())
    }

    /// The devices of the packets since the last call, one for each packet.
    fn senders(&self) -> Vec<u32> {
        let mut senders = Vec::new();
        while let Ok((_, address)) = socket::recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut []) {
            senders.push(u32::try_from(address.unwrap().ifindex()).unwrap());
        }
        senders
    }
}

/// Takes root's rights from this thread alone: the system call, unlike the C library's, knows
/// nothing of the other threads.
fn become_nobody() {
    const NOBODY: u32 = 65534;
    // SAFETY: changes the credentials of the calling thread and touches no memory.
    let outcome = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}
