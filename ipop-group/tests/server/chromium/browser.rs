//! Chromium without a window, driven by WebDriver.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::http::Method;
use fantoccini::elements::Element;
use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use crate::world::{PASSWORD, Server};

const DRIVER: &str = "chromedriver";
const DEADLINE: Duration = Duration::from_secs(60);
const HEIGHT: u32 = 1000;
/// No page has so many controls.
const TABS_MAX: usize = 60;

/// What the browser and who sits before it prefer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) is_dark: bool,
    pub(super) width: u32,
    pub(super) has_scripts: bool,
}

impl Look {
    pub(super) const LIGHT: Self = Self { is_dark: false, width: 1200, has_scripts: true };
    pub(super) const DARK: Self = Self { is_dark: true, ..Self::LIGHT };
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", if self.is_dark { "dark" } else { "light" }, self.width)
    }
}

/// The driver; ended, with its browser, when dropped.
struct Driver(Child, u16);

impl Driver {
    fn start() -> Option<Self> {
        let mut child =
            Command::new(DRIVER).arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let port = loop {
            let line = lines.next().expect("the driver says where it listens").expect("a line");
            if let Some((_, port)) = line.rsplit_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().expect("a port");
            }
        };
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Self(child, port))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A browser with one page.
pub(super) struct Browser {
    pub(super) client: Client,
}

/// Runs `body` with a browser; without one, the test is skipped and says so.
pub(super) fn run(look: Look, body: impl AsyncFnOnce(&Browser)) {
    let Some(driver) = Driver::start() else {
        println!("SKIPPED: {DRIVER} is not installed: cargo xtask setup");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let browser = Browser::open(&driver, look).await;
        tokio::time::timeout(4 * DEADLINE, body(&browser)).await.expect("it does not hang");
        browser.client.close().await.expect("the browser ends");
    });
}

impl Browser {
    async fn open(driver: &Driver, look: Look) -> Self {
        let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(!look.is_dark));
        let size = format!("--window-size={},{HEIGHT}", look.width);
        let scripts = if look.has_scripts { 1 } else { 2 };
        let capabilities = json!({
            "goog:chromeOptions": {
                "args": ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", scheme, size],
                "prefs": { "profile.managed_default_content_settings.javascript": scripts },
            },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("an object") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{}", driver.1))
            .await
            .expect("the browser starts");
        Self { client }
    }

    pub(super) async fn visit(&self, server: &Server, path: &str) {
        self.client.goto(&format!("http://{}{path}", server.address)).await.expect("the page is loaded");
    }

    pub(super) async fn sign_in(&self, server: &Server, name: &str) {
        self.visit(server, "/login").await;
        self.fill("input[name=name]", name).await;
        self.fill("input[name=password]", PASSWORD).await;
        self.press("main form button").await;
        self.wait_for_path("/").await;
    }

    async fn element(&self, css: &str) -> Element {
        let found = self.client.wait().at_most(DEADLINE).for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    pub(super) async fn fill(&self, css: &str, text: &str) {
        let field = self.element(css).await;
        field.clear().await.expect("it is cleared");
        field.send_keys(text).await.expect("it is filled in");
    }

    pub(super) async fn press(&self, css: &str) {
        self.element(css).await.click().await.expect("it is pressed");
    }

    pub(super) async fn text(&self, css: &str) -> String {
        self.element(css).await.text().await.expect("its text")
    }

    pub(super) async fn text_of_all(&self, css: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for found in self.client.find_all(Locator::Css(css)).await.expect("elements") {
            texts.push(found.html(true).await.expect("its content"));
        }
        texts
    }

    pub(super) async fn path(&self) -> String {
        self.client.current_url().await.expect("where it is").path().to_owned()
    }

    pub(super) async fn wait_for_path(&self, path: &str) {
        let url = self.client.current_url().await.expect("where it is").join(path).expect("a path");
        self.client.wait().at_most(DEADLINE).for_url(&url).await.expect("the page");
    }

    pub(super) async fn keys(&self, keys: &str) {
        self.client.active_element().await.expect("one").send_keys(keys).await.expect("keys");
    }

    /// The name of what has the focus, as a screen reader says it.
    pub(super) async fn focused(&self) -> String {
        let element = self.client.active_element().await.expect("one has the focus");
        let element = String::from(element.element_id());
        let name = self.ask(Method::GET, &format!("element/{element}/computedlabel"), None).await;
        name.as_str().expect("a name").to_owned()
    }

    /// A command of WebDriver's that the client has no function for.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let command = Ask { method, path: path.to_owned(), body };
        self.client.issue_cmd(command).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Goes on by the tabulator until this has the focus.
    pub(super) async fn tab_to(&self, name: &str) {
        let mut seen = Vec::new();
        for _ in 0..TABS_MAX {
            let focused = self.focused().await;
            if focused == name {
                return;
            }
            seen.push(focused);
            self.keys(&Key::Tab.to_string()).await;
        }
        panic!("{name} is not reached: {seen:?}");
    }

    /// What the browser has to say against the page since it was asked last.
    pub(super) async fn complaints(&self) -> Vec<String> {
        let log = self.ask(Method::POST, "se/log", Some(json!({ "type": "browser" }))).await;
        let entries = log.as_array().expect("a list");
        entries.iter().map(|entry| entry["message"].as_str().expect("a message").to_owned()).collect()
    }
}

#[derive(Debug)]
struct Ask {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl WebDriverCompatibleCommand for Ask {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (self.method.clone(), self.body.as_ref().map(Value::to_string))
    }
}
