//! What people's programs do with an access token.

use std::net::SocketAddr;

use ipop_group::api::{Decided, MadeGroup, MadeToken, Members};
use rusqlite::Connection;

use crate::client::{Answer, Browser, post, raw};
use crate::world::{Machine, Server, json, make_group, refusal};

/// Makes an access token on the account's page, and returns it.
fn access(person: &mut Browser) -> String {
    let answer = person.fill("/account", "/account/access", &[("label", "laptop"), ("days", "30")]);
    let rest = answer.body.split("ipga_").nth(1).unwrap_or_else(|| panic!("no token: {}", answer.body));
    format!("ipga_{}", rest.split('<').next().expect("a token"))
}

fn ask(address: SocketAddr, token: &str, path: &str, body: &str) -> Answer {
    let head = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    post(address, path, &head, body.as_bytes()).expect("the server answers")
}

fn members(address: SocketAddr, token: &str, group: &str) -> Answer {
    let head = format!(
        "GET /api/v1/groups/{group}/members HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    Answer::read(&raw(address, head.as_bytes()).expect("the server answers")).expect("an answer")
}

fn decide(address: SocketAddr, token: &str, who: &str, status: &str) -> Answer {
    let body = format!("{{\"who\":\"{who}\",\"status\":\"{status}\"}}");
    ask(address, token, "/api/v1/groups/lab/members", &body)
}

const LAB: &str = r#"{"name":"lab","prefix":"10.128.0.0/16","lease":{"policy":"dhcp","seconds":3600},
    "certificate_hours":24,"bootstrap":[],"security":{"sealed_only":true}}"#;

#[test]
fn a_group_is_made_and_managed_without_a_browser() {
    let server = Server::start();
    let (address, token) = (server.address, access(&mut server.person("alice")));
    let made: MadeGroup = json(&ask(address, &token, "/api/v1/groups", LAB));
    assert_eq!(made.url, format!("http://{}", server.place("lab")));
    assert_eq!(refusal(&ask(address, &token, "/api/v1/groups", LAB)), (409, "conflict".to_owned()));
    // One by a join token, two that ask by one name.
    let by_token: MadeToken =
        json(&ask(address, &token, "/api/v1/groups/lab/tokens", r#"{"tags":["web"],"hours":1}"#));
    assert_eq!(by_token.command, format!("ipopctl group join {} --token {}", made.url, by_token.token));
    let [alpha, beta, impostor] = [1, 2, 3].map(|seed| Machine::new(&server, "lab", seed));
    assert_eq!(alpha.join("alpha", Some(&by_token.token)).status, 200);
    assert_eq!(alpha.granted().member.grant.tags.len(), 1);
    beta.join("beta", None);
    impostor.join("beta", None);
    let told: Members = json(&members(address, &token, "lab"));
    let status =
        |name| told.nodes.iter().filter(move |node| node.name == name).map(|node| node.status.as_str());
    assert_eq!(status("alpha").collect::<Vec<_>>(), ["approved"]);
    assert_eq!(status("beta").collect::<Vec<_>>(), ["pending", "pending"]);
    assert_eq!((told.people[0].name.as_str(), told.people[0].role.as_str()), ("alice", "owner"));
    assert!(!told.is_cut);
    // A name does not say which of the two is meant.
    let answer = decide(address, &token, "beta", "approved");
    assert_eq!(refusal(&answer), (409, "conflict".to_owned()));
    assert!(answer.body.contains("2 machines ask as beta"), "{}", answer.body);
    let own = ipop_overlay::NodeAddress::of_key(&beta.public_key()).to_string();
    let decided: Decided = json(&decide(address, &token, &own, "approved"));
    assert_eq!((decided.name.as_str(), decided.address.as_deref()), ("beta", Some(own.as_str())));
    assert_eq!((beta.fetch().status.as_str(), impostor.fetch().status.as_str()), ("approved", "pending"));
    json::<Decided>(&decide(address, &token, "beta", "denied"));
    assert_eq!(impostor.fetch().status, "denied");
    // Removed by its name, which is a member's alone.
    json::<Decided>(&decide(address, &token, "beta", "removed"));
    assert_eq!(beta.fetch().status, "removed");
    for (who, status) in [("nobody", "approved"), ("user:nobody", "removed")] {
        assert_eq!(refusal(&decide(address, &token, who, status)), (404, "not_found".to_owned()), "{who}");
    }
    assert_eq!(refusal(&decide(address, &token, "alpha", "gone")).0, 422);
}

#[test]
fn an_access_token_may_what_its_account_may_and_ends() {
    let server = Server::start();
    let (mut owner, mut user) = (server.person("alice"), server.person("bob"));
    let (owners, users) = (access(&mut owner), access(&mut user));
    let address = server.address;
    make_group(&mut owner, "lab", &[]);
    let machine = Machine::new(&server, "lab", 1);
    machine.join("alpha", None);
    let forbidden = (403, "forbidden".to_owned());
    assert_eq!(refusal(&members(address, &users, "lab")), forbidden);
    assert_eq!(refusal(&decide(address, &users, "alpha", "approved")), forbidden);
    assert_eq!(refusal(&decide(address, &users, "user:alice", "removed")), forbidden);
    // A member sees members, and nobody who asks.
    assert_eq!(user.fill("/g/lab", "/g/lab/ask", &[]).status, 303);
    json::<Decided>(&decide(address, &owners, "user:bob", "approved"));
    let told: Members = json(&members(address, &users, "lab"));
    assert!(told.nodes.is_empty() && told.people.len() == 2, "{told:?}");
    assert_eq!(refusal(&decide(address, &users, "alpha", "approved")), forbidden);
    let tagged = r#"{"tags":["web"],"hours":1}"#;
    assert_eq!(refusal(&ask(address, &users, "/api/v1/groups/lab/tokens", tagged)), forbidden);
    json::<MadeToken>(&ask(address, &users, "/api/v1/groups/lab/tokens", r#"{"tags":[],"hours":1}"#));
    // What is none.
    let no_access = (401, "no_access".to_owned());
    let long = format!("ipga_{}", "a".repeat(4000));
    for text in ["", "ipga_", "ipga_x", &users[5..], &users.to_uppercase(), long.as_str()] {
        assert_eq!(refusal(&members(address, text, "lab")), no_access, "{text}");
    }
    // Taken back; ended by a new password; expired.
    let page = user.get("/account").body;
    let path = page.split("action=\"").filter_map(|rest| rest.split('"').next());
    let path = path.filter(|path| path.ends_with("/take-back")).last().expect("a form").to_owned();
    assert_eq!(user.submit(&path, &[]).status, 303);
    assert_eq!(refusal(&members(address, &users, "lab")), no_access);
    owner.get("/account");
    assert_eq!(owner.submit(&path, &[]).status, 404, "another's");
    let password = [("old", crate::world::PASSWORD), ("new", "another horse battery")];
    assert_eq!(owner.fill("/account", "/account", &password).status, 303);
    assert_eq!(refusal(&members(address, &owners, "lab")), no_access);
    let fresh = access(&mut owner);
    json::<Members>(&members(address, &fresh, "lab"));
    let database = Connection::open(server.folder.path().join("group.sqlite")).expect("the database");
    database.execute("UPDATE access SET expires = 1", []).expect("the times");
    assert_eq!(refusal(&members(address, &fresh, "lab")), no_access);
}

#[test]
fn an_account_has_few_access_tokens() {
    let server = Server::start();
    let mut person = server.person("alice");
    for _ in 0..16 {
        access(&mut person);
    }
    let fields = [("label", "laptop"), ("days", "30")];
    assert_eq!(person.fill("/account", "/account/access", &fields).status, 409);
    for fields in
        [[("label", ""), ("days", "30")], [("label", "<b>"), ("days", "30")], [("label", "x"), ("days", "0")]]
    {
        assert_eq!(person.fill("/account", "/account/access", &fields).status, 422, "{fields:?}");
    }
}

#[test]
fn a_database_of_the_first_version_is_brought_up_to_date() {
    let mut server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    server.kill();
    let database = Connection::open(server.folder.path().join("group.sqlite")).expect("the database");
    database.execute_batch("DROP TABLE access; PRAGMA user_version = 1;").expect("the first version");
    drop(database);
    server.restart();
    let token = access(&mut server.sign_in("alice"));
    assert_eq!(json::<Members>(&members(server.address, &token, "lab")).people.len(), 1);
}
