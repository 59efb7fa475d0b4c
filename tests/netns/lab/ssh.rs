//! OpenSSH among hosts: a server on each, with keys, accounts and folders of its own, whom the others know by the
//! name that it has in the virtual network. No file of the machine's is read or written but the programs.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::namespace::{check, mount_over};
use super::wireguard::plain;
use super::{Host, SOON, wait_for};

/// By its path: it starts itself anew for each connection.
const SERVER: &str = "/usr/sbin/sshd";
/// A locked password in the machine's file would keep root out with a key too.
const ACCOUNTS: &str = "root:*:20000:0:99999:7:::\nsshd:*:20000:0:99999:7:::\n";

/// Why there can be no server of Debian's here.
pub(crate) fn reason_to_skip() -> Option<String> {
    let is_there = Path::new(SERVER).exists();
    (!is_there).then(|| format!("{SERVER} (openssh-server) is not installed: cargo xtask setup"))
}

/// Servers that run, and what their clients need; ended when dropped.
#[derive(Debug)]
pub(crate) struct Ssh {
    /// The clients' key, their configuration and the servers' keys.
    folder: PathBuf,
    servers: Vec<Child>,
}

impl Ssh {
    /// Starts a server on each of these hosts, and waits until the first host has been on all of them.
    #[track_caller]
    pub(crate) fn start(hosts: &[&Host]) -> Self {
        let folder = hosts[0].folder.join("ssh");
        fs::create_dir(&folder).expect("a folder for keys");
        generate_key(&folder.join("id"));
        let mut new = Self { folder, servers: Vec::new() };
        new.write_client(hosts);
        new.servers = hosts.iter().map(|host| new.server(host)).collect();
        for host in hosts {
            let (name, config) = (host.virtual_name(), new.config());
            wait_for(&format!("{name} lets one in"), SOON, || {
                let words = ["10", "ssh", "-F", plain(&config), &name, "true"];
                hosts[0].program("timeout", &words).output().is_ok_and(|o| o.status.success()).then_some(())
            });
        }
        new
    }

    /// What starts a client, for programs that do that themselves.
    pub(crate) fn command(&self) -> String {
        format!("ssh -F {}", self.config().display())
    }

    /// The clients' configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    fn write_client(&self, hosts: &[&Host]) {
        let mut known = String::new();
        for host in hosts {
            let key = generate_key(&host.folder.join("ssh_host_key"));
            let _ = writeln!(known, "{} {key}", host.virtual_name());
        }
        fs::write(self.folder.join("known_hosts"), known).expect("the servers' keys are written");
        let folder = self.folder.display();
        let config = format!(
            "User root\nIdentityFile {folder}/id\nIdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking yes\n\
             UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
        );
        fs::write(self.config(), config).expect("the clients' configuration is written");
    }

    fn server(&self, host: &Host) -> Child {
        let (own, keys) = (host.folder.display(), self.folder.display());
        for folder in ["run/sshd", "tmp"] {
            fs::create_dir_all(host.folder.join(folder)).expect("a folder of its own");
        }
        fs::write(host.folder.join("shadow"), ACCOUNTS).expect("accounts of its own");
        // Who is gone without a word, is let go after a minute and a half.
        let config = format!(
            "HostKey {own}/ssh_host_key\nAuthorizedKeysFile {keys}/id.pub\nStrictModes no\nPidFile none\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n\
             ClientAliveInterval 30\nSubsystem sftp internal-sftp\nSetEnv TMPDIR={own}/tmp\n"
        );
        let file = host.folder.join("sshd_config");
        fs::write(&file, config).expect("the server's configuration is written");
        let mut command = host.program(SERVER, &["-D", "-e", "-f", plain(&file)]);
        mount_over(&mut command, &host.folder.join("shadow"), Path::new("/etc/shadow"));
        // Last: the machine's own resolv.conf may lead there.
        mount_over(&mut command, &host.folder.join("run"), Path::new("/run"));
        command.stdout(Stdio::null()).stderr(File::create(host.folder.join("sshd.log")).expect("a log"));
        spawn(command)
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Starts a program that ends with the test.
pub(crate) fn spawn(mut command: Command) -> Child {
    // SAFETY: the closure runs between fork and exec and makes one system call.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Writes a key pair and gives the public one.
fn generate_key(path: &Path) -> String {
    check(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path));
    let public = path.with_extension("pub");
    fs::read_to_string(&public).expect("the public key").trim().to_owned()
}
