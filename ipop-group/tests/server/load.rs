//! What it costs: `cargo test -p ipop-group --release --test server -- --ignored --nocapture load`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipop_overlay::group::request::Purpose;

use crate::client::Browser;
use crate::world::{Machine, PASSWORD, Server, make_group, token};

const MEMBERS: usize = 1000;
const CLIENTS: usize = 8;
const PAGES: usize = 400;
/// What is asked for.
const PAGE_P95_MAX: Duration = Duration::from_millis(100);
const CERTIFICATES_PER_S_MIN: f64 = 200.0;
const RSS_KB_MAX: u64 = 60 * 1024;

/// As if each came from elsewhere: what one source may is limited.
fn from(number: usize) -> String {
    format!("X-Forwarded-For: 10.0.{}.{}\r\n", number / 250, number % 250)
}

#[test]
#[ignore = "measures; run it alone, in release"]
fn load_of_a_thousand_members() {
    let server = Server::with(&["--proxy", "127.0.0.1", "--log", "warn,ipop_group::serve=info"]);
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[("lease", "assigned")]);
    let mut machines = Vec::new();
    for number in 0..MEMBERS {
        owner.head = from(number);
        let text = token(&mut owner, "lab", &[("hours", "1")]);
        let mut machine = Machine::new(&server, "lab", number as u32);
        machine.head = from(number);
        machines.push((machine, format!("{{\"name\":\"node-{number}-x\",\"token\":\"{text}\"}}")));
    }
    let joins = rate(&machines, |(machine, body)| machine.ask(Purpose::Join, body).status);
    let fetches = rate(&machines, |(machine, _)| machine.ask(Purpose::Fetch, "").status);
    let reports =
        rate(&machines, |(machine, _)| machine.ask(Purpose::Report, "{\"direct_kernel\":3}").status);
    println!("certificates issued: {joins:.0}/s; fetched: {fetches:.0}/s; reports: {reports:.0}/s");
    let pages = [
        "/g/lab/nodes",
        "/g/lab/nodes?page=9",
        "/g/lab/nodes?q=77",
        "/g/lab/ring.svg",
        "/g/lab/tokens",
        "/g/lab/log",
    ];
    let slowest = pages.iter().map(|page| times(&owner, page)).max().unwrap_or_default();
    println!("memory before anybody signs in: {} kB", memory_kb(&server, "VmRSS:"));
    sign_ins(&server);
    let (now, peak) = (memory_kb(&server, "VmRSS:"), memory_kb(&server, "VmHWM:"));
    println!("memory: {now} kB, {peak} kB at most");
    assert!(joins >= CERTIFICATES_PER_S_MIN && fetches >= CERTIFICATES_PER_S_MIN);
    assert!(slowest <= PAGE_P95_MAX, "{slowest:?}");
    assert!(peak <= RSS_KB_MAX, "{peak} kB");
}

/// So many a second are answered, asked by a few clients at a time.
fn rate<T: Sync>(items: &[T], ask: impl Fn(&T) -> u16 + Sync) -> f64 {
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    assert_eq!(ask(item), 200);
                }
            });
        }
    });
    items.len() as f64 / start.elapsed().as_secs_f64()
}

/// Prints how long a page takes while four browsers load it; returns the 95th percentile.
fn times(owner: &Browser, page: &str) -> Duration {
    let times = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for browser in 0..4 {
            let (times, mut owner) = (&times, owner.clone());
            scope.spawn(move || {
                for number in 0..PAGES / 4 {
                    owner.head = from(browser * 250 + number);
                    let start = Instant::now();
                    let answer = owner.get(page);
                    times.lock().expect("the list").push(start.elapsed());
                    assert_eq!(answer.status, 200, "{}", answer.body);
                }
            });
        }
    });
    let mut times = times.into_inner().expect("the list");
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("{page}: half in {:?}, 95 % in {:?}, all in {:?}", at(50), at(95), at(100));
    at(95)
}

/// As many at a time as may wait.
fn sign_ins(server: &Server) {
    std::thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || {
                let mut browser = Browser::new(server.address);
                browser.head = from(number);
                let answer = browser.fill("/login", "/login", &[("name", "alice"), ("password", PASSWORD)]);
                assert_eq!(answer.status, 303, "{}", answer.body);
            });
        }
    });
}

fn memory_kb(server: &Server, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("the process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a line");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}
