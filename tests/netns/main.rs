//! End to end: real daemons, real programs and a real wire between network namespaces.
//!
//! | file | what it shows |
//! |---|---|
//! | `carry` | each path carries what it should, by its counters |
//! | `content` | what arrives is what was sent, byte for byte |
//! | `mtu` | packets that are too big, and nothing that vanishes |
//! | `change` | MACs, addresses, routes and interfaces that change under traffic |
//! | `restart` | daemons that die, come back and end |
//! | `switch` | moving between the paths |
//! | `refuse` | configurations and hosts that do not allow a daemon |
//! | `hostile` | packets of somebody who means harm |
//! | `flood` | floods of handshake messages |
//! | `forward` | a network behind a node |
//! | `coexist` | other programs and traffic on the same devices |
//! | `reload` | peers that come and go |
//! | `interop` | WireGuards of others as peers: wireguard-go, boringtun, the kernel's |
//! | `overlay` | nodes that know one address find each other |
//! | `probes` | what operators ask of the overlay: status, ping, traceroute, crawl |
//! | `ways_in` | by what a node finds the overlay: keys, names, the LAN, earlier runs |
//! | `dns` | names of the virtual network, and the host's resolver, which is as it was in the end |
//! | `nat` | hosts behind boxes of every kind: who is reached, how, and how soon |
//! | `places` | ports that routers give, outside addresses, STUN servers, and lies about them |
//! | `boxes` | that the lab's NAT boxes and firewalls do what their kinds say |
//! | `streams` | TCP where UDP does not pass |
//! | `roaming` | hosts that move, and boxes that forget, under traffic |
//! | `routing` | subnets behind nodes: permission, failover, exit nodes, local traffic |
//! | `sealed` | sealed links: both data paths, order, sessions, secrets |
//! | `relayed` | sealed links by a relay: both ends in the kernel, the relay in TC and XDP, MTU, changes of the way, restarts |
//! | `files` | rsync and sshfs by name, over a way that changes and a daemon that dies |
//! | `group` | machines that join a group, certificates that do not count, removal, a server that is down |
//! | `mpi` | OpenMPI on four nodes, started by ssh and names, carried by the kernel |
//!
//! They need root, and without it are skipped. `IPOP_TEST_FULL=1` adds the slow ones.

mod boxes;
mod carry;
#[expect(clippy::print_stdout, reason = "how long a change was felt is worth a line")]
mod change;
mod coexist;
#[expect(clippy::print_stdout, reason = "what a transfer reached is worth a line")]
mod content;
mod dns;
mod ethernet;
#[expect(clippy::print_stdout, reason = "how long each step took is worth a line")]
mod files;
mod flood;
#[expect(clippy::print_stdout, reason = "what a transfer reached is worth a line")]
mod forward;
#[expect(clippy::print_stdout, reason = "how long each step took is worth a line")]
mod group;
mod hostile;
#[expect(clippy::print_stdout, reason = "what a transfer reached is worth a line")]
mod interop;
#[expect(clippy::print_stderr, reason = "a failed or skipped test is told to a person")]
mod lab;
#[expect(clippy::print_stdout, reason = "how long a crowd needs is worth a line")]
mod leases;
#[expect(clippy::print_stdout, reason = "how long a job took is worth a line")]
mod mpi;
mod mtu;
mod multicast;
mod nat;
mod overlay;
mod places;
mod probes;
mod records;
mod refuse;
mod relayed;
mod reload;
mod restart;
#[expect(clippy::print_stdout, reason = "how long a change was felt is worth a line")]
mod roaming;
mod routing;
#[expect(clippy::print_stdout, reason = "what a transfer reached is worth a line")]
mod sealed;
mod streams;
mod switch;
mod turn;
mod ways_in;
