//! The Debian packages that building and running need. Owns the list and the reason for each.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Scope;
use crate::privilege::Access;
use crate::{sh, ui};

/// A Debian package, why it is wanted, and what shows that it is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    proof: Proof,
    for_what: For,
}

/// The part of a `Scope` that a package belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Run,
    Test,
    Vm,
    Bench,
}

#[derive(Debug, Clone, Copy)]
enum Proof {
    /// A program in PATH: where the package comes from does not matter.
    Program(&'static str),
    /// A module that pkg-config knows.
    Library(&'static str),
    /// A directory or file that only this package brings.
    File(&'static str),
}

const fn package(name: &'static str, why: &'static str, proof: Proof) -> Package {
    Package { name, why, proof, for_what: For::Run }
}

const fn test_package(name: &'static str, why: &'static str, proof: Proof) -> Package {
    Package { name, why, proof, for_what: For::Test }
}

const fn vm_package(name: &'static str, why: &'static str, proof: Proof) -> Package {
    Package { name, why, proof, for_what: For::Vm }
}

const fn bench_package(name: &'static str, why: &'static str, proof: Proof) -> Package {
    Package { name, why, proof, for_what: For::Bench }
}

const PACKAGES: &[Package] = &[
    package("gcc", "links Rust programs", Proof::Program("cc")),
    package("libc6-dev", "C library to link against", Proof::File("/usr/include/stdlib.h")),
    package("make", "builds libbpf for the tests", Proof::Program("make")),
    package("pkg-config", "finds the libraries below", Proof::Program("pkg-config")),
    package("libelf-dev", "the tests load the programs with libbpf too", Proof::Library("libelf")),
    package("zlib1g-dev", "needed by libbpf", Proof::Library("zlib")),
    package("iproute2", "namespaces, wires, VXLAN", Proof::Program("ip")),
    package("iputils-ping", "ping in the demo and the tests", Proof::Program("ping")),
    package("iperf3", "TCP and UDP transfers in the demo and the tests", Proof::Program("iperf3")),
    package("ethtool", "switches a wire's offloads", Proof::Program("ethtool")),
    package("nftables", "firewalls and NAT in the tests", Proof::Program("nft")),
    package("tcpdump", "captures of the wire in the tests", Proof::Program("tcpdump")),
    package("bpftool", "says in the tests what is attached", Proof::Program("bpftool")),
    test_package("wireguard-go", "talks to ours in the tests", Proof::Program("wireguard-go")),
    test_package("bind9-dnsutils", "dig asks for names in the tests", Proof::Program("dig")),
    test_package("curl", "people on a group server's pages, in the tests", Proof::Program("curl")),
    test_package("chromium", "shows the pages of a group server, in the tests", Proof::Program("chromium")),
    test_package("chromium-driver", "fills in its forms", Proof::Program("chromedriver")),
    test_package(
        "fonts-dejavu-core",
        "letters on those pages",
        Proof::File("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),
    ),
    test_package("coturn", "a STUN server, in the tests", Proof::Program("turnserver")),
    test_package(
        "miniupnpd-nftables",
        "a router that gives ports, in the tests",
        Proof::Program("miniupnpd"),
    ),
    test_package("wireguard-tools", "configures WireGuards in the tests", Proof::Program("wg")),
    test_package("openssh-server", "sshd on the hosts of the tests", Proof::File("/usr/sbin/sshd")),
    test_package("openssh-client", "ssh and its keys in the tests", Proof::Program("ssh-keygen")),
    test_package("rsync", "copies files in the tests", Proof::Program("rsync")),
    test_package("sshfs", "mounts a folder of another host in the tests", Proof::Program("sshfs")),
    test_package("openmpi-bin", "starts a parallel program in the tests", Proof::Program("mpirun")),
    test_package("libopenmpi-dev", "compiles that program", Proof::Program("mpicc")),
    vm_package("qemu-system-x86", "boots other kernels", Proof::Program("qemu-system-x86_64")),
    vm_package("dnsmasq-base", "from which a machine boots in the tests", Proof::Program("dnsmasq")),
    vm_package("cpio", "packs the initramfs of those kernels", Proof::Program("cpio")),
    vm_package("zstd", "unpacks kernel modules", Proof::Program("zstd")),
    vm_package("xz-utils", "unpacks kernel modules", Proof::Program("xz")),
    bench_package("nebula", "measured beside ours", Proof::Program("nebula")),
    bench_package("coturn", "a relay, measured beside ours", Proof::Program("turnserver")),
];

/// The packages of `scope` that are not there.
pub(crate) fn missing(scope: Scope) -> Vec<Package> {
    PACKAGES.iter().filter(|p| p.for_what.is_part_of(scope)).filter(|p| !p.is_there()).copied().collect()
}

/// Services that packages bring, and start where systemd runs: a test starts its own, in a namespace.
const SERVICES: &[(&str, &str)] = &[("coturn", "coturn.service"), ("openssh-server", "ssh.service")];

/// Installs the packages of `scope` that are not there.
pub(crate) fn ensure(scope: Scope) -> Result<()> {
    let missing = missing(scope);
    if missing.is_empty() {
        return Ok(());
    }
    ui::note("setup: these Debian packages are missing:");
    for package in &missing {
        ui::note(&format!("  {:<16} {}", package.name, package.why));
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    install(&names)?;
    let unwanted = SERVICES.iter().filter(|(package, _)| names.contains(package));
    unwanted.for_each(|(_, service)| stop_for_good(service));
    if let Some(still) = missing.iter().find(|package| !package.is_there()) {
        bail!("{} was installed, but {} is still not to be found", still.name, still.proof.shown());
    }
    Ok(())
}

/// Ends a service that came with a package, and lets it not begin again. Without systemd there is none.
fn stop_for_good(service: &str) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    let command = Access::probe().command("systemctl").context("that needs root");
    let stopped = command.and_then(|mut command| {
        sh::capture(command.args(["disable", "--now", "--quiet", service])).map(drop)
    });
    if let Err(error) = stopped {
        ui::note(&format!("setup: {service} may run now, which nothing here needs: {error:#}"));
    }
}

/// `apt-get install`, as root or through sudo; where neither is possible the error is the
/// command that root must run.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    if sh::find("apt-get").is_none() {
        bail!("this is not Debian (no apt-get): please install what serves as {}", names.join(" "));
    }
    let access = Access::probe();
    let by_hand = || {
        format!(
            "installing packages needs root; run this, then the same command again:\n    \
             apt-get update && apt-get install -y --no-install-recommends {}",
            names.join(" ")
        )
    };
    if names.iter().any(|name| !has_candidate(name)) {
        update(access).with_context(by_hand)?;
    }
    let mut command = access.command("apt-get").with_context(by_hand)?;
    command.args(["install", "-y", "-qq", "--no-install-recommends"]).args(names);
    let task = ui::Task::start(&format!("apt-get install {}", names.join(" ")));
    let first = sh::capture(command.env("DEBIAN_FRONTEND", "noninteractive"));
    if let Err(error) = first {
        // Lists older than the archive name files that are no longer there.
        update(access)?;
        sh::capture(&mut command).context(error)?;
    }
    task.done();
    Ok(())
}

/// Whether apt's lists, as they are, can install `name`.
pub(crate) fn has_candidate(name: &str) -> bool {
    candidate(name).is_some()
}

/// The version of `name` that apt would install.
pub(crate) fn candidate(name: &str) -> Option<String> {
    let policy = sh::capture(Command::new("apt-cache").args(["policy", name])).ok()?;
    parse_candidate(&policy)
}

/// `apt-get update`.
pub(crate) fn update(access: Access) -> Result<()> {
    let mut command = access.command("apt-get").context("`apt-get update` needs root")?;
    let task = ui::Task::start("apt-get update");
    sh::capture(command.args(["update", "-qq"]))?;
    task.done();
    Ok(())
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)" && !version.is_empty()).then(|| version.to_owned())
}

impl For {
    fn is_part_of(self, scope: Scope) -> bool {
        match self {
            Self::Run => true,
            Self::Test => scope.test,
            Self::Vm => scope.vm,
            Self::Bench => scope.bench,
        }
    }
}

impl Package {
    fn is_there(&self) -> bool {
        match self.proof {
            Proof::Program(name) => sh::find(name).is_some(),
            Proof::Library(module) => sh::output(Command::new("pkg-config").args(["--exists", module]))
                .is_ok_and(|output| output.status.success()),
            Proof::File(path) => Path::new(path).exists(),
        }
    }
}

impl Proof {
    fn shown(self) -> &'static str {
        match self {
            Self::Program(what) | Self::Library(what) | Self::File(what) => what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_is_read_from_apt_cache_policy() {
        let policy = "iperf3:\n  Installed: (none)\n  Candidate: 3.12-1+deb12u2\n  Version table:\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("3.12-1+deb12u2"));
        assert_eq!(parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn packages_for_a_purpose_are_asked_for_only_with_it() {
        let asked = |scope| [For::Run, For::Test, For::Vm, For::Bench].map(|part| part.is_part_of(scope));
        assert_eq!(asked(Scope::RUN), [true, false, false, false]);
        assert_eq!(asked(Scope::TEST), [true, true, false, false]);
        assert_eq!(asked(Scope { vm: true, ..Scope::RUN }), [true, false, true, false]);
        assert_eq!(asked(Scope::BENCH), [true, true, false, true]);
        assert!(missing(Scope::RUN).iter().all(|package| package.for_what == For::Run));
    }
}
