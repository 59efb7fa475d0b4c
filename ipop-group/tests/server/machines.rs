//! What nodes ask: joining, certificates, the list of revoked ones, reports.

use std::time::{Duration, Instant};

use ipop_group::api::Reported;
use ipop_overlay::group::CertificateError;
use ipop_overlay::group::request::Purpose;

use crate::world::{Machine, Server, decide, id_of, json, make_group, now_ms, refusal, token};

#[test]
fn a_machine_that_is_approved_gets_a_certificate_that_counts() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let machine = Machine::new(&server, "lab", 1);
    let joined: ipop_group::api::Membership = json(&machine.join("alpha", None));
    assert_eq!((joined.status.as_str(), joined.granted.is_none()), ("pending", true));
    assert!(owner.get("/g/lab/nodes").body.contains(&joined.address));
    assert_eq!(machine.fetch().status, "pending");
    assert_eq!(decide(&mut owner, "lab", "alpha", "approved").status, 303);
    let granted = machine.granted();
    assert_eq!(granted.member.grant.node.as_str(), "alpha");
    assert_eq!(granted.member.grant.nets[0].to_string(), "10.128.0.0/16");
    assert_eq!(granted.parameters.bootstrap, ["udp://alpha.example.org:15000"]);
    assert_eq!(granted.parameters.place, server.place("lab"));
    assert_eq!(granted.member.address().to_string(), joined.address);
    assert_eq!(machine.granted().der, granted.der, "one certificate until it is to be renewed");
}

#[test]
fn a_machine_that_is_denied_or_removed_has_no_certificate_any_more() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let (bad, good) = (Machine::new(&server, "lab", 1), Machine::new(&server, "lab", 2));
    bad.join("bad", None);
    good.join("good", None);
    assert_eq!(decide(&mut owner, "lab", "bad", "denied").status, 303);
    assert_eq!(bad.fetch().status, "denied");
    assert_eq!(decide(&mut owner, "lab", "good", "approved").status, 303);
    let before = good.granted();
    assert_eq!(before.list.revoked, []);
    let other = token(&mut owner, "lab", &[("hours", "1"), ("tags", "")]);
    let witness = Machine::new(&server, "lab", 3);
    witness.join("witness", Some(&other));
    assert_eq!(decide(&mut owner, "lab", "good", "removed").status, 303);
    assert_eq!(good.fetch().status, "removed");
    let after = witness.granted();
    assert!(after.list.number > before.list.number);
    assert_eq!(before.by(&after.list), Err(CertificateError::Revoked));
    assert_eq!(after.by(&after.list), Ok(()));
    // A token does not undo what a manager has decided; a manager does.
    let another = token(&mut owner, "lab", &[("hours", "1")]);
    let joined: ipop_group::api::Membership = json(&good.join("good", Some(&another)));
    assert_eq!(joined.status, "removed");
    assert_eq!(decide(&mut owner, "lab", "good", "approved").status, 303);
    assert_eq!(good.granted().by(&after.list), Ok(()));
}

#[test]
fn a_token_lets_one_machine_in_once() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    make_group(&mut owner, "other", &[]);
    let text = token(&mut owner, "lab", &[("hours", "1"), ("tags", "web db")]);
    let (first, second) = (Machine::new(&server, "lab", 1), Machine::new(&server, "lab", 2));
    let elsewhere = Machine::new(&server, "other", 1);
    assert_eq!(refusal(&elsewhere.join("alpha", Some(&text))), (422, "invalid".to_owned()));
    assert_eq!(first.join("alpha", Some(&text)).status, 200);
    let granted = first.granted();
    assert_eq!(granted.member.grant.user.as_ref().map(ToString::to_string).as_deref(), Some("alice"));
    assert_eq!(granted.member.grant.tags.iter().map(ToString::to_string).collect::<Vec<_>>(), ["db", "web"]);
    // The answer may have been lost: the same machine may ask again, another may not.
    assert_eq!(first.join("alpha", Some(&text)).status, 200);
    assert_eq!(refusal(&second.join("beta", Some(&text))), (422, "invalid".to_owned()));
    assert_eq!(refusal(&second.join("beta", Some("ipgt_nonsense"))), (422, "invalid".to_owned()));
    assert_eq!(refusal(&second.join("beta", Some("nonsense"))), (422, "invalid".to_owned()));
    assert!(
        !owner.get("/g/lab/nodes?state=pending").body.contains("beta"),
        "a bad token leaves nothing behind"
    );
    let back = token(&mut owner, "lab", &[("hours", "1")]);
    let page = owner.get("/g/lab/tokens").body;
    let id =
        page.split("/tokens/").nth(1).and_then(|rest| rest.split('/').next()).expect("a number").to_owned();
    assert_eq!(owner.submit(&format!("/g/lab/tokens/{id}/take-back"), &[]).status, 303);
    assert_eq!(refusal(&second.join("beta", Some(&back))), (422, "invalid".to_owned()));
}

#[test]
fn a_tag_that_is_taken_away_counts_no_more() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[("lease", "assigned")]);
    let text = token(&mut owner, "lab", &[("hours", "1"), ("tags", "web")]);
    let machine = Machine::new(&server, "lab", 1);
    machine.join("alpha", Some(&text));
    let web = machine.granted();
    assert_eq!(web.member.grant.nets[0].to_string(), "10.128.0.1/32");
    let id = id_of(&mut owner, "lab", "nodes", "alpha");
    let mut tag =
        |tags: &str| assert_eq!(owner.submit(&format!("/g/lab/nodes/{id}"), &[("tags", tags)]).status, 303);
    tag("web db");
    let more = machine.granted();
    assert_eq!(more.member.grant.tags.len(), 2);
    assert_eq!(web.by(&more.list), Ok(()), "it grants nothing that was taken away");
    tag("db");
    let reported: Reported = json(&machine.ask(Purpose::Report, "{}"));
    assert!(reported.is_stale);
    let less = machine.granted();
    assert_eq!(less.member.grant.tags.iter().map(ToString::to_string).collect::<Vec<_>>(), ["db"]);
    assert_eq!(
        (web.by(&less.list), more.by(&less.list)),
        (Err(CertificateError::Revoked), Err(CertificateError::Revoked))
    );
    assert_eq!(reported.list_number, less.list.number);
}

#[test]
fn each_machine_has_an_address_of_its_own_until_none_is_left() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[("lease", "assigned"), ("prefix", "10.9.0.0/30")]);
    let join = |owner: &mut _, seed: u32| {
        let machine = Machine::new(&server, "lab", seed);
        let text = token(owner, "lab", &[("hours", "1")]);
        let answer = machine.join(&format!("node-{seed}-x"), Some(&text));
        (machine, answer)
    };
    let addresses: Vec<String> =
        (4..6).map(|seed| join(&mut owner, seed).0.granted().member.grant.nets[0].to_string()).collect();
    assert_eq!(addresses, ["10.9.0.1/32", "10.9.0.2/32"]);
    let (late, answer) = join(&mut owner, 6);
    assert_eq!(refusal(&answer), (409, "full".to_owned()));
    assert_eq!(decide(&mut owner, "lab", "node-4-x", "removed").status, 303);
    let text = token(&mut owner, "lab", &[("hours", "1")]);
    late.join("node-6-x", Some(&text));
    assert_eq!(late.granted().member.grant.nets[0].to_string(), "10.9.0.1/32");
}

#[test]
fn a_request_is_taken_once_in_time_and_at_its_place() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let machine = Machine::new(&server, "lab", 1);
    machine.join("alpha", None);
    let fetch = machine.request(Purpose::Fetch, "");
    assert_eq!(machine.send(&fetch).expect("an answer").status, 200);
    assert_eq!(refusal(&machine.send(&fetch).expect("an answer")), (409, "conflict".to_owned()));
    let send = |time_ms, place: &str| {
        refusal(&machine.send(&machine.request_at(time_ms, place, Purpose::Fetch, "")).expect("an answer"))
    };
    let invalid = (422, "invalid".to_owned());
    assert_eq!(send(now_ms() - 301_000, &server.place("lab")), invalid);
    assert_eq!(send(now_ms() + 301_000, &server.place("lab")), invalid);
    assert_eq!(send(now_ms(), "other.example/g/lab"), invalid);
    let mut forged = machine.request(Purpose::Fetch, "");
    *forged.last_mut().expect("a signature") ^= 1;
    assert_eq!(refusal(&machine.send(&forged).expect("an answer")), invalid);
    let stranger = Machine::new(&server, "lab", 2);
    assert_eq!(refusal(&stranger.ask(Purpose::Fetch, "")), (404, "not_found".to_owned()));
    let nowhere = Machine::new(&server, "nowhere", 2);
    assert_eq!(refusal(&nowhere.join("beta", None)), (404, "not_found".to_owned()));
}

#[test]
fn what_a_machine_reports_is_on_the_page() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let machine = Machine::new(&server, "lab", 1);
    let text = token(&mut owner, "lab", &[("hours", "1")]);
    machine.join("alpha", Some(&text));
    assert!(owner.get("/g/lab/nodes").body.contains("state silent"));
    let body = r#"{"addresses":["10.128.0.7"],"direct_kernel":3,"relay":1}"#;
    let reported: Reported = json(&machine.ask(Purpose::Report, body));
    assert_eq!((reported.status.as_str(), reported.document_number), ("approved", 1));
    crate::world::eventually("the report is shown", || {
        let page = owner.get("/g/lab/nodes").body;
        page.contains("10.128.0.7") && page.contains("3 kernel, 1 relay") && page.contains(">up<")
    });
    assert!(owner.get("/g/lab/ring.svg").body.contains("alpha, up"));
    let wrong = machine.ask(Purpose::Report, r#"{"addresses":["<b>"]}"#);
    assert_eq!(refusal(&wrong), (422, "invalid".to_owned()));
}

#[test]
fn a_report_waits_for_news_and_hears_of_a_removal_at_once() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let machine = Machine::new(&server, "lab", 1);
    machine.join("alpha", None);
    let known = |status: &str, list: u64| {
        format!("{{\"known\":{{\"status\":\"{status}\",\"document_number\":1,\"list_number\":{list}}}}}")
    };
    let ask = |body: &str| -> Reported { json(&machine.ask(Purpose::Report, body)) };
    // What the node does not know is said at once.
    assert_eq!(ask(&known("", 1)).status, "pending");
    let waited = |state: &str, owner: &mut _, body: String| {
        std::thread::scope(|scope| {
            let report = scope.spawn(move || (ask(&body), Instant::now()));
            let decided = Instant::now();
            assert_eq!(decide(owner, "lab", "alpha", state).status, 303);
            let (reported, at) = report.join().expect("an answer");
            // A wait that nothing ends takes 20 s.
            assert!(at.saturating_duration_since(decided) < Duration::from_secs(10));
            (reported.status, reported.report_s)
        })
    };
    assert_eq!(waited("approved", &mut owner, known("pending", 1)), ("approved".to_owned(), 0));
    let list = machine.granted().list.number;
    assert_eq!(waited("removed", &mut owner, known("approved", list)), ("removed".to_owned(), 0));
}

#[test]
fn a_machine_that_leaves_is_none_any_more() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let machine = Machine::new(&server, "lab", 1);
    let granted = token(&mut owner, "lab", &[("hours", "1")]);
    assert_eq!(machine.join("alpha", Some(&granted)).status, 200);
    let before = machine.granted();
    let request = machine.request(Purpose::Leave, "");
    let left: ipop_group::api::Membership = json(&machine.send(&request).expect("the server answers"));
    assert!(left.status == "removed" && left.granted.is_none());
    // What was granted is on the list, as another member sees it.
    let other = Machine::new(&server, "lab", 2);
    let granted = token(&mut owner, "lab", &[("hours", "1")]);
    assert_eq!(other.join("beta", Some(&granted)).status, 200);
    assert_eq!(before.by(&other.granted().list), Err(CertificateError::Revoked));
    // Somebody else cannot say it, nor the same again; the machine itself can, and is told the same.
    assert_eq!(refusal(&machine.send(&request).expect("an answer")), (409, "conflict".to_owned()));
    assert_eq!(refusal(&Machine::new(&server, "lab", 3).ask(Purpose::Leave, "")).0, 404);
    assert_eq!(json::<ipop_group::api::Membership>(&machine.ask(Purpose::Leave, "")).status, "removed");
    let spare = token(&mut owner, "lab", &[("hours", "1")]);
    assert_eq!(json::<ipop_group::api::Membership>(&machine.join("alpha", Some(&spare))).status, "removed");
    assert!(owner.get("/g/lab/log").body.contains("left"));
    // One that waits takes back what it has asked for.
    let waiting = Machine::new(&server, "lab", 4);
    waiting.join("gamma", None);
    assert_eq!(json::<ipop_group::api::Membership>(&waiting.ask(Purpose::Leave, "")).status, "removed");
}
