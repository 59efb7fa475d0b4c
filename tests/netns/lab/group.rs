//! A group's server on a host of its own, by HTTPS with a certificate of the test's, and its people, by curl.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::host::Host;
use super::{SOON, program, wait_for};

const PASSWORD: &str = "correct horse battery";
const PORT: u16 = 8443;
/// Of everybody's group.
pub(crate) const GROUP: &str = "lab";

/// The server; killed when dropped.
#[derive(Debug)]
pub(crate) struct GroupServer {
    child: Child,
    folder: PathBuf,
    origin: String,
}

impl GroupServer {
    /// Starts one on a host without a daemon, with these accounts, the first of which makes the group.
    pub(crate) fn start(host: &Host, accounts: &[&str], bootstrap: &str) -> Self {
        let server = Self::without_group(host, accounts);
        let fields = [
            ("name", GROUP),
            ("prefix", "10.128.0.0/16"),
            ("lease", "dhcp"),
            ("lease_s", "3600"),
            ("hours", "24"),
            ("bootstrap", bootstrap),
            ("sealed_only", "yes"),
        ];
        server.submit(host, accounts[0], "/groups", "/groups", &fields);
        for account in accounts.iter().skip(1) {
            server.submit(host, account, &format!("/g/{GROUP}"), &format!("/g/{GROUP}/ask"), &[]);
            server.decide(host, accounts[0], "people", account, "approved");
        }
        server
    }

    /// The same before anybody has made a group.
    pub(crate) fn without_group(host: &Host, accounts: &[&str]) -> Self {
        let folder = host.folder.join("server");
        fs::create_dir(&folder).expect("a folder");
        let made = rcgen::generate_simple_self_signed([host.outer_v4.to_string()]).expect("a certificate");
        fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).expect("a file");
        fs::write(folder.join("tls.pem"), made.cert.pem()).expect("a file");
        for account in accounts {
            add_account(&folder, account);
        }
        let origin = format!("https://{}:{PORT}", host.outer_v4);
        let server = Self { child: spawn(host, &folder, &origin), folder, origin };
        wait_for("the group's server answers", SOON, || server.get(host, accounts[0], "/login"));
        for account in accounts {
            let fields = [("name", *account), ("password", PASSWORD), ("next", "/")];
            server.submit(host, account, "/login", "/login", &fields);
        }
        server
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server has ended");
    }

    /// Makes a host one that is to be a member.
    pub(crate) fn enrol(&self, host: &mut Host, token: Option<&str>) {
        let network = &mut host.config.network;
        network.insert("group", format!("\"{}\"", self.url()));
        network.insert("group_ca", format!("\"{}\"", self.folder.join("tls.pem").display()));
        if let Some(token) = token {
            network.insert("group_token", format!("\"{token}\""));
        }
        host.config.is_of_group = true;
        host.config.trusted.clear();
        host.config.bootstrap = None;
    }

    /// A join token of somebody's.
    pub(crate) fn token(&self, host: &Host, account: &str) -> String {
        let page = format!("/g/{GROUP}/tokens");
        let answer = self.submit(host, account, &page, &page, &[("hours", "1")]);
        let rest = answer.split("--token ").nth(1).unwrap_or_else(|| panic!("no token: {answer}"));
        rest.split('<').next().expect("a token").to_owned()
    }

    /// A file with an access token of somebody's.
    pub(crate) fn access(&self, host: &Host, account: &str) -> PathBuf {
        let fields = [("label", "test"), ("days", "1")];
        let answer = self.submit(host, account, "/account", "/account/access", &fields);
        let rest = answer.split("ipga_").nth(1).unwrap_or_else(|| panic!("no access token: {answer}"));
        let file = self.folder.join(format!("{account}.access"));
        let mut opened =
            OpenOptions::new().create_new(true).write(true).mode(0o600).open(&file).expect("a file");
        writeln!(opened, "ipga_{}", rest.split('<').next().expect("a token")).expect("it is written");
        file
    }

    /// What `ipopctl group ORDER` does for whoever has the access token.
    pub(crate) fn manage(&self, host: &Host, access: &Path, order: &[&str]) -> Output {
        let (group, ca) = (self.url(), self.folder.join("tls.pem"));
        let at = ["--access", path_text(access), "--ca", path_text(&ca)];
        let group = if order[0] == "create" { vec![] } else { vec!["--group", &group] };
        let ipopctl = program::path("ipopctl");
        host.ns.output(path_text(&ipopctl), &[&["--json", "group"], order, &group, &at].concat())
    }

    /// The same where it is to succeed, and what is said.
    #[track_caller]
    pub(crate) fn managed(&self, host: &Host, access: &Path, order: &[&str]) -> Value {
        let output = self.manage(host, access, order);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{order:?}: {errors}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Where everybody's group is.
    pub(crate) fn url(&self) -> String {
        format!("{}/g/{GROUP}", self.origin)
    }

    /// Approves, denies or removes: `what` are nodes or people.
    pub(crate) fn decide(&self, host: &Host, account: &str, what: &str, name: &str, state: &str) {
        let path = format!("/g/{GROUP}/{what}/");
        let id = wait_for(&format!("{name} is on the page"), SOON, || {
            let pages = ["pending", "approved"].map(|state| {
                self.get(host, account, &format!("/g/{GROUP}/{what}?state={state}")).unwrap_or_default()
            });
            let pages = pages.concat();
            let row =
                pages.split("<tr>").find(|row| row.contains(&format!(">{name}<")) && row.contains(&path))?;
            Some(row.split(&path).nth(1)?.split(['/', '"']).next()?.to_owned())
        });
        let page = format!("/g/{GROUP}/{what}");
        self.submit(host, account, &page, &format!("{path}{id}/state"), &[("state", state)]);
    }

    /// Adds a rule: ports as `80,8000-8080`, or none.
    pub(crate) fn add_rule(&self, host: &Host, account: &str, [from, to, protocol, ports]: [&str; 4]) {
        let page = format!("/g/{GROUP}/rules");
        let fields = [("from", from), ("to", to), ("protocol", protocol), ("ports", ports)];
        self.submit(host, account, &page, &page, &fields);
    }

    /// Takes the first rule away.
    pub(crate) fn remove_rule(&self, host: &Host, account: &str) {
        let page = format!("/g/{GROUP}/rules");
        let listed = self.get(host, account, &page).expect("the page of rules");
        let id = listed.split(&format!("{page}/")).nth(1).and_then(|rest| rest.split('/').next());
        let id = id.unwrap_or_else(|| panic!("no rule: {listed}"));
        self.submit(host, account, &page, &format!("{page}/{id}/remove"), &[]);
    }

    /// A page; `None` if it is not there.
    fn get(&self, host: &Host, account: &str, page: &str) -> Option<String> {
        self.curl(host, account, page, &[])
    }

    /// Loads a page and submits a form of it.
    #[track_caller]
    fn submit(
        &self,
        host: &Host,
        account: &str,
        page: &str,
        action: &str,
        fields: &[(&str, &str)],
    ) -> String {
        let loaded = self.get(host, account, page).unwrap_or_else(|| panic!("no page {page}"));
        let csrf = loaded.split("name=\"csrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
        let csrf = ("csrf", csrf.unwrap_or_else(|| panic!("{page} has no form: {loaded}")));
        let fields: Vec<String> =
            [csrf].iter().chain(fields).map(|(name, value)| format!("{name}={value}")).collect();
        let mut arguments = vec!["-H".to_owned(), format!("Origin: {}", self.origin)];
        for field in &fields {
            arguments.extend(["--data-urlencode".to_owned(), field.clone()]);
        }
        let answer = self.curl(host, account, action, &arguments);
        answer.unwrap_or_else(|| panic!("{action} is refused: {fields:?}"))
    }

    fn curl(&self, host: &Host, account: &str, path: &str, more: &[String]) -> Option<String> {
        let url = format!("{}{path}", self.origin);
        let jar = self.folder.join(format!("{account}.cookies")).display().to_string();
        let roots = self.folder.join("tls.pem").display().to_string();
        let mut arguments = vec!["-sS", "--fail", "--cacert", &roots, "-b", &jar, "-c", &jar, &url];
        arguments.extend(more.iter().map(String::as_str));
        let output = host.ns.output("curl", &arguments);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for GroupServer {
    fn drop(&mut self) {
        // It may have been killed already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}

fn add_account(folder: &Path, name: &str) {
    let mut command = Command::new(program::path("ipop-group"));
    command.args(["account", "add", name, "--data"]).arg(folder).stdin(Stdio::piped());
    let mut child = command.spawn().expect("ipop-group starts");
    writeln!(child.stdin.take().expect("its input"), "{PASSWORD}").expect("it reads the password");
    assert!(child.wait().expect("it ends").success(), "the account {name} is made");
}

fn spawn(host: &Host, folder: &Path, origin: &str) -> Child {
    let listen = origin.trim_start_matches("https://");
    let log = OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = Command::new(program::path("ipop-group"));
    host.ns.enter(&mut command);
    command.args(["serve", "--listen", listen, "--public-url", origin, "--data"]).arg(folder);
    command.arg("--tls-certificate").arg(folder.join("tls.pem")).arg("--tls-key").arg(folder.join("tls.key"));
    command.stdin(Stdio::null()).stderr(log);
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    command.spawn().expect("the group's server starts")
}
