//! A virtual machine on one host's bridge boots by the network from a server on another host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{bridge, crowd};
use crate::lab::host::Host;
use crate::lab::{run_unless, wait_for};

/// An emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(90);
/// What the machine's firmware runs: it fetches a file of some length, and says by another that it has it.
const SCRIPT: &str =
    "#!ipxe\nimgfetch tftp://${next-server}/large || exit\nimgfetch tftp://${next-server}/done\n";
const LARGE: usize = 300_000;

fn reason_to_skip() -> Option<String> {
    let is_missing = |program: &&str| Command::new(program).arg("--version").output().is_err();
    let missing = ["qemu-system-x86_64", "dnsmasq"].into_iter().find(is_missing);
    missing.map(|program| format!("{program} is not installed: cargo xtask setup --vm"))
}

/// A program in a host's namespace, which ends with the test.
struct Program(Child);

impl Program {
    #[track_caller]
    fn start(host: &Host, program: &str, arguments: &[&str], log: &Path) -> Self {
        let log = File::create(log).expect("a log");
        let errors = log.try_clone().expect("another handle");
        let mut command = host.ns.command(program, arguments);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        Self(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// DHCP and TFTP for whoever asks by the virtual device; where it logs.
fn serve(host: &Host) -> (Program, PathBuf) {
    let folder = host.folder.join("tftp");
    fs::create_dir(&folder).expect("a folder of its own");
    let large = vec![0x5a; LARGE];
    let files: [(&str, &[u8]); 3] = [("boot.ipxe", SCRIPT.as_bytes()), ("large", &large), ("done", b"done")];
    for (name, content) in files {
        fs::write(folder.join(name), content).expect("a file to be fetched");
    }
    let log = host.folder.join("dnsmasq.log");
    let (root, leases) = (folder.display(), host.folder.join("leases"));
    let arguments = [
        "--keep-in-foreground".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--user=root".to_owned(),
        "--pid-file=".to_owned(),
        "--port=0".to_owned(),
        "--interface=ipop0".to_owned(),
        "--bind-interfaces".to_owned(),
        "--dhcp-range=10.128.0.200,10.128.0.210,255.255.255.0,1h".to_owned(),
        "--dhcp-boot=boot.ipxe".to_owned(),
        "--enable-tftp".to_owned(),
        format!("--tftp-root={root}"),
        format!("--dhcp-leasefile={}", leases.display()),
        "--log-dhcp".to_owned(),
        "--log-facility=-".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    (Program::start(host, "dnsmasq", &arguments, &log), log)
}

/// A machine without a disk, with one card on the host's bridge.
fn machine(host: &Host) -> Program {
    host.ns.ip("tuntap add vm0 mode tap");
    host.ns.ip("link set vm0 master br0 up");
    let arguments = [
        "-machine",
        "pc,accel=tcg",
        "-m",
        "64",
        "-display",
        "none",
        "-serial",
        "none",
        "-monitor",
        "none",
        "-no-user-config",
        "-nodefaults",
        "-boot",
        "n",
        "-netdev",
        "tap,id=net,ifname=vm0,script=no,downscript=no",
        "-device",
        "virtio-net-pci,netdev=net,mac=02:bb:00:00:00:01",
    ];
    Program::start(host, "qemu-system-x86_64", &arguments, &host.folder.join("qemu.log"))
}

#[test]
fn a_machine_boots_from_a_server_on_another_host() {
    run_unless(reason_to_skip, || {
        let mut crowd = crowd(2);
        crowd.hosts[1].config.addresses = Some(Vec::new());
        let crowd = crowd.up();
        let [first, second] = &crowd.hosts[..] else { unreachable!("two hosts") };
        bridge(second);
        let (_server, log) = serve(first);
        let _machine = machine(second);
        let said = |text: &str| fs::read_to_string(&log).is_ok_and(|log| log.contains(text));
        for text in ["DHCPACK(ipop0)", "boot.ipxe to 10.128.0.2", "large to 10.128.0.2", "done to 10.128.0.2"]
        {
            wait_for(text, PATIENCE, || said(text).then_some(()));
        }
    });
}
