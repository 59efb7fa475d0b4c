//! A server in a folder of its own, people with accounts, and machines with keys.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipop_group::api::{CONTENT_TYPE, Granted, Membership, Parameters, Refused};
use ipop_overlay::dht::SigningKey;
use ipop_overlay::group::document::Document;
use ipop_overlay::group::request::{Purpose, Request};
use ipop_overlay::group::{Authority, CertificateError, Member, RevocationList};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use x25519_dalek::StaticSecret;

use crate::client::{Answer, Browser, post};

pub(crate) const PASSWORD: &str = "correct horse battery";
const START_DEADLINE: Duration = Duration::from_secs(30);
/// A condition is looked at this often: the server limits how often one source may ask.
const POLL: Duration = Duration::from_millis(100);

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ipop-group"))
}

/// Runs the program with a line on its standard input.
pub(crate) fn run(arguments: &[&str], folder: &Path, input: &str) -> Output {
    let mut command = program();
    command.args(arguments).arg("--data").arg(folder);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("its input");
    // One that refuses at once does not read.
    drop(stdin.write_all(format!("{input}\n").as_bytes()));
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
    arguments: Vec<String>,
    log: Log,
}

/// What a server has said since it serves.
type Log = Arc<Mutex<Vec<String>>>;

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::within(TempDir::new().expect("a folder"), arguments, "127.0.0.1:0")
    }

    fn within(folder: TempDir, arguments: &[&str], listen: &str) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let (child, address, log) = spawn(folder.path(), &arguments, listen);
        Self { child, folder, address, arguments, log }
    }

    pub(crate) fn has_said(&self, text: &str) -> bool {
        self.log.lock().expect("the lines").iter().any(|line| line.contains(text))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends at once, as by a power cut, and starts again at the same address.
    pub(crate) fn crash(&mut self) {
        self.kill();
        self.restart();
    }

    /// Starts again at the same address.
    pub(crate) fn restart(&mut self) {
        let address = self.address.to_string();
        (self.child, self.address, self.log) = spawn(self.folder.path(), &self.arguments, &address);
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server has ended");
    }

    pub(crate) fn add_account(&self, name: &str) {
        let output = run(&["account", "add", name], self.folder.path(), PASSWORD);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A browser in which somebody has signed in, with an account that is made for it.
    pub(crate) fn person(&self, name: &str) -> Browser {
        self.add_account(name);
        self.sign_in(name)
    }

    pub(crate) fn sign_in(&self, name: &str) -> Browser {
        let mut browser = Browser::new(self.address);
        let answer =
            browser.fill("/login", "/login", &[("name", name), ("password", PASSWORD), ("next", "/")]);
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{}", answer.body);
        browser.get("/");
        browser
    }

    pub(crate) fn place(&self, group: &str) -> String {
        format!("{}/g/{group}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(folder: &Path, arguments: &[String], listen: &str) -> (Child, SocketAddr, Log) {
    let mut child = program()
        .args(["serve", "--listen", listen, "--data"])
        .arg(folder)
        .args(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut lines = BufReader::new(child.stderr.take().expect("its errors")).lines();
    let mut said = String::new();
    let address = loop {
        let line = lines.next().unwrap_or_else(|| panic!("the server has ended: {said}")).expect("a line");
        said.push_str(&line);
        if let Some((_, address)) = line.split_once(" at ").filter(|_| line.contains("serving ")) {
            break address.trim().parse().expect("an address");
        }
    };
    // What it says later is shown, and must not fill the pipe.
    let log = Log::default();
    let said = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            eprintln!("{line}");
            said.lock().expect("the lines").push(line);
        }
    });
    (child, address, log)
}

/// Waits for something to become so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < START_DEADLINE, "{what}: not in time");
        std::thread::park_timeout(POLL);
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    u64::try_from(since.as_millis()).expect("a time")
}

/// A machine with a key.
pub(crate) struct Machine {
    key: SigningKey,
    place: String,
    address: SocketAddr,
    group: String,
    last_ms: AtomicU64,
    /// More lines of each request's head.
    pub(crate) head: String,
}

impl Machine {
    pub(crate) fn new(server: &Server, group: &str, seed: u32) -> Self {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&seed.to_be_bytes());
        let key = SigningKey::new(&StaticSecret::from(bytes));
        let (place, address) = (server.place(group), server.address);
        Self { key, place, address, group: group.to_owned(), last_ms: AtomicU64::new(0), head: String::new() }
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    /// A request as a node makes it: each later than the one before.
    pub(crate) fn request(&self, purpose: Purpose, body: &str) -> Vec<u8> {
        let last = self.last_ms.load(Ordering::Relaxed);
        let time_ms = now_ms().max(last + 1);
        self.last_ms.store(time_ms, Ordering::Relaxed);
        self.request_at(time_ms, &self.place, purpose, body)
    }

    pub(crate) fn request_at(&self, time_ms: u64, place: &str, purpose: Purpose, body: &str) -> Vec<u8> {
        Request::sign(purpose, time_ms, place, body.as_bytes(), &self.key).expect("a request")
    }

    pub(crate) fn send(&self, request: &[u8]) -> std::io::Result<Answer> {
        let path = format!("/api/v1/groups/{}", self.group);
        post(self.address, &path, &format!("Content-Type: {CONTENT_TYPE}\r\n{}", self.head), request)
    }

    pub(crate) fn ask(&self, purpose: Purpose, body: &str) -> Answer {
        self.send(&self.request(purpose, body)).expect("the server answers")
    }

    pub(crate) fn join(&self, name: &str, token: Option<&str>) -> Answer {
        let token = token.map(|token| format!(",\"token\":\"{token}\"")).unwrap_or_default();
        self.ask(Purpose::Join, &format!("{{\"name\":\"{name}\"{token}}}"))
    }

    pub(crate) fn fetch(&self) -> Membership {
        json(&self.ask(Purpose::Fetch, ""))
    }

    /// What it is granted, checked as a node checks it.
    pub(crate) fn granted(&self) -> Checked {
        let membership = self.fetch();
        assert_eq!(membership.status, "approved");
        Checked::of(&membership.granted.expect("what is granted"), &self.public_key())
    }
}

/// What a member gets, after the signatures were checked.
pub(crate) struct Checked {
    pub(crate) der: Vec<u8>,
    pub(crate) authority: Authority,
    pub(crate) parameters: Parameters,
    pub(crate) list: RevocationList,
    pub(crate) member: Member,
}

impl Checked {
    fn of(granted: &Granted, key: &[u8; 32]) -> Self {
        let bytes = |text: &str| STANDARD.decode(text).expect("base64");
        let authority = Authority::parse(&bytes(&granted.authority)).expect("an authority");
        let list = RevocationList::open(&bytes(&granted.revocations), &authority).expect("a list");
        let document = Document::open(&bytes(&granted.document), &authority).expect("a document");
        let parameters = serde_json::from_slice(&document.content).expect("parameters");
        let der = bytes(&granted.certificate);
        let member =
            Member::verify(&der, &authority, key, now_ms() / 1000, Some(&list)).expect("a certificate");
        assert_eq!(bytes(&granted.secret).len(), 32);
        Self { der, authority, parameters, list, member }
    }

    /// Whether the certificate still counts by another list.
    pub(crate) fn by(&self, list: &RevocationList) -> Result<(), CertificateError> {
        let key = &self.member.grant.public_key;
        Member::verify(&self.der, &self.authority, key, now_ms() / 1000, Some(list)).map(|_| ())
    }
}

pub(crate) fn json<T: DeserializeOwned>(answer: &Answer) -> T {
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

pub(crate) fn refusal(answer: &Answer) -> (u16, String) {
    let refused: Refused =
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body));
    (answer.status, refused.error)
}

pub(crate) const GROUP: &[(&str, &str)] = &[
    ("prefix", "10.128.0.0/16"),
    ("lease", "dhcp"),
    ("lease_s", "3600"),
    ("hours", "24"),
    ("bootstrap", "udp://alpha.example.org:15000"),
    ("sealed_only", "yes"),
];

/// Makes a group.
pub(crate) fn make_group(owner: &mut Browser, name: &str, changes: &[(&str, &str)]) {
    let mut fields: Vec<_> = vec![("name", name)];
    fields.extend(changes);
    fields.extend(GROUP.iter().filter(|(field, _)| changes.iter().all(|(changed, _)| changed != field)));
    let answer = owner.fill("/groups", "/groups", &fields);
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, format!("/g/{name}/nodes").as_str()),
        "{}",
        answer.body
    );
}

/// The number of a node in the forms of a page.
pub(crate) fn id_of(owner: &mut Browser, group: &str, what: &str, name: &str) -> String {
    let page = owner.get(&format!("/g/{group}/{what}?state=approved")).body;
    let removed = owner.get(&format!("/g/{group}/{what}?state=removed")).body;
    let pages = format!("{page}{removed}");
    let row = pages
        .split("<tr>")
        .find(|row| row.contains(&format!(">{name}<")) && row.contains(&format!("/g/{group}/{what}/")));
    let row = row.unwrap_or_else(|| panic!("{name} is not on the page: {pages}"));
    let rest = row.split(&format!("/g/{group}/{what}/")).nth(1).expect("a number");
    rest.split(['/', '"']).next().expect("a number").to_owned()
}

/// Approves, denies or removes a node.
pub(crate) fn decide(owner: &mut Browser, group: &str, node: &str, state: &str) -> Answer {
    let id = id_of(owner, group, "nodes", node);
    owner.submit(&format!("/g/{group}/nodes/{id}/state"), &[("state", state)])
}

/// Makes a token, and returns it.
pub(crate) fn token(maker: &mut Browser, group: &str, fields: &[(&str, &str)]) -> String {
    let page = format!("/g/{group}/tokens");
    let answer = maker.fill(&page, &page, fields);
    let rest = answer.body.split("--token ").nth(1).unwrap_or_else(|| panic!("no token: {}", answer.body));
    rest.split('<').next().expect("a token").to_owned()
}
