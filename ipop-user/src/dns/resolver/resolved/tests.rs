//! A service that answers as systemd-resolved does, and keeps what it was told. That the real one takes it so is not
//! tested here: its package would take over the resolver of the machine that tests.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use zbus::connection::Builder;
use zbus::message::Type as MessageType;
use zbus::{Guid, MessageStream};

use super::*;

type Calls = Arc<Mutex<Vec<String>>>;

/// A bus on which the service is, or is not; in a process, which answers all calls but `refused`.
async fn bus(has_owner: bool, pid: u32, refused: &'static str) -> (Connection, Calls) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let guid = Guid::generate();
    let server = Builder::unix_stream(theirs).server(guid).p2p().build();
    let (server, client) = tokio::join!(server, Builder::unix_stream(ours).p2p().build());
    let (server, calls) = (server.unwrap(), Calls::default());
    let kept = Arc::clone(&calls);
    tokio::spawn(async move {
        let mut messages = MessageStream::from(server.clone());
        while let Some(Ok(message)) = messages.next().await {
            if message.message_type() != MessageType::MethodCall {
                continue;
            }
            let header = message.header();
            let method = header.member().unwrap().to_string();
            let body = message.body();
            let text = match method.as_str() {
                "SetLinkDNS" => format!("{:?}", body.deserialize::<(i32, Vec<(i32, Vec<u8>)>)>().unwrap()),
                "SetLinkDomains" => {
                    format!("{:?}", body.deserialize::<(i32, Vec<(String, bool)>)>().unwrap())
                }
                "SetLinkDefaultRoute" => format!("{:?}", body.deserialize::<(i32, bool)>().unwrap()),
                "RevertLink" => format!("{:?}", body.deserialize::<(i32,)>().unwrap()),
                "NameHasOwner" | "GetConnectionUnixProcessID" => body.deserialize::<(String,)>().unwrap().0,
                _ => format!("{:?}", body.deserialize::<(i32, String)>().unwrap()),
            };
            kept.lock().unwrap().push(format!("{method} {text}"));
            let replied = match method.as_str() {
                method if method == refused => {
                    server.reply_error(&header, "org.freedesktop.DBus.Error.AccessDenied", &"no").await
                }
                "NameHasOwner" => server.reply(&header, &has_owner).await,
                "GetConnectionUnixProcessID" => server.reply(&header, &pid).await,
                _ => server.reply(&header, &()).await,
            };
            replied.unwrap();
        }
    });
    (client.unwrap(), calls)
}

fn addresses() -> Vec<IpAddr> {
    vec!["10.128.0.1".parse().unwrap(), "::1".parse().unwrap()]
}

fn domains() -> Vec<String> {
    vec!["demo.ipop".to_owned(), "0.128.10.in-addr.arpa".to_owned()]
}

#[tokio::test]
async fn the_link_has_the_networks_domains_alone_and_is_forgotten_in_the_end() {
    for (search, is_routing_alone) in [(None, true), (Some("demo.ipop"), false)] {
        let (bus, calls) = bus(true, std::process::id(), "SetLinkDNSSEC").await;
        let resolved = Resolved::on(bus, 7).await.unwrap();
        resolved.install(&addresses(), &domains(), search).await.unwrap();
        resolved.undo().await.unwrap();
        let expected = [
            "NameHasOwner org.freedesktop.resolve1".to_owned(),
            "GetConnectionUnixProcessID org.freedesktop.resolve1".to_owned(),
            // Refused, which changes nothing.
            "SetLinkDNSSEC (7, \"no\")".to_owned(),
            "SetLinkDNSOverTLS (7, \"no\")".to_owned(),
            "SetLinkDefaultRoute (7, false)".to_owned(),
            "SetLinkDNS (7, [(2, [10, 128, 0, 1]), (10, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])])"
                .to_owned(),
            format!(
                "SetLinkDomains (7, [(\"demo.ipop\", {is_routing_alone}), (\"0.128.10.in-addr.arpa\", true)])"
            ),
            "RevertLink (7,)".to_owned(),
        ];
        assert_eq!(calls.lock().unwrap()[..], expected);
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_or_refuses_is_told_apart() {
    let (absent, calls) = bus(false, 1, "").await;
    assert!(matches!(Resolved::on(absent, 7).await, Err(ResolvedError::Absent)));
    assert_eq!(calls.lock().unwrap().len(), 1, "it is not started by asking");
    let (bus, _) = bus(true, std::process::id(), "SetLinkDNS").await;
    let resolved = Resolved::on(bus, 7).await.unwrap();
    let error = resolved.install(&addresses(), &domains(), None).await.unwrap_err().to_string();
    assert!(error.starts_with("systemd-resolved: ") && error.contains("AccessDenied"), "{error}");
}
