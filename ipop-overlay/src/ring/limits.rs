//! Every time and number that bounds the ring, once. The ring is the original's (Brunet): where its
//! figure is kept, that is what is meant by *as the original*.

use core::time::Duration;

/// Nearest neighbours kept on each side; as the original.
pub(super) const NEAR_PER_SIDE: usize = 2;
/// A neighbour that is none of the nearest any more is given up after so long without a change; as the
/// original.
pub(super) const NEAR_TRIM: Duration = Duration::from_secs(30);
/// Missing neighbours are looked for so often at first, then half as often each time; as the original.
pub(super) const NEAR_RETRY: Duration = Duration::from_secs(10);
pub(super) const NEAR_RETRY_MAX: Duration = Duration::from_secs(60);
/// The largest network that a neighbour is believed to see: 2^32 nodes. 8 bits behind the point.
pub(super) const LOG2_SIZE_MAX: u16 = 32 << 8;
/// A node asks the ring for its own place so often, to find what gossip has not told.
pub(super) const SELF_CHECK: Duration = Duration::from_secs(240);
/// So long changes of the neighbourhood are gathered before the neighbours are told.
pub(super) const GOSSIP_DELAY: Duration = Duration::from_millis(100);
/// Who is connected as a neighbour but none of the nearest is told no more often than this.
pub(super) const GOSSIP_FURTHER: Duration = Duration::from_millis(400);
/// Of those, where there are no more than so many; with as many more, as long again.
pub(super) const GOSSIP_FEW: usize = 16;
/// A list of neighbours is asked for no more often than this.
pub(super) const GOSSIP_APART: Duration = Duration::from_secs(1);

/// Rings of so many nodes and fewer need no shortcuts; as the original. With 8 bits
/// behind the point.
pub(super) const FAR_FROM_LOG2: u32 = 850; // log2(10) * 256
/// Missing shortcuts are looked for this far apart.
pub(super) const FAR_RETRY: Duration = Duration::from_secs(5);
/// A shortcut is examined again so often; as the original.
pub(super) const FAR_EXAMINE: Duration = Duration::from_secs(300);
/// The physically closest of the neighbourhood is looked for so often.
pub(super) const BYPASS_EXAMINE: Duration = Duration::from_secs(300);

/// A neighbour on the ring that has been silent for so long is asked whether it is there.
pub(super) const SILENCE_NEAR: Duration = Duration::from_secs(12);
/// Others likewise: shorter than the shortest NAT mapping in common use, and than a lease.
pub(super) const SILENCE: Duration = Duration::from_secs(24);
/// The shortest that either becomes where a NAT on the way has been seen to forget sooner.
pub(super) const SILENCE_LEAST: Duration = Duration::from_secs(4);
/// Only a silence of so long, and one that has just ended, tells of what a NAT forgets.
pub(super) const SILENCE_TELLING: Duration = Duration::from_secs(2);
/// After so long without a sign of life although something was sent, the other is asked.
pub(super) const SILENCE_UNDER_TRAFFIC: Duration = Duration::from_secs(1);
/// Questions without an answer after which a connection is dead.
pub(super) const PROBES_MAX: u8 = 4;
/// The least and the longest time between two of them.
pub(super) const PROBE_APART: Duration = Duration::from_millis(500);
pub(super) const PROBE_APART_MAX: Duration = Duration::from_secs(3);
/// Connections that neither side has a use for are closed after so long; as the original.
pub(super) const UNUSED: Duration = Duration::from_secs(30);

/// Connections of one node; on-demand ones may use a data path each.
pub(super) const EDGES_MAX: usize = 1024;
/// Of them, those of nodes that use this one as a way into the network; the oldest is closed.
pub(super) const LEAVES_MAX: usize = 64;
/// A way into the network is given up after so long; as the original.
pub(super) const LEAF_LIFE: Duration = Duration::from_secs(600);
/// Connections under way.
pub(super) const LINKS_MAX: usize = 64;
/// Of them, those that only others have asked for.
pub(super) const LINKS_OF_OTHERS_MAX: usize = 32;
/// Others that say where they see this node; no more are asked.
pub(super) const OBSERVERS_ENOUGH: usize = 8;
/// The same where they see no NAT.
pub(super) const OBSERVERS_FEW: usize = 4;
/// A connection that is not there after so long is not tried any longer.
pub(super) const LINK_PATIENCE: Duration = Duration::from_secs(12);
/// Who was asked to connect waits so long for the one who asked before it begins by itself.
pub(super) const LINK_YIELD: Duration = Duration::from_millis(500);
/// A node that could not be reached is not tried again before.
pub(super) const AVOID: Duration = Duration::from_secs(20);
pub(super) const AVOIDED_MAX: usize = 64;

/// Requests under way.
pub(super) const REQUESTS_MAX: usize = 64;
/// A request without an answer is repeated so many times; as the original.
pub(super) const RESENDS_MAX: u8 = 5;
pub(super) const RESEND_FIRST: Duration = Duration::from_secs(1);
pub(super) const RESEND_MIN: Duration = Duration::from_millis(300);
pub(super) const RESEND_MAX: Duration = Duration::from_secs(8);

/// A node that knows others and finds none of them is a network of its own after so long.
pub(super) const ALONE: Duration = Duration::from_secs(10);

/// Who has come to the ring asks for nothing before its neighbours have been the same for so long, or it has been
/// there for as long: until then others may not know it, and it may not know them.
pub(super) const SETTLED_FOR: Duration = Duration::from_millis(500);
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(3);
pub(super) const SETTLING: Duration = Duration::from_millis(100);

/// Ways into the network that are known.
pub(super) const CONTACTS_MAX: usize = 64;
/// A contact is tried again after so long, then half as often each time.
pub(super) const CONTACT_RETRY: Duration = Duration::from_secs(1);
pub(super) const CONTACT_RETRY_MAX: Duration = Duration::from_secs(40);
/// Nodes whose connection was lost are looked for again this far apart, all together.
pub(super) const CONTACT_APART: Duration = Duration::from_secs(5);
/// A contact that has not answered for so long and is not configured is forgotten.
pub(super) const CONTACT_LIFE: Duration = Duration::from_secs(3600);

/// Nodes to which there is traffic but no connection.
pub(super) const DEMANDS_MAX: usize = 256;
/// Packets by which demand sinks each second.
pub(super) const DEMAND_DECAY: u32 = 1;
/// A direct connection is asked for above this.
pub(super) const DEMAND_ENOUGH: u32 = 3;
/// It is given up after so long without traffic.
pub(super) const DEMAND_LIFE: Duration = Duration::from_secs(180);

/// Nodes with which sessions are being made by way of others.
pub(super) const HANDSHAKES_MAX: usize = 64;
/// A handshake message that follows another within so long repeats it: WireGuard gives up after as long.
pub(super) const HANDSHAKE_REPEATED: Duration = Duration::from_secs(90);

/// Texts for all nodes that are known again.
pub(super) const BROADCASTS_KNOWN: usize = 64;
/// How far one goes: some times the logarithm of the largest network.
pub(super) const BROADCAST_HOPS_MAX: u16 = 64;

/// Groups whose trees this node is part of on account of others; and of those, how many for one child.
pub(super) const GROUPS_MAX: usize = 1024;
pub(super) const GROUPS_OF_CHILD_MAX: usize = 96;
/// Groups that this node itself is a member of.
pub(super) const GROUPS_OWN_MAX: usize = 64;
/// Children in the tree of one group.
pub(super) const CHILDREN_MAX: usize = 64;
/// Who is in a tree says so again after so long, and is forgotten after the other: two words may be lost.
pub(super) const JOIN_RENEW: Duration = Duration::from_secs(120);
pub(super) const JOIN_LIFE: Duration = Duration::from_secs(390);
/// A word to which there is no answer is repeated after so long, then half as often each time, so many times.
pub(super) const JOIN_RETRY: Duration = Duration::from_secs(1);
pub(super) const JOIN_TRIES_MAX: u8 = 5;
/// A node that did not answer, or has no room, is not asked again for so long.
pub(super) const JOIN_AVOID: Duration = Duration::from_secs(60);
/// Of those, so many are known for each group.
pub(super) const JOIN_AVOIDED_MAX: usize = 8;
/// Children whose time is over are looked for so often.
pub(super) const CHILDREN_CHECK: Duration = Duration::from_secs(30);
/// Words about groups that one neighbour may say, each second and at once: all of its groups, when it has found
/// another way to the root.
pub(super) const JOINS: (u32, u32) = (16, 256);
/// Datagrams for groups, each second and at once: of one origin, and by one connection.
pub(super) const DATAGRAMS_OF_ORIGIN: (u32, u32) = (1000, 500);
pub(super) const DATAGRAMS_OF_LINK: (u32, u32) = (2000, 1000);
/// Their bytes.
pub(super) const DATAGRAM_BYTES_OF_ORIGIN: (u32, u32) = (1_250_000, 625_000);
pub(super) const DATAGRAM_BYTES_OF_LINK: (u32, u32) = (2_500_000, 1_250_000);
/// Signatures of datagrams that this node checks, and copies that it makes.
pub(super) const DATAGRAM_CHECKS: (u32, u32) = (4000, 2000);
pub(super) const DATAGRAM_COPIES: (u32, u32) = (16_000, 8000);
/// Origins whose last datagrams are known, and for how long after the last.
pub(super) const ORIGINS_MAX: usize = 256;
pub(super) const ORIGIN_LIFE: Duration = Duration::from_secs(120);
/// How far a datagram goes; a tree is as deep as the logarithm of the network's size, twice.
pub(super) const DATAGRAM_HOPS_MAX: u8 = 64;

/// Pairs of nodes between which one node relays; and of those, how many for one that asks.
pub(super) const RELAYED_MAX: usize = 1024;
pub(super) const RELAYED_FOR_ONE_MAX: usize = 64;
/// A relay is asked again so often, and gives up a pair for which nobody asks for so long.
pub(super) const RELAY_RENEW: Duration = Duration::from_secs(50);
pub(super) const RELAY_LIFE: Duration = Duration::from_secs(150);
/// Nodes that are looked for by relays.
pub(super) const RELAY_WANTED_MAX: usize = 64;
/// Relays that are asked for one of them.
pub(super) const RELAYS_ASKED_MAX: usize = 4;
/// Connections that are made to ask for one.
pub(super) const RELAYS_CALLED_MAX: usize = 2;
/// Answers of relays are gathered for so long: the way by each is tried at once, and the first counts.
pub(super) const RELAY_GATHER: Duration = Duration::from_millis(50);
/// A node is not looked for by relays any longer.
pub(super) const RELAY_PATIENCE: Duration = Duration::from_secs(12);
/// One that is reached by a relay is looked for directly again after so long, then half as often each time.
pub(super) const UPGRADE: Duration = Duration::from_secs(20);
pub(super) const UPGRADE_MAX: Duration = Duration::from_secs(320);

/// What may be sent on account of one neighbour's messages before it has sent as much.
pub(super) const CREDIT: u32 = 16 * 1024;
/// The most that is credited.
pub(super) const CREDIT_MAX: u32 = 256 * 1024;
