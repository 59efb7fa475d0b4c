//! Real sockets on the loopback, whose addresses are this host's; the network is 127.0.0.0/8 here.

use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{Name, RecordType};

use super::*;
use crate::dns::directory::{Hosts, NoAnswer, Offer, Published};

const DEADLINE: Duration = Duration::from_secs(20);

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn hosts() -> Published {
    let mut hosts = Hosts::new(1);
    hosts.insert("beta", ["10.128.0.2".parse().unwrap()]);
    Published(Arc::new(ArcSwap::from_pointee(hosts)))
}

struct Bench<D> {
    server: Arc<Server<D>>,
    udp: SocketAddr,
    tcp: SocketAddr,
}

impl<D: Directory> Bench<D> {
    fn new(directory: D, forward: Vec<SocketAddr>) -> Self {
        let counters = Arc::new(Counters::new());
        let networks: Vec<Prefix> = vec!["10.128.0.1/24".parse().unwrap()];
        let zone = Zone::new("demo", "alpha", &networks).unwrap();
        let forward = Forward::new(Arc::new(ArcSwap::from_pointee(forward)), Arc::clone(&counters));
        let server = Arc::new(Server::new(zone, directory, forward, counters, (networks, false)));
        let (udp, tcp) = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let bench = Self {
            udp: udp.local_addr().unwrap(),
            tcp: tcp.local_addr().unwrap(),
            server: Arc::clone(&server),
        };
        tokio::spawn(Arc::clone(&server).serve_udp(udp));
        tokio::spawn(server.serve_tcp(tcp));
        bench
    }

    fn count(&self, counter: Counter) -> u64 {
        self.server.counters.value(counter)
    }
}

async fn ask_udp(server: SocketAddr, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    let mut answer = [0; 4096];
    let len = timeout(DEADLINE, socket.recv(&mut answer)).await.expect("an answer").unwrap();
    Message::from_vec(&answer[..len]).unwrap()
}

async fn ask_tcp(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Message> {
    let len = u16::try_from(bytes.len()).unwrap();
    stream.write_all(&[&len.to_be_bytes()[..], bytes].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(Message::from_vec(&answer).unwrap())
}

fn outcome(answer: &Message) -> (ResponseCode, usize) {
    assert_eq!(answer.metadata.id, 7);
    (answer.metadata.response_code, answer.answers.len())
}

#[tokio::test]
async fn both_transports_answer_alike() {
    let bench = Bench::new(hosts(), Vec::new());
    let mut stream = TcpStream::connect(bench.tcp).await.unwrap();
    for (name, expected) in [
        ("beta.demo.ipop.", (ResponseCode::NoError, 1)),
        ("gamma.demo.ipop.", (ResponseCode::NXDomain, 0)),
        ("example.org.", (ResponseCode::Refused, 0)),
    ] {
        assert_eq!(outcome(&ask_udp(bench.udp, &query(name)).await), expected, "{name}");
        assert_eq!(outcome(&ask_tcp(&mut stream, &query(name)).await.unwrap()), expected, "{name}");
    }
    assert_eq!(bench.count(Counter::RxBadDns), 0);
}

#[tokio::test]
async fn malformed_messages_are_counted_and_a_connection_goes_on() {
    let bench = Bench::new(hosts(), Vec::new());
    let whole = query("beta.demo.ipop.");
    let cut = &whole[..whole.len() - 1];
    assert_eq!(outcome(&ask_udp(bench.udp, cut).await), (ResponseCode::FormErr, 0));
    let mut stream = TcpStream::connect(bench.tcp).await.unwrap();
    assert_eq!(outcome(&ask_tcp(&mut stream, cut).await.unwrap()), (ResponseCode::FormErr, 0));
    assert_eq!(outcome(&ask_tcp(&mut stream, &whole).await.unwrap()), (ResponseCode::NoError, 1));
    assert_eq!(bench.count(Counter::RxBadDns), 2);
    // One longer than any query ends it.
    stream.write_all(&[0xff, 0xff]).await.unwrap();
    assert_eq!(timeout(DEADLINE, stream.read(&mut [0])).await.expect("an end").unwrap_or(0), 0);
    assert_eq!(bench.count(Counter::RxBadDns), 3);
}

#[tokio::test]
async fn connections_have_a_limit() {
    let bench = Bench::new(hosts(), Vec::new());
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = TcpStream::connect(bench.tcp).await.unwrap();
        ask_tcp(&mut stream, &query("beta.demo.ipop.")).await.unwrap();
        streams.push(stream);
    }
    let mut one_more = TcpStream::connect(bench.tcp).await.unwrap();
    let refused = timeout(DEADLINE, ask_tcp(&mut one_more, &query("beta.demo.ipop."))).await.expect("an end");
    assert!(refused.is_err());
    assert_eq!(bench.count(Counter::RxDnsFlood), 1);
    // One that goes makes room.
    streams.pop();
    let again = async {
        loop {
            let mut stream = TcpStream::connect(bench.tcp).await.unwrap();
            if ask_tcp(&mut stream, &query("beta.demo.ipop.")).await.is_ok() {
                break;
            }
        }
    };
    timeout(DEADLINE, again).await.expect("room");
}

/// A directory that says nothing until it may.
#[derive(Default)]
struct Slow(tokio::sync::Notify, AtomicBool);

impl Directory for Arc<Slow> {
    async fn addresses(&self, _: &str) -> Result<Option<Vec<IpAddr>>, NoAnswer> {
        if !self.1.load(Ordering::Relaxed) {
            self.0.notified().await;
        }
        Err(NoAnswer)
    }

    async fn name(&self, _: IpAddr) -> Result<Option<String>, NoAnswer> {
        Err(NoAnswer)
    }

    async fn services(&self, _: &str) -> Result<Option<Vec<Offer>>, NoAnswer> {
        Err(NoAnswer)
    }

    fn serial(&self) -> u32 {
        1
    }
}

#[tokio::test]
async fn a_directory_that_does_not_answer_holds_up_so_many_and_no_more() {
    let slow = Arc::new(Slow::default());
    let bench = Bench::new(Arc::clone(&slow), Vec::new());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let waiting = UNDER_WAY_MAX + 10;
    for _ in 0..waiting {
        socket.send_to(&query("beta.demo.ipop."), bench.udp).await.unwrap();
        // The server's socket holds only so many.
        tokio::task::yield_now().await;
    }
    let refused = async {
        while bench.count(Counter::RxDnsFlood) < 10 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, refused).await.expect("those beyond the limit are refused");
    slow.1.store(true, Ordering::Relaxed);
    slow.0.notify_waiters();
    let mut answer = [0; 512];
    let len = timeout(DEADLINE, socket.recv(&mut answer)).await.expect("an answer").unwrap();
    assert_eq!(outcome(&Message::from_vec(&answer[..len]).unwrap()), (ResponseCode::ServFail, 0));
}

#[tokio::test]
async fn other_names_are_asked_of_the_next_server_if_the_first_is_silent() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = Bench::new(hosts(), Vec::new());
    let bench = Bench::new(hosts(), vec![silent.local_addr().unwrap(), elsewhere.udp]);
    // What the other one refuses was asked there.
    assert_eq!(outcome(&ask_udp(bench.udp, &query("Example.org.")).await), (ResponseCode::Refused, 0));
    let mut asked = [0; 512];
    let len = silent.recv(&mut asked).await.unwrap();
    assert_eq!(asked[2..len], query("Example.org.")[2..], "as it came, but for its number");
    assert!(ask_udp(bench.udp, &query("beta.demo.ipop.")).await.metadata.recursion_available);
}

#[tokio::test]
async fn a_server_that_is_silent_or_lies_leaves_a_failure() {
    let liar = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(hosts(), vec![liar.local_addr().unwrap()]);
    let lies = tokio::spawn(async move {
        let mut asked = [0; 512];
        let (len, from) = liar.recv_from(&mut asked).await.unwrap();
        let mut other = query("evil.example.");
        other[..2].copy_from_slice(&asked[..2]);
        other[2] |= 0x80;
        liar.send_to(&other, from).await.unwrap();
        let mut renumbered = asked[..len].to_vec();
        renumbered[0] ^= 1;
        renumbered[2] |= 0x80;
        liar.send_to(&renumbered, from).await.unwrap();
        liar.send_to(&[], from).await.unwrap();
    });
    assert_eq!(outcome(&ask_udp(bench.udp, &query("example.org.")).await), (ResponseCode::ServFail, 0));
    lies.await.unwrap();
    assert_eq!(bench.count(Counter::TxDnsUnanswered), 1);
}

#[tokio::test]
async fn strangers_are_counted_and_not_answered() {
    let bench = Bench::new(hosts(), Vec::new());
    let admit = |from: &str| bench.server.admit(from.parse().unwrap());
    assert_eq!(admit("10.128.0.1"), Some(Asker::ThisHost));
    assert_eq!(admit("::ffff:127.0.0.1"), Some(Asker::ThisHost));
    // A member, as long as members are not served; and nobody at all.
    assert_eq!(admit("10.128.0.2"), None);
    assert_eq!(admit("192.0.2.1"), None);
    assert_eq!((bench.count(Counter::RxDnsStranger), bench.count(Counter::RxDnsFlood)), (2, 0));
    let flooded = (0..1000).filter(|_| admit("10.128.0.2").is_some()).count();
    assert_eq!(flooded, 0);
    assert!(bench.count(Counter::RxDnsFlood) > 500);
    assert_eq!(admit("10.128.0.1"), Some(Asker::ThisHost), "whatever members do");
}
