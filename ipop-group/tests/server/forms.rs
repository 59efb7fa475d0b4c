//! Sessions, forms, and what browsers are told to keep to.

use crate::client::Browser;
use crate::world::{Machine, PASSWORD, Server, make_group, token};

#[test]
fn a_form_counts_only_with_the_token_of_its_own_session() {
    let server = Server::start();
    let mut owner = server.person("alice");
    let mut other = server.person("bob");
    make_group(&mut owner, "lab", &[]);
    let fields = |csrf: &str| [("csrf".to_owned(), csrf.to_owned()), ("hours".to_owned(), "1".to_owned())];
    other.get("/");
    for csrf in ["", "x", other.csrf.clone().as_str()] {
        let fields = fields(csrf);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(owner.clone().send("/g/lab/tokens", &fields, "").status, 403, "{csrf}");
    }
    owner.get("/g/lab/tokens");
    let csrf = owner.csrf.clone();
    let fields = [("csrf", csrf.as_str()), ("hours", "1")];
    for origin in ["https://evil.example", "null", "http://127.0.0.1"] {
        let head = format!("Origin: {origin}\r\n");
        assert_eq!(owner.clone().send("/g/lab/tokens", &fields, &head).status, 403, "{origin}");
    }
    assert!(owner.get("/g/lab/tokens").body.contains("No tokens"), "nothing was made");
    let head = format!("Origin: http://{}\r\n", server.address);
    assert_eq!(owner.send("/g/lab/tokens", &fields, &head).status, 200);
    assert!(!owner.get("/g/lab/tokens").body.contains("No tokens"));
}

#[test]
fn a_session_that_was_planted_is_worth_nothing_after_signing_in() {
    let server = Server::start();
    server.add_account("alice");
    let planted = "A".repeat(43);
    let mut victim = Browser::new(server.address);
    for cookie in ["__Host-ipop-session", "__Host-ipop-visit"] {
        victim.cookies.insert(cookie.to_owned(), planted.clone());
    }
    let mut attacker = victim.clone();
    let fields = [("name", "alice"), ("password", PASSWORD), ("next", "/")];
    let answer = victim.fill("/login", "/login", &fields);
    assert_eq!(answer.status, 303);
    let session = victim.cookies["__Host-ipop-session"].clone();
    assert_ne!(session, planted);
    assert!(victim.get("/").body.contains("Sign out"));
    assert!(!attacker.get("/").body.contains("Sign out"));
    // A second time it is another one again, and signing out ends it on the server.
    let mut again = server.sign_in("alice");
    assert_ne!(again.cookies["__Host-ipop-session"], session);
    let mut copy = again.clone();
    assert_eq!(again.submit("/logout", &[]).status, 303);
    assert!(!copy.get("/").body.contains("Sign out"));
    assert!(victim.get("/").body.contains("Sign out"), "other sessions stay");
}

#[test]
fn a_new_password_ends_the_other_sessions() {
    let server = Server::start();
    let mut here = server.person("alice");
    let mut there = server.sign_in("alice");
    let fields = [("old", PASSWORD), ("new", "another long password")];
    let wrong =
        here.fill("/account", "/account", &[("old", "not the password"), ("new", "another long password")]);
    assert!(wrong.body.contains("The old password is wrong"));
    assert!(
        here.fill("/account", "/account", &[("old", PASSWORD), ("new", "short")]).body.contains("10 to 200")
    );
    assert_eq!(here.fill("/account", "/account", &fields).status, 303);
    assert!(here.get("/").body.contains("Sign out"));
    assert!(!there.get("/").body.contains("Sign out"));
}

#[test]
fn cookies_are_of_this_host_and_not_for_scripts() {
    let server = Server::start();
    server.add_account("alice");
    let mut browser = Browser::new(server.address);
    let visit = browser.get("/login");
    let signed_in = browser.submit("/login", &[("name", "alice"), ("password", PASSWORD)]);
    for answer in [visit, signed_in] {
        let cookie = answer.header("set-cookie");
        for part in ["__Host-ipop-", "; Path=/;", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
            assert!(cookie.contains(part), "{part} in {cookie}");
        }
        assert!(!cookie.contains("Domain"));
    }
}

#[test]
fn every_page_keeps_scripts_and_styles_of_others_out() {
    let server = Server::with(&["--open-registration"]);
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let text = token(&mut owner, "lab", &[("hours", "1")]);
    Machine::new(&server, "lab", 1).join("alpha", Some(&text));
    let within = ["", "/nodes", "/nodes/1", "/people", "/tokens", "/rules", "/settings", "/log"];
    let pages = within.iter().map(|page| format!("/g/lab{page}"));
    let pages =
        pages.chain(["/", "/account", "/groups", "/login", "/register", "/nowhere"].map(str::to_owned));
    for page in pages {
        let answer = owner.get(&page);
        assert_eq!(answer.status, if page == "/nowhere" { 404 } else { 200 }, "{page}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{page}: {policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cache-control", "no-store"),
            ("referrer-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{page}");
        }
        is_accessible(&page, &answer.body);
    }
    for asset in ["/assets/style.css", "/assets/page.js"] {
        assert_eq!(owner.get(asset).status, 200);
    }
}

/// What the policy would refuse is not there; what a screen reader needs is.
fn is_accessible(page: &str, html: &str) {
    assert_eq!(html.matches("<script").count(), 1, "{page}");
    for forbidden in ["<style", " style=", " onclick=", " onload=", "javascript:", "http-equiv"] {
        assert!(!html.contains(forbidden), "{page}: {forbidden}");
    }
    assert!(html.contains("<html lang=\"en\">") && html.contains("Skip to the content"), "{page}");
    assert_eq!(html.matches("<h1>").count(), 1, "{page}");
    assert_eq!(html.matches("<main").count(), 1, "{page}");
    for table in html.split("<table").skip(1) {
        let head = table.split("</thead>").next().unwrap_or_default();
        assert!(head.contains("<th scope=\"col\">") && !head.contains("<th>"), "{page}: {head}");
    }
    for field in html.split('<').filter(|tag| tag.starts_with("input ") || tag.starts_with("textarea ")) {
        let is_hidden = field.contains("type=\"hidden\"") || field.contains(" hidden>");
        let is_labelled = is_hidden || labelled(html, field);
        assert!(is_labelled, "{page}: {field}");
    }
}

/// Whether a field stands within a label.
fn labelled(html: &str, field: &str) -> bool {
    let before = html.split(field).next().unwrap_or_default();
    before.rfind("<label") > before.rfind("</label>")
}

#[test]
fn passwords_can_be_guessed_ten_times_and_then_slowly() {
    let server = Server::start();
    server.add_account("alice");
    let mut browser = Browser::new(server.address);
    browser.get("/login");
    let mut guess = |name: &str| {
        let answer = browser.submit("/login", &[("name", name), ("password", "not the password")]);
        (answer.status, answer.body.contains("The name or the password is wrong."))
    };
    for name in ["alice", "nobody"].iter().cycle().take(10) {
        assert_eq!(guess(name), (422, true));
    }
    assert_eq!(guess("alice"), (429, false));
}

#[test]
fn without_open_registration_nobody_makes_an_account() {
    let server = Server::start();
    let mut browser = Browser::new(server.address);
    assert_eq!(browser.get("/register").status, 404);
    browser.get("/login");
    let fields = [("name", "mallory"), ("display", ""), ("password", PASSWORD)];
    assert_eq!(browser.submit("/register", &fields).status, 403);
    let open = Server::with(&["--open-registration"]);
    let mut browser = Browser::new(open.address);
    assert_eq!(browser.fill("/register", "/register", &fields).status, 303);
    assert!(browser.get("/").body.contains("mallory"));
}
