//! The pages in a real browser: with and without a script, light and dark, wide and narrow, by the keyboard alone.
//!
//! `IPOP_SCREENSHOTS=DIR` keeps a picture of each page there.

mod browser;

use std::path::PathBuf;
use std::time::Duration;

use fantoccini::Locator;
use fantoccini::key::Key;
use ipop_overlay::group::request::Purpose;
use serde_json::Value;

use crate::client::Browser as Person;
use crate::world::{Machine, PASSWORD, Server, eventually, id_of, make_group, token};
use browser::{Browser, Look, run};

/// What is wrong with a page for who cannot see it, or not well: by WCAG 2.2, level AA.
const AUDIT: &str = include_str!("chromium/audit.js");
/// For the picture that follows: it is looked at every five seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A group with members, machines and people that ask, tokens and rules.
fn world() -> (Server, Person) {
    let server = Server::with(&["--open-registration"]);
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let mut asking = server.person("bob");
    assert_eq!(asking.fill("/g/lab", "/g/lab/ask", &[]).status, 303);
    for (seed, name) in (1..).zip(["alpha", "beta", "a-machine-with-a-rather-long-name-in-rack-12"]) {
        let granted = token(&mut owner, "lab", &[("hours", "1"), ("tags", "web db")]);
        let machine = Machine::new(&server, "lab", seed);
        assert_eq!(machine.join(name, Some(&granted)).status, 200);
        let report = r#"{"addresses":["10.128.0.7"],"direct_kernel":2,"relay":1,"version":"0.1.0"}"#;
        assert_eq!(machine.ask(Purpose::Report, report).status, 200);
    }
    Machine::new(&server, "lab", 9).join("gamma", None);
    token(&mut owner, "lab", &[("hours", "24")]);
    let rule = [("from", "tag:web"), ("to", "tag:db"), ("protocol", "tcp"), ("ports", "5432, 8000-8080")];
    assert_eq!(owner.fill("/g/lab/rules", "/g/lab/rules", &rule).status, 303);
    let access = [("label", "my laptop"), ("days", "30")];
    assert_eq!(owner.fill("/account", "/account/access", &access).status, 200);
    // Reports are written down every few seconds.
    eventually("the machines are up", || owner.get("/g/lab/nodes").body.matches("state up\">up").count() > 3);
    (server, owner)
}

#[test]
fn people_get_by_without_a_script() {
    run(Look { has_scripts: false, ..Look::LIGHT }, async |browser: &Browser| {
        let server = Server::with(&["--open-registration"]);
        browser.visit(&server, "/register").await;
        let form = browser.client.form(Locator::Css("form[action='/register']")).await.expect("the form");
        for (field, value) in [("name", "alice"), ("display", "Alice"), ("password", PASSWORD)] {
            form.set_by_name(field, value).await.expect("a field");
        }
        form.submit_direct().await.expect("it is sent");
        browser.visit(&server, "/groups").await;
        browser.fill("input[name=name]", "lab").await;
        browser.press("form[action='/groups'] button").await;
        browser.wait_for_path("/g/lab/nodes").await;
        // The page says what to run on a machine; who asks is approved.
        assert!(browser.text("main").await.contains("ipopctl group join"), "{}", browser.text("main").await);
        let machine = Machine::new(&server, "lab", 1);
        machine.join("alpha", None);
        browser.visit(&server, "/g/lab/nodes").await;
        browser.press("button[aria-label='Approve alpha']").await;
        eventually("alpha is approved", || machine.fetch().status == "approved");
        browser.visit(&server, "/g/lab/tokens").await;
        browser.press("main form button").await;
        let command = browser.text("#command").await;
        let token = command.split("--token ").nth(1).expect("a token").trim().to_owned();
        let unattended = Machine::new(&server, "lab", 2);
        assert_eq!(unattended.join("beta", Some(&token)).status, 200);
        browser.visit(&server, "/g/lab/nodes").await;
        browser.press("th a[href*='/nodes/']").await;
        browser.press("button[value='removed']").await;
        eventually("alpha is removed", || machine.fetch().status == "removed");
        browser.press("header form button").await;
        browser.wait_for_path("/").await;
        browser.visit(&server, "/g/lab/nodes").await;
        assert_eq!(browser.path().await, "/login");
    });
}

#[test]
fn each_page_is_readable_light_and_dark_wide_and_narrow() {
    let (server, mut owner) = world();
    let node = id_of(&mut owner, "lab", "nodes", "alpha");
    let pages = [
        "/".to_owned(),
        "/account".to_owned(),
        "/groups".to_owned(),
        "/g/lab".to_owned(),
        "/g/lab/nodes".to_owned(),
        format!("/g/lab/nodes/{node}"),
        "/g/lab/people".to_owned(),
        "/g/lab/tokens".to_owned(),
        "/g/lab/rules".to_owned(),
        "/g/lab/settings".to_owned(),
        "/g/lab/log".to_owned(),
        "/nowhere".to_owned(),
    ];
    for look in [Look::LIGHT, Look::DARK, Look { width: 360, ..Look::LIGHT }] {
        run(look, async |browser: &Browser| {
            for page in ["/login", "/register"] {
                audit(browser, &server, page, look).await;
            }
            browser.sign_in(&server, "alice").await;
            for page in &pages {
                audit(browser, &server, page, look).await;
            }
        });
    }
}

async fn audit(browser: &Browser, server: &Server, page: &str, look: Look) {
    browser.visit(server, page).await;
    if let Some(folder) = std::env::var_os("IPOP_SCREENSHOTS").map(PathBuf::from) {
        let picture = browser.client.screenshot().await.expect("a picture");
        let name = if page == "/" { "home".to_owned() } else { page[1..].replace('/', "-") };
        std::fs::write(folder.join(format!("{name}-{look}.png")), picture).expect("it is kept");
    }
    let wrong = browser.client.execute(AUDIT, Vec::new()).await.expect("what is wrong");
    assert_eq!(wrong, Value::Array(Vec::new()), "{page}, {look}");
    let complaints = browser.complaints().await;
    // That a page is not there is said by the browser too.
    let others = complaints.iter().filter(|line| !line.contains("404 (Not Found)"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new(), "{page}, {look}");
}

#[test]
fn the_keyboard_alone_is_enough() {
    let (server, _owner) = world();
    run(Look::LIGHT, async |browser: &Browser| {
        browser.visit(&server, "/login").await;
        // Where there is one thing to do, it has the focus.
        assert_eq!(browser.focused().await, "User name");
        browser.keys("alice").await;
        browser.tab_to("Password").await;
        browser.keys(&format!("{PASSWORD}{}", char::from(Key::Enter))).await;
        browser.wait_for_path("/").await;
        browser.keys(&Key::Tab.to_string()).await;
        assert_eq!(browser.focused().await, "Skip to the content");
        browser.tab_to("lab").await;
        browser.keys(&Key::Enter.to_string()).await;
        browser.wait_for_path("/g/lab/nodes").await;
        browser.tab_to("Approve gamma").await;
        browser.keys(&Key::Enter.to_string()).await;
        let machine = Machine::new(&server, "lab", 9);
        eventually("gamma is approved", || machine.fetch().status == "approved");
    });
}

#[test]
fn the_picture_of_the_ring_follows_without_a_reload() {
    let (server, _owner) = world();
    run(Look::LIGHT, async |browser: &Browser| {
        browser.sign_in(&server, "alice").await;
        browser.visit(&server, "/g/lab/nodes").await;
        let before = browser.text_of_all("[data-refresh] svg title").await;
        assert!(before.iter().any(|title| title.contains("alpha")), "{before:?}");
        let granted = token(&mut server.sign_in("alice"), "lab", &[("hours", "1")]);
        assert_eq!(Machine::new(&server, "lab", 20).join("delta", Some(&granted)).status, 200);
        let appears = browser.client.wait().at_most(PATIENCE);
        let delta = Locator::XPath("//*[@data-refresh]//*[name()='title'][contains(., 'delta')]");
        appears.for_element(delta).await.expect("delta is in the picture");
    });
}
