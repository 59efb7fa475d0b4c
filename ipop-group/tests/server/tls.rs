//! HTTPS with a certificate of the server's own.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::world::{Server, eventually, run};

/// Writes a certificate and its key, and returns the certificate.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    fs::write(folder.join("certificate.pem"), made.cert.pem()).expect("a file");
    made.cert.der().clone()
}

/// The start page, if the server has this certificate.
fn get(server: &Server, trusted: &CertificateDer<'static>) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut stream = StreamOwned::new(connection, TcpStream::connect(server.address)?);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn certificates_are_read_again_when_they_are_renewed() {
    let files = TempDir::new().expect("a folder");
    let file = |name: &str| files.path().join(name).to_str().expect("a name").to_owned();
    let first = certify(files.path());
    let server =
        Server::with(&["--tls-certificate", &file("certificate.pem"), "--tls-key", &file("key.pem")]);
    let answer = get(&server, &first).expect("the page");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age="), "{answer}");
    let hangup = || {
        let id = Pid::from_raw(i32::try_from(server.id()).expect("a process"));
        kill(id, Signal::SIGHUP).expect("a signal");
    };
    fs::write(files.path().join("certificate.pem"), "half a file").expect("a file");
    hangup();
    eventually("the old one stays", || server.has_said("the old certificate for HTTPS stays"));
    get(&server, &first).expect("the page");
    let second = certify(files.path());
    hangup();
    eventually("the new certificate is used", || get(&server, &second).is_ok());
    assert!(get(&server, &first).is_err());
}

#[test]
fn without_https_nobody_elsewhere_is_served() {
    let folder = TempDir::new().expect("a folder");
    let output = run(&["serve", "--listen", "0.0.0.0:0"], folder.path(), "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.contains("--tls-certificate")), (Some(1), true), "{said}");
    assert_eq!(run(&["serve", "--listen", "nowhere"], folder.path(), "").status.code(), Some(2));
}
