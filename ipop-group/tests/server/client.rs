//! HTTP/1.1 by hand: so that a test can also send what no client would.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything takes, shorter than a test that hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the server has answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    /// Reads one answer out of all that came until the connection ended.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Some(Self { status, headers, body: body.to_owned() })
    }
}

/// Sends bytes, and reads until the server closes.
pub(crate) fn raw(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    // A server that has refused may have closed before it was all sent.
    drop(stream.write_all(request));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

pub(crate) fn post(address: SocketAddr, path: &str, head: &str, body: &[u8]) -> std::io::Result<Answer> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{head}\r\n",
        body.len()
    );
    let answer = raw(address, &[head.as_bytes(), body].concat())?;
    Answer::read(&answer).ok_or_else(|| std::io::Error::other("no answer"))
}

/// Keeps cookies, and fills in forms.
#[derive(Clone, Debug)]
pub(crate) struct Browser {
    pub(crate) address: SocketAddr,
    pub(crate) cookies: BTreeMap<String, String>,
    /// The token of the last page's forms.
    pub(crate) csrf: String,
    /// More lines of each request's head.
    pub(crate) head: String,
}

impl Browser {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, cookies: BTreeMap::new(), csrf: String::new(), head: String::new() }
    }

    pub(crate) fn cookie_header(&self) -> String {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { String::new() } else { format!("Cookie: {}\r\n", pairs.join("; ")) }
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}{}\r\n",
            self.address,
            self.cookie_header(),
            self.head
        );
        let answer = raw(self.address, head.as_bytes()).expect("the server answers");
        self.keep(Answer::read(&answer).expect("an answer"))
    }

    /// Submits a form as the last page has it.
    pub(crate) fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let csrf = self.csrf.clone();
        let fields: Vec<_> = [("csrf", csrf.as_str())].iter().chain(fields).copied().collect();
        self.send(path, &fields, "")
    }

    /// Loads a page and submits a form of it.
    pub(crate) fn fill(&mut self, page: &str, action: &str, fields: &[(&str, &str)]) -> Answer {
        let loaded = self.get(page);
        assert_eq!(loaded.status, 200, "{page}: {}", loaded.body);
        self.submit(action, fields)
    }

    pub(crate) fn send(&mut self, path: &str, fields: &[(&str, &str)], head: &str) -> Answer {
        let body: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let head = format!(
            "{}{}Content-Type: application/x-www-form-urlencoded\r\n{head}",
            self.cookie_header(),
            self.head
        );
        let answer = post(self.address, path, &head, body.join("&").as_bytes()).expect("the server answers");
        self.keep(answer)
    }

    fn keep(&mut self, answer: Answer) -> Answer {
        for (_, cookie) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            let (name, value) =
                cookie.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        if let Some((_, rest)) = answer.body.split_once("name=\"csrf\" value=\"") {
            self.csrf = rest.split('"').next().unwrap_or_default().to_owned();
        }
        answer
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    encoded
}
