//! Names of elsewhere: a query of this host's own is passed on as it is to the servers that this host would ask
//! otherwise, one after the other, and the first answer is passed back. Nothing is kept, and nothing is followed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipop_common::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::message::is_answer;
use crate::userpath::Counters;

/// For a server's answer: the next is asked while a resolver still waits (5 s by default, resolv.conf(5)).
const PATIENCE: Duration = Duration::from_millis(1500);
/// Queries under way: each has a socket of its own, so that nobody guesses its port (RFC 5452, section 9.2).
const UNDER_WAY_MAX: usize = 128;

/// By what a query has come, and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Udp,
    Tcp,
}

/// Where to queries go on; nowhere while there is no server.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    servers: Arc<ArcSwap<Vec<SocketAddr>>>,
    under_way: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Forward {
    pub(super) fn new(servers: Arc<ArcSwap<Vec<SocketAddr>>>, counters: Arc<Counters>) -> Self {
        Self { servers, under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)), counters }
    }

    /// Whether there is a server to ask.
    pub(super) fn is_there(&self) -> bool {
        !self.servers.load().is_empty()
    }

    /// The answer of the first server that gives one; `None`: there is none, which has been counted.
    pub(super) async fn ask(&self, query: &[u8], by: By) -> Option<Vec<u8>> {
        let Ok(_permit) = self.under_way.try_acquire() else {
            self.counters.add(Counter::RxDnsFlood, 1);
            return None;
        };
        let servers = self.servers.load_full();
        for server in servers.iter() {
            let answer = async {
                match by {
                    By::Udp => ask_by_udp(*server, query).await,
                    By::Tcp => ask_by_tcp(*server, query).await,
                }
            };
            match timeout(PATIENCE, answer).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => debug!(%server, %error, "DNS server not asked"),
                Err(_) => debug!(%server, "no answer of the DNS server"),
            }
        }
        self.counters.add(Counter::TxDnsUnanswered, 1);
        None
    }
}

async fn ask_by_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let (id, asked) = renumbered(query)?;
    socket.send(&asked).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let len = socket.recv(&mut answer).await?;
        // Of what is no answer to this question, somebody else may be the sender.
        if is_answer(&answer[..len], query, id) {
            answer.truncate(len);
            return Ok(with_id_of(answer, query));
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (id, asked) = renumbered(query)?;
    let len = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], &asked].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    if !is_answer(&answer, query, id) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what came is no answer to the question"));
    }
    Ok(with_id_of(answer, query))
}

/// The query under an identifier that nobody knows: the one who asked may have chosen a poor one.
fn renumbered(query: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let mut asked = query.to_vec();
    if let Some(field) = asked.first_chunk_mut() {
        *field = id;
    }
    Ok((u16::from_be_bytes(id), asked))
}

fn with_id_of(mut answer: Vec<u8>, query: &[u8]) -> Vec<u8> {
    if let (Some(field), Some(id)) = (answer.first_chunk_mut::<2>(), query.first_chunk::<2>()) {
        *field = *id;
    }
    answer
}
