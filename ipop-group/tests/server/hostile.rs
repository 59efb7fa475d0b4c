//! What no browser and no node would send.

use proptest::prelude::*;

use crate::client::{Answer, Browser, post, raw};
use crate::world::{Machine, Server, make_group, run};

/// Texts that mean something to SQL, HTML, URLs, templates, terminals or SQLite.
const HOSTILE: &[&str] = &[
    "'; DROP TABLE accounts; --",
    "\" OR 1=1 --",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(1)",
    "../../../../etc/passwd",
    "%00\0\u{202e}\u{feff}",
    "\u{1b}[31m\r\nSet-Cookie: a=b",
    "ipop:tag/x,user:y z",
    "-1",
    "99999999999999999999999999",
    "\u{1f4a9}\u{300}\u{300}",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => proptest::sample::select(HOSTILE).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[a-z<>'\"&;/-]{0,80}",
    ]
}

/// No text that was given is markup on a page that shows it.
fn is_harmless(answer: &Answer, what: &str) {
    assert!(answer.status < 500, "{what}: {} {}", answer.status, answer.body);
    for markup in ["<script>alert", "<img", "onerror=alert(1)>"] {
        assert!(!answer.body.contains(markup), "{what}: {}", answer.body);
    }
    assert!(answer.headers.iter().all(|(_, value)| value != "a=b"), "{what}");
}

/// Each form, and its fields.
const FORMS: &[(&str, &[&str])] = &[
    ("/groups", &["name", "prefix", "lease", "lease_s", "hours", "bootstrap", "sealed_only"]),
    ("/g/lab/tokens", &["hours", "tags"]),
    ("/g/lab/rules", &["from", "to", "protocol", "ports"]),
    ("/g/lab/settings", &["lease", "lease_s", "hours", "bootstrap"]),
    ("/g/lab/nodes/1", &["tags"]),
    ("/g/lab/nodes/1/state", &["state"]),
    ("/g/lab/people/1/role", &["role"]),
    ("/g/lab/people/1/state", &["state"]),
    ("/login", &["name", "next"]),
];
const PAGES: &[&str] = &["nodes", "people", "tokens", "rules", "settings", "log", "nodes/1"];

#[test]
fn no_text_in_any_field_is_taken_for_sql_or_html() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    Machine::new(&server, "lab", 1).join("alpha", None);
    let strategy = (0..FORMS.len(), proptest::collection::vec(text(), 7), 0..PAGES.len());
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 100, ..ProptestConfig::default() });
    let owner = std::cell::RefCell::new(owner);
    let mut round = 0;
    let round = std::cell::RefCell::new(&mut round);
    let outcome = runner.run(&strategy, |(form, texts, page)| {
        let mut owner = owner.borrow_mut();
        **round.borrow_mut() += 1;
        let (path, names) = FORMS[form];
        let fields: Vec<_> = names.iter().zip(&texts).map(|(name, text)| (*name, text.as_str())).collect();
        let csrf = owner.csrf.clone();
        is_harmless(&owner.submit(path, &fields), path);
        owner.csrf = csrf;
        let page = format!("/g/lab/{}?q={}", PAGES[page], texts[0].escape_unicode());
        let shown = owner.get(&page);
        is_harmless(&shown, &page);
        Ok(())
    });
    outcome.expect("every text is harmless");
    assert!(owner.borrow_mut().get("/").body.contains("lab"));
    let checked = run(&["check"], server.folder.path(), "");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn no_text_of_a_machine_is_taken_for_sql_or_html() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    for (seed, text) in HOSTILE.iter().enumerate() {
        let machine = Machine::new(&server, "lab", 100 + seed as u32);
        let name = serde_json::to_string(text).expect("JSON");
        for body in [
            format!("{{\"name\":{name},\"token\":\"ipgt_\"}}"),
            format!("{{\"name\":\"alpha\",\"token\":{name}}}"),
            (*text).to_owned(),
        ] {
            let answer = machine.ask(ipop_overlay::group::request::Purpose::Join, &body);
            assert!(answer.status == 422, "{body}: {} {}", answer.status, answer.body);
        }
    }
    assert!(!owner.get("/g/lab/nodes?state=pending").body.contains("Asking to join"));
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let long = "x".repeat(40_000);
    owner.get("/groups");
    assert_eq!(owner.submit("/groups", &[("name", &long)]).status, 413);
    let kind = "Content-Type: application/vnd.ipop.group-request\r\n";
    let answer = post(server.address, "/api/v1/groups/lab", kind, long.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 413);
    // It says that it has a terabyte, and gets its answer without sending it.
    let head = "POST /groups HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1099511627776\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\n";
    let answer = raw(server.address, head.as_bytes()).expect("an answer");
    assert_eq!(Answer::read(&answer).expect("an answer").status, 413);
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(40_000));
    let answer = raw(server.address, head.as_bytes()).expect("an answer");
    assert_eq!(Answer::read(&answer).expect("an answer").status, 431);
    let many: String = (0..100).map(|number| format!("X-{number}: y\r\n")).collect();
    let answer = raw(server.address, format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes())
        .expect("an answer");
    assert_eq!(Answer::read(&answer).expect("an answer").status, 431);
    assert_eq!(owner.get("/").status, 200);
}

#[test]
fn two_readings_of_one_request_are_refused() {
    let server = Server::start();
    let smuggled = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let send = |head: &str, body: &str| {
        let request = format!("POST /login HTTP/1.1\r\nHost: x\r\n{head}\r\n{body}");
        let answer = raw(server.address, request.as_bytes()).expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    };
    for head in [
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5 5\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 0\r\n Transfer-Encoding: chunked\r\n",
    ] {
        let answer = send(head, smuggled);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
    }
    // With both, the length counts for nothing (RFC 9112, section 6.3), and the chunks are the body.
    let answer =
        send("Content-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n", "0\r\n\r\n");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let answer = send("Transfer-Encoding: chunked\r\nConnection: close\r\n", &format!("zz\r\n{smuggled}"));
    assert!(!answer.contains("ok\n"), "{answer}");
}

#[test]
fn who_names_another_source_is_not_believed() {
    let server = Server::start();
    server.add_account("alice");
    let mut browser = Browser::new(server.address);
    browser.get("/login");
    let csrf = browser.csrf.clone();
    let mut guess = |number: u32| {
        let fields = [("csrf", csrf.as_str()), ("name", "alice"), ("password", "wrong password")];
        browser.send("/login", &fields, &format!("X-Forwarded-For: 192.0.2.{number}\r\n")).status
    };
    assert!((0..10).all(|number| guess(number) == 422));
    assert_eq!(guess(10), 429);
}
