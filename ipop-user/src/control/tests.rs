//! The real server on a socket in a directory of its own, with a daemon that answers from a table.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::*;
use crate::api::paths;

/// Long after anything here should have happened.
const DEADLINE: Duration = Duration::from_secs(20);
const ANY_PORT: &str = "127.0.0.1:0";

struct Fixture {
    handle: ServerHandle,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

async fn start_within(limits: Limits, requests: mpsc::Sender<Request>) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("run/ipopd.sock");
    let metrics = Some(ANY_PORT.parse().unwrap());
    let handle = serve_within(limits, &socket, metrics, requests).await.unwrap();
    Fixture { handle, socket, _directory: directory }
}

/// A server whose daemon answers.
async fn start() -> Fixture {
    let (tx, rx) = mpsc::channel(8);
    fake::spawn(rx);
    start_within(Limits::DEFAULT, tx).await
}

impl Fixture {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    async fn get(&self, resource: &str) -> (u16, String) {
        exchange(self.connect().await, &format!("GET {resource} HTTP/1.1\r\nHost: ipopd\r\n\r\n")).await
    }

    async fn get_json(&self, resource: &str) -> (u16, Value) {
        let (status, body) = self.get(resource).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn post(&self, resource: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!(
            "POST {resource} HTTP/1.1\r\nHost: ipopd\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let (status, body) = exchange(self.connect().await, &request).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

/// Sends a request and reads until the server closes the connection: status and body.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let text = read_to_end(&mut stream).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not HTTP: {text:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer in time").unwrap();
    String::from_utf8(answer).unwrap()
}

fn error(text: &str) -> Value {
    json!({ "error": text })
}

#[tokio::test]
async fn state_is_answered_as_json() {
    let server = start().await;
    for (resource, expected) in [
        (paths::STATUS, serde_json::to_value(fake::status()).unwrap()),
        (paths::PEERS, serde_json::to_value(fake::peers()).unwrap()),
        (paths::LINKS, serde_json::to_value(fake::links()).unwrap()),
        (paths::GROUPS, serde_json::to_value(fake::groups()).unwrap()),
        (paths::STATIONS, serde_json::to_value(fake::stations()).unwrap()),
        (paths::ROUTES, serde_json::to_value(fake::routes()).unwrap()),
        (paths::COUNTERS, serde_json::to_value(fake::counters()).unwrap()),
        ("/v1/explain?peer=beta", serde_json::to_value(fake::explanation()).unwrap()),
    ] {
        assert_eq!(server.get_json(resource).await, (200, expected), "{resource}");
    }
}

#[tokio::test]
async fn a_public_key_survives_the_query() {
    let server = start().await;
    let key = fake::key(2).to_string().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    assert_eq!(server.get(&format!("/v1/explain?peer={key}")).await.0, 200);
}

#[tokio::test]
async fn orders_are_carried_out_or_refused() {
    let server = start().await;
    assert_eq!(
        server.post(paths::DATAPATH_KERNEL, r#"{"on":false}"#).await,
        (200, json!({ "message": "the kernel path is off" }))
    );
    assert_eq!(
        server.post(paths::DATAPATH_KERNEL, r#"{"on":true}"#).await,
        (409, error("the kernel path is not available: no CAP_BPF"))
    );
    assert_eq!(server.post(paths::RELOAD, "").await, (200, json!({ "message": "nothing has changed" })));
    assert_eq!(
        server.get_json("/v1/explain?peer=nobody").await,
        (409, error("no such peer; `ipopctl peers` lists them"))
    );
}

#[tokio::test]
async fn a_ping_is_bounded_and_summed_up() {
    let server = start().await;
    let order = |count: u32, interval_ms: u64| {
        json!({"peer": "beta", "count": count, "interval_ms": interval_ms}).to_string()
    };
    let (status, ping) = server.post(paths::PING, &order(4, 10)).await;
    assert_eq!((status, &ping["lost"], &ping["avg_us"]), (200, &json!(1), &json!(102)));
    for (count, interval_ms) in [(0, 10), (101, 10), (1, 10_001)] {
        let refused = server.post(paths::PING, &order(count, interval_ms)).await;
        let expected = error("a ping has a count of 1 to 100 and an interval of at most 10000 ms");
        assert_eq!(refused, (400, expected));
    }
}

#[tokio::test]
async fn other_nodes_are_asked_and_named_in_any_way() {
    let server = start().await;
    let trace = |node: &str, hop: u32| json!({ "node": node, "hop": hop }).to_string();
    let (status, hop) = server.post(paths::TRACE, &trace("beta", 1)).await;
    assert_eq!((status, &hop["end"], &hop["node"]["name"]), (200, &json!("on-the-way"), &json!("gamma")));
    let (_, hop) = server.post(paths::TRACE, &trace(&fake::key(2).to_string(), 2)).await;
    assert_eq!(hop["end"], "arrived");
    assert_eq!(server.post(paths::TRACE, &trace("beta", 0)).await, (400, error("hops are counted from 1")));
    assert_eq!(server.post(paths::TRACE, &trace("delta", 1)).await.0, 409);
    let (status, own) = server.post(paths::SURVEY, r#"{"node":null}"#).await;
    assert_eq!((status, own), (200, serde_json::to_value(fake::ring_node(1)).unwrap()));
    assert_eq!(server.post(paths::SURVEY, r#"{"node":"delta"}"#).await.0, 409);
}

#[tokio::test]
async fn nonsense_is_refused_with_a_reason() {
    let server = start().await;
    assert_eq!(server.get("/v2/status").await.0, 404);
    assert_eq!(server.get(paths::RELOAD).await.0, 405);
    assert_eq!(server.get(paths::EXPLAIN).await.0, 400);
    for body in ["", "{", "[]", r#"{"on":1}"#, r#"{"on":true,"off":false}"#] {
        let (status, answer) = server.post(paths::DATAPATH_KERNEL, body).await;
        assert_eq!(status, 400, "{body}");
        assert!(!answer["error"].as_str().unwrap().is_empty());
    }
    let huge = format!(r#"{{"on":{}true}}"#, " ".repeat(BODY_LEN_MAX));
    assert_eq!(server.post(paths::DATAPATH_KERNEL, &huge).await.0, 400);
    let (status, _) = exchange(server.connect().await, "MAKE ME A SANDWICH\r\n\r\n").await;
    assert_eq!(status, 400);
    assert_eq!(server.get(paths::STATUS).await.0, 200);
}

#[tokio::test]
async fn a_silent_or_dying_daemon_is_told_apart() {
    let (tx, mut rx) = mpsc::channel(8);
    let limits = Limits { answer: Duration::from_millis(50), ..Limits::DEFAULT };
    let server = start_within(limits, tx).await;
    let (status, answer) = server.get_json(paths::STATUS).await;
    assert_eq!((status, answer), (504, error("ipopd gave no answer within 50ms; see its log")));
    // The request that nobody answered is still there; after it the daemon is gone.
    assert!(matches!(rx.recv().await, Some(Request::Status(_))));
    drop(rx);
    let (status, answer) = server.get_json(paths::STATUS).await;
    assert_eq!((status, answer), (503, error("ipopd is shutting down; try again when it is up")));
}

#[tokio::test]
async fn metrics_are_served_on_both_listeners_and_nothing_else_on_tcp() {
    let server = start().await;
    let (status, on_socket) = server.get(paths::METRICS).await;
    assert_eq!(status, 200);
    let disabled = fake::counters().kernel.0["tx_disabled"].value;
    let disabled =
        format!(r#"ipop_packets_total{{path="kernel",verdict="tx_disabled",class="passed"}} {disabled}"#);
    for line in [
        r#"ipop_build_info{node="alpha",network="demo",version="0.1.0"} 1"#,
        "# TYPE ipop_uptime_seconds gauge",
        "ipop_uptime_seconds 3725",
        "ipop_kernel_path_on 1",
        r#"ipop_peer_path{peer="beta",path="direct-kernel"} 1"#,
        r#"ipop_peer_path{peer="beta",path="direct-user"} 0"#,
        r#"ipop_peer_rtt_seconds{peer="beta"} 0.00018"#,
        r#"ipop_peer_packets_total{peer="beta",path="kernel",direction="tx"} 1234560"#,
        r#"ipop_peer_bytes_total{peer="beta",direction="tx"} 9876543210"#,
        r#"ipop_link_lease_seconds{peer="beta",link_id="001a2b"} 29.5"#,
        "ipop_overlay_joined 1",
        "ipop_overlay_nodes 3",
        "ipop_overlay_connections 2",
        disabled.as_str(),
        "# EOF",
    ] {
        assert!(on_socket.lines().any(|found| found == line), "{line} is missing in:\n{on_socket}");
    }
    assert!(!on_socket.contains(r#"ipop_peer_rtt_seconds{peer="gamma"}"#));

    let addr = server.handle.metrics_addr().unwrap();
    let over_tcp = async |resource: &str| {
        let stream = TcpStream::connect(addr).await.unwrap();
        exchange(stream, &format!("GET {resource} HTTP/1.1\r\nHost: ipopd\r\n\r\n")).await
    };
    assert_eq!(over_tcp(paths::METRICS).await, (200, on_socket));
    assert_eq!(over_tcp(paths::STATUS).await.0, 404);
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_goes_with_the_server() {
    let server = start().await;
    let found = std::fs::symlink_metadata(&server.socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    timeout(DEADLINE, server.handle.shutdown()).await.expect("a shutdown in time");
    assert!(!server.socket.exists());
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ipopd.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (tx, rx) = mpsc::channel(8);
    fake::spawn(rx);
    let first = serve(&path, None, tx.clone()).await.unwrap();
    let error = serve(&path, None, tx.clone()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(
        error.to_string(),
        format!(
            "control socket {}: another ipopd answers there; stop it, or choose another node.control_socket",
            path.display()
        )
    );
    assert!(path.exists());

    // A socket that another daemon has put in our place is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    let second = serve(&path, None, tx).await.unwrap();
    first.shutdown().await;
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "text").unwrap();
    let (tx, _rx) = mpsc::channel(1);
    let error = serve(&path, None, tx).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "control socket {}: something that is not a socket is in its place (entity already exists); \
             free the path, or choose another node.control_socket",
            path.display()
        )
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
}

#[tokio::test]
async fn an_occupied_metrics_address_is_an_error_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ipopd.sock");
    let occupant = TcpListener::bind(ANY_PORT).await.unwrap();
    let addr = occupant.local_addr().unwrap();
    let (tx, _rx) = mpsc::channel(1);
    let error = serve(&path, Some(addr), tx).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot serve metrics on {addr}: Address already in use (os error 98); \
             choose another address for node.metrics"
        )
    );
    assert!(!path.exists());
}

#[tokio::test]
async fn idle_connections_are_cut_off_and_make_room_for_others() {
    let (tx, rx) = mpsc::channel(8);
    fake::spawn(rx);
    let limits = Limits { connections_max: 2, header: Duration::from_millis(50), ..Limits::DEFAULT };
    let server = start_within(limits, tx).await;
    let (mut one, mut other) = (server.connect().await, server.connect().await);
    one.write_all(b"GET /v1/sta").await.unwrap();
    // There is no place free, so this is answered only once the idle ones are gone.
    assert_eq!(server.get(paths::STATUS).await.0, 200);
    read_to_end(&mut one).await;
    read_to_end(&mut other).await;
}

#[tokio::test]
async fn a_shutdown_lets_an_answer_under_way_finish() {
    let (tx, mut rx) = mpsc::channel(8);
    let server = start_within(Limits::DEFAULT, tx).await;
    let mut client = server.connect().await;
    client.write_all(b"GET /v1/status HTTP/1.1\r\nHost: ipopd\r\n\r\n").await.unwrap();
    let request = timeout(DEADLINE, rx.recv()).await.unwrap().unwrap();
    let shutdown = tokio::spawn(server.handle.shutdown());
    fake::answer(request);
    assert!(read_to_end(&mut client).await.starts_with("HTTP/1.1 200"));
    timeout(DEADLINE, shutdown).await.unwrap().unwrap();
}
