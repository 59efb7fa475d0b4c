//! Who may do what.

use crate::client::Browser;
use crate::world::{Machine, Server, decide, id_of, make_group, token};

/// Asks to join and is approved.
fn admit(owner: &mut Browser, user: &mut Browser, group: &str, name: &str) -> String {
    assert_eq!(user.fill(&format!("/g/{group}"), &format!("/g/{group}/ask"), &[]).status, 303);
    let id = id_of(owner, group, "people", &format!("{name}</th><td>{name}"));
    let path = format!("/g/{group}/people/{id}/state");
    assert_eq!(owner.submit(&path, &[("state", "approved")]).status, 303);
    id
}

#[test]
fn each_role_may_what_is_its_own_and_no_more() {
    let server = Server::start();
    let (mut owner, mut user, mut stranger) =
        (server.person("alice"), server.person("bob"), server.person("carol"));
    make_group(&mut owner, "lab", &[]);
    assert_eq!(user.get("/g/lab/nodes").status, 403);
    let id = admit(&mut owner, &mut user, "lab", "bob");
    let asking = Machine::new(&server, "lab", 1);
    asking.join("alpha", None);
    // A member sees, and makes tokens without tags.
    assert_eq!(user.get("/g/lab/nodes").status, 200);
    for page in ["/g/lab/log", "/g/lab/settings"] {
        assert_eq!(user.get(page).status, 403, "{page}");
    }
    let node = id_of(&mut owner, "lab", "nodes", "alpha");
    let approve = format!("/g/lab/nodes/{node}/state");
    user.get("/");
    assert_eq!(user.submit(&approve, &[("state", "approved")]).status, 403);
    assert_eq!(user.submit("/g/lab/tokens", &[("hours", "1"), ("tags", "web")]).status, 403);
    assert_eq!(user.submit("/g/lab/tokens", &[("hours", "1")]).status, 200);
    let role = format!("/g/lab/people/{id}/role");
    assert_eq!(user.submit(&role, &[("role", "owner")]).status, 403);
    // A manager decides who is in, and neither rules nor roles.
    owner.get("/");
    assert_eq!(owner.submit(&role, &[("role", "manager")]).status, 303);
    assert_eq!(user.submit(&approve, &[("state", "approved")]).status, 303);
    let rule = [("from", "*"), ("to", "*"), ("protocol", "any"), ("ports", "")];
    assert_eq!(user.submit("/g/lab/rules", &rule).status, 403);
    assert_eq!(user.submit(&role, &[("role", "owner")]).status, 403);
    assert_eq!(owner.submit("/g/lab/rules", &rule).status, 303);
    assert_eq!(asking.granted().parameters.rules.len(), 1);
    // Others see nothing.
    for page in ["nodes", "people", "tokens", "rules", "settings", "log", "ring.svg", "nodes/1"] {
        assert_eq!(stranger.get(&format!("/g/lab/{page}")).status, 403, "{page}");
        assert_eq!(Browser::new(server.address).get(&format!("/g/lab/{page}")).status, 303, "{page}");
    }
    stranger.get("/");
    assert_eq!(stranger.submit(&approve, &[("state", "removed")]).status, 403);
}

#[test]
fn what_a_manager_has_granted_ends_with_the_role() {
    let server = Server::start();
    let (mut owner, mut user) = (server.person("alice"), server.person("bob"));
    make_group(&mut owner, "lab", &[]);
    let bob = admit(&mut owner, &mut user, "lab", "bob");
    let role = format!("/g/lab/people/{bob}/role");
    assert_eq!(owner.submit(&role, &[("role", "manager")]).status, 303);
    let tagged = token(&mut user, "lab", &[("hours", "1"), ("tags", "web")]);
    let plain = token(&mut user, "lab", &[("hours", "1")]);
    assert_eq!(owner.submit(&role, &[("role", "member")]).status, 303);
    let machine = Machine::new(&server, "lab", 1);
    assert_eq!(machine.join("alpha", Some(&tagged)).status, 422);
    assert_eq!(machine.join("alpha", Some(&plain)).status, 200);
    assert_eq!(machine.granted().member.grant.user.map(|user| user.to_string()).as_deref(), Some("bob"));
    // A machine that comes back after its user has gone is nobody's.
    let state = format!("/g/lab/people/{bob}/state");
    assert_eq!(owner.submit(&state, &[("state", "removed")]).status, 303);
    assert_eq!(decide(&mut owner, "lab", "alpha", "approved").status, 303);
    assert_eq!(machine.granted().member.grant.user, None);
}

#[test]
fn a_machine_that_waits_can_be_tagged_and_gets_no_certificate_by_that() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[("lease", "assigned")]);
    let machine = Machine::new(&server, "lab", 1);
    machine.join("alpha", None);
    let id = id_of(&mut owner, "lab", "nodes", "alpha");
    assert_eq!(owner.submit(&format!("/g/lab/nodes/{id}"), &[("tags", "web")]).status, 303);
    assert!(machine.fetch().granted.is_none());
    assert_eq!(decide(&mut owner, "lab", "alpha", "approved").status, 303);
    assert_eq!(machine.granted().member.grant.tags.len(), 1);
}

#[test]
fn a_group_keeps_an_owner() {
    let server = Server::start();
    let (mut owner, mut user) = (server.person("alice"), server.person("bob"));
    make_group(&mut owner, "lab", &[]);
    let bob = admit(&mut owner, &mut user, "lab", "bob");
    let alice = id_of(&mut owner, "lab", "people", "alice</th><td>alice");
    let role = |who: &str| format!("/g/lab/people/{who}/role");
    assert_eq!(owner.submit(&role(&alice), &[("role", "member")]).status, 409);
    assert_eq!(owner.submit(&format!("/g/lab/people/{alice}/state"), &[("state", "removed")]).status, 409);
    assert_eq!(owner.submit(&role(&bob), &[("role", "owner")]).status, 303);
    assert_eq!(owner.submit(&role(&alice), &[("role", "member")]).status, 303);
    assert_eq!(owner.get("/g/lab/settings").status, 403);
    assert_eq!(user.get("/g/lab/settings").status, 200);
    assert!(user.get("/g/lab/log").body.contains("made member"));
}

#[test]
fn with_a_person_go_its_machines_and_open_tokens() {
    let server = Server::start();
    let (mut owner, mut user) = (server.person("alice"), server.person("bob"));
    make_group(&mut owner, "lab", &[]);
    let bob = admit(&mut owner, &mut user, "lab", "bob");
    let (text, open) =
        (token(&mut user, "lab", &[("hours", "1")]), token(&mut user, "lab", &[("hours", "1")]));
    let machine = Machine::new(&server, "lab", 1);
    machine.join("alpha", Some(&text));
    assert_eq!(machine.fetch().status, "approved");
    assert_eq!(owner.submit(&format!("/g/lab/people/{bob}/state"), &[("state", "removed")]).status, 303);
    assert_eq!(machine.fetch().status, "removed");
    assert_eq!(Machine::new(&server, "lab", 2).join("beta", Some(&open)).status, 422);
    assert_eq!(user.get("/g/lab/nodes").status, 403);
    user.get("/");
    assert_eq!(user.submit("/g/lab/ask", &[]).status, 403, "who was removed does not ask again");
}

#[test]
fn names_that_look_like_anothers_are_refused() {
    let server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "modern", &[]);
    let machine = Machine::new(&server, "modern", 1);
    machine.join("alpha-1", None);
    assert_eq!(decide(&mut owner, "modern", "alpha-1", "approved").status, 303);
    for (seed, name) in ["alpha-1", "a1pha-1", "alpha-l"].iter().enumerate() {
        let other = Machine::new(&server, "modern", 10 + seed as u32);
        assert_eq!(other.join(name, None).status, 409, "{name}");
    }
    let group = [
        ("name", "rnodern"),
        ("prefix", "10.1.0.0/16"),
        ("lease", "dhcp"),
        ("lease_s", "60"),
        ("hours", "1"),
    ];
    assert_eq!(owner.fill("/groups", "/groups", &group).status, 409);
    for (name, display) in
        [("a1ice", ""), ("mallory", "Аlice"), ("mallory", "alice"), ("mallory", "\u{430}lice")]
    {
        let output = crate::world::run(
            &["account", "add", name, "--display", display],
            server.folder.path(),
            crate::world::PASSWORD,
        );
        assert_eq!(output.status.code(), Some(1), "{name} {display}");
    }
}
