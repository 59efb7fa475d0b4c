//! Virtual networks of others on a wire of ours: wireguard-go, boringtun and nebula, two ends of
//! one, each with keys of its own. Owns how they are configured: as their documents tell people
//! to, everything that need not be said left at its default.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::icmp::Echo;
use super::plan::{Product, TUNNEL_FAR_ADDRESS, TUNNEL_NEAR_ADDRESS};
use crate::daemon::{TempFolder, write_private};
use crate::netns::{NetNs, Pair};
use crate::process::{self, Running};
use crate::setup::{self, boringtun};
use crate::sh;

const WIREGUARD_PORT: u16 = 51820;
const NEBULA_PORT: u16 = 4242;
/// After this long an echo counts as unanswered while the two ends get to know each other.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// How long a daemon may take to answer `wg`.
const CONFIGURE_TIMEOUT: Duration = Duration::from_secs(5);

/// Two ends that reach each other. Dropping them stops both and removes their files.
#[derive(Debug)]
pub(crate) struct Peers {
    _ends: [Running; 2],
    _folder: TempFolder,
}

impl Peers {
    /// Starts `product` at both ends of `pair`; returns once a packet has gone through it and back.
    pub(crate) fn start(product: Product, pair: &Pair) -> Result<Self> {
        let folder = TempFolder::create(pair.near.name())?;
        let ends = ends(product, pair);
        let mut running = match product {
            Product::WireguardGo => start_wireguard(product, &["--foreground"], &ends, &folder.0)?,
            // It would become whoever called sudo, and could then not remove its socket.
            Product::Boringtun => {
                let options = ["--foreground", "--disable-drop-privileges"];
                start_wireguard(product, &options, &ends, &folder.0)?
            }
            Product::Nebula => start_nebula(product, &ends, &folder.0)?,
        };
        process::wait_until(&mut running, "an answer through the tunnel", || {
            let target = TUNNEL_FAR_ADDRESS.parse().context("the far end has no address")?;
            let mut echo = pair.near.run(|| Echo::open(target, ANSWER_TIMEOUT))?;
            if !echo.exchange()? {
                bail!("{target} does not answer");
            }
            Ok(())
        })?;
        Ok(Self { _ends: running, _folder: folder })
    }
}

/// What `product` says that it is; an error that tells how to install it where it is not there.
pub(crate) fn version(product: Product) -> Result<String> {
    let argument = match product {
        Product::WireguardGo | Product::Boringtun => "--version",
        Product::Nebula => "-version",
    };
    // All that a row needs is looked for: a daemon alone is of no use.
    let [daemon, _] = programs(product)?;
    parse_version(&sh::capture(Command::new(daemon).arg(argument))?)
}

/// The last word of the first line: `wireguard-go v0.0.1`, `boringtun 0.7.1`, `Version: 1.6.1`.
fn parse_version(text: &str) -> Result<String> {
    let word = text.lines().next().and_then(|line| line.split_whitespace().last());
    Ok(word.context("it does not tell its version")?.trim_start_matches('v').to_owned())
}

/// The daemon, and the program that configures it or makes its certificates.
fn programs(product: Product) -> Result<[PathBuf; 2]> {
    let found = |name| sh::find(name).with_context(|| not_installed(name));
    Ok(match product {
        Product::WireguardGo => [found("wireguard-go")?, found("wg")?],
        Product::Boringtun => {
            let daemon = boringtun::program()?.with_context(|| not_installed(boringtun::PROGRAM))?;
            [daemon, found("wg")?]
        }
        Product::Nebula => [found("nebula")?, found("nebula-cert")?],
    })
}

fn not_installed(program: &str) -> String {
    format!("{program} is not installed; `{}` installs it", setup::Scope::BENCH.command())
}

/// One of two ends.
#[derive(Debug)]
struct End<'a> {
    name: &'static str,
    namespace: &'a NetNs,
    device: String,
    /// On the wire.
    outer: &'static str,
    /// In the tunnel.
    inner: &'static str,
}

fn ends(product: Product, pair: &Pair) -> [End<'_>; 2] {
    let end = |name, namespace, outer, inner| {
        let device = device(product, std::process::id(), name);
        End { name, namespace, device, outer, inner }
    };
    [
        end("near", &pair.near, Pair::NEAR_ADDRESS, TUNNEL_NEAR_ADDRESS),
        end("far", &pair.far, Pair::FAR_ADDRESS, TUNNEL_FAR_ADDRESS),
    ]
}

/// A device's name of at most 15 characters that no other device on this machine has, in whatever
/// namespace: WireGuard's control sockets are called after devices, and all are in one folder.
fn device(product: Product, pid: u32, end: &str) -> String {
    let product = match product {
        Product::WireguardGo => "wgo",
        Product::Boringtun => "btn",
        Product::Nebula => "neb",
    };
    format!("{product}{pid}{end}")
}

fn start_wireguard(
    product: Product,
    options: &[&str],
    ends: &[End<'_>; 2],
    folder: &Path,
) -> Result<[Running; 2]> {
    let [daemon, wg] = programs(product)?;
    let start = |end: &End<'_>| {
        let mut command = Command::new(&daemon);
        command.args(options).arg(&end.device);
        run_at(end, command, folder)
    };
    let [near, far] = ends;
    let keys = [generate_key(&wg, near, folder)?, generate_key(&wg, far, folder)?];
    let mut running = [start(near)?, start(far)?];
    for (end, other, other_key) in [(near, far, &keys[1]), (far, near, &keys[0])] {
        process::wait_until(&mut running, &format!("{} to be configured", end.device), || {
            let mut command = Command::new(&wg);
            command.args(["set", &end.device, "listen-port", &WIREGUARD_PORT.to_string()]);
            command.arg("private-key").arg(key_file(end, folder));
            command.args(["peer", other_key, "allowed-ips", &format!("{}/32", other.inner)]);
            command.args(["endpoint", &format!("{}:{WIREGUARD_PORT}", other.outer)]);
            sh::capture_within(&mut command, CONFIGURE_TIMEOUT)
        })?;
        end.namespace.ip(&format!("address add {}/24 dev {}", end.inner, end.device))?;
        end.namespace.ip(&format!("link set {} mtu {} up", end.device, product.mtu()))?;
    }
    Ok(running)
}

fn key_file(end: &End<'_>, folder: &Path) -> PathBuf {
    folder.join(format!("{}.key", end.name))
}

/// Writes a new private key for `end`; returns its public one.
fn generate_key(wg: &Path, end: &End<'_>, folder: &Path) -> Result<String> {
    let file = key_file(end, folder);
    write_private(&file, &sh::capture(Command::new(wg).arg("genkey"))?)?;
    let key = File::open(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let public = sh::capture_from(Command::new(wg).arg("pubkey"), key)?;
    Ok(public.trim().to_owned())
}

fn start_nebula(product: Product, ends: &[End<'_>; 2], folder: &Path) -> Result<[Running; 2]> {
    let [daemon, nebula_cert] = programs(product)?;
    let certify = |arguments: &str| {
        let mut command = Command::new(&nebula_cert);
        sh::capture(command.current_dir(folder).args(arguments.split_whitespace()))
    };
    certify("ca -name bench")?;
    let start = |end: &End<'_>, other: &End<'_>| {
        certify(&format!("sign -name {} -ip {}/24", end.name, end.inner))?;
        let file = folder.join(format!("{}.yml", end.name));
        write_private(&file, &nebula_config(product, end, other, folder))?;
        let mut command = Command::new(&daemon);
        command.arg("-config").arg(&file);
        run_at(end, command, folder)
    };
    let [near, far] = ends;
    Ok([start(near, far)?, start(far, near)?])
}

/// YAML, of which JSON is a part. No lighthouse: each end knows where the other is.
fn nebula_config(product: Product, end: &End<'_>, other: &End<'_>, folder: &Path) -> String {
    let any = json!([{ "port": "any", "proto": "any", "host": "any" }]);
    json!({
        "pki": {
            "ca": folder.join("ca.crt"),
            "cert": folder.join(format!("{}.crt", end.name)),
            "key": folder.join(format!("{}.key", end.name)),
        },
        "static_host_map": { other.inner: [format!("{}:{NEBULA_PORT}", other.outer)] },
        "lighthouse": { "am_lighthouse": false, "hosts": [] },
        "listen": { "host": "0.0.0.0", "port": NEBULA_PORT },
        "tun": { "dev": end.device, "mtu": product.mtu() },
        "firewall": { "outbound": any, "inbound": any },
    })
    .to_string()
}

fn run_at(end: &End<'_>, mut command: Command, folder: &Path) -> Result<Running> {
    end.namespace.enter(&mut command)?;
    Running::start(command, &folder.join(format!("{}.log", end.name)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn devices_have_short_names_that_differ() {
        const PID_MAX: u32 = 1 << 22;
        let names: BTreeSet<String> = [Product::WireguardGo, Product::Boringtun, Product::Nebula]
            .into_iter()
            .flat_map(|product| ["near", "far"].map(|end| device(product, PID_MAX, end)))
            .collect();
        assert_eq!(names.len(), 6);
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
    }

    #[test]
    fn versions_are_read_from_what_programs_print() {
        let read = |text| parse_version(text).expect("a version");
        assert_eq!(read("wireguard-go v0.0.20220316\n\nUserspace WireGuard daemon\n"), "0.0.20220316");
        assert_eq!(read("boringtun 0.7.1"), "0.7.1");
        assert_eq!(read("Version: 1.6.1\n"), "1.6.1");
        assert!(parse_version("").is_err());
    }

    #[test]
    fn what_is_missing_is_told_with_the_command_that_installs_it() {
        assert_eq!(
            not_installed("nebula"),
            "nebula is not installed; `cargo xtask setup --bench` installs it"
        );
    }
}
