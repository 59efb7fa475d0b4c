//! A parallel program on four nodes: Debian's OpenMPI starts it by ssh and names, and its processes talk over the
//! virtual network alone, which the kernel carries.

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::crowd::Crowd;
use crate::lab::namespace::check;
use crate::lab::ssh::{self, Ssh};
use crate::lab::wireguard::plain;
use crate::lab::{Host, SOON, run_unless, wait_for};

const NODES: u8 = 4;
const ROUNDS: &str = "200";
/// What is run: its source.
const PROGRAM: &str = include_str!("mpi/allreduce.c");
/// A job that takes longer has come to a stop.
const JOB_TIMEOUT_S: &str = "60";

fn reason_to_skip() -> Option<String> {
    let is_missing = |program: &&str| Command::new(program).arg("--version").output().is_err();
    let missing = ["mpicc", "mpirun"].into_iter().find(is_missing);
    let missing = missing.map(|program| format!("{program} (OpenMPI) is not installed: cargo xtask setup"));
    missing.or_else(ssh::reason_to_skip)
}

/// Four nodes that find each other by name.
fn nodes() -> Crowd {
    let mut crowd = Crowd::new(NODES);
    for host in &mut crowd.hosts {
        // Also what is sent in super-packets.
        host.config.datapath.insert("seal", "kernel".to_owned());
        host.write_resolver(&format!("nameserver {}\n", host.inner_v4));
    }
    let crowd = crowd.up();
    let all: Vec<usize> = (0..crowd.hosts.len()).collect();
    crowd.wait_for_all_pairs(&all, SOON);
    for from in 0..crowd.hosts.len() {
        for to in (0..crowd.hosts.len()).filter(|to| *to != from) {
            crowd.wait_for_path(from, to, "direct-kernel", SOON);
            finds(&crowd.hosts[from], &crowd.hosts[to].virtual_name());
        }
    }
    crowd
}

#[track_caller]
fn finds(host: &Host, name: &str) {
    wait_for(&format!("{} finds {name}", host.config.name), SOON, || {
        let found = host.program("getent", &["hosts", name]).output().expect("getent starts");
        found.status.success().then_some(())
    });
}

/// Packets to and from all peers, in the kernel and in the daemon, as an operator is shown them.
fn carried(host: &Host) -> [u64; 2] {
    let peers: Value = serde_json::from_str(&host.ctl(&["peers", "--json"])).expect("JSON");
    let peers = peers.as_array().expect("a list");
    ["kernel", "user"].map(|path| {
        let names = [format!("{path}_tx_packets"), format!("{path}_rx_packets")];
        peers.iter().flat_map(|peer| names.iter().map(|name| peer[name].as_u64().unwrap_or(0))).sum()
    })
}

/// Runs the program with one process on each node.
#[track_caller]
fn job(crowd: &Crowd, ssh: &Ssh) -> Output {
    let first = &crowd.hosts[0];
    let (source, program, list) =
        (first.folder.join("allreduce.c"), first.folder.join("allreduce"), first.folder.join("hosts"));
    fs::write(&source, PROGRAM).expect("the source is written");
    check(Command::new("mpicc").args(["-O1", "-Wall", "-Werror", "-o"]).args([&program, &source]));
    let names: String = crowd.hosts.iter().map(|host| format!("{} slots=1\n", host.virtual_name())).collect();
    fs::write(&list, names).expect("the list of hosts is written");
    let agent = ssh.command();
    let mut mpirun = first.program("timeout", &[JOB_TIMEOUT_S, "mpirun", "--allow-run-as-root"]);
    mpirun.env("TMPDIR", first.folder.join("tmp"));
    mpirun.args(["--hostfile", plain(&list), "--map-by", "node", "--bind-to", "none"]);
    for (name, value) in [
        ("plm_rsh_agent", agent.as_str()),
        ("orte_keep_fqdn_hostnames", "1"),
        ("pml", "ob1"),
        ("btl", "tcp,self"),
        ("btl_tcp_if_include", "ipop0"),
        ("oob_tcp_if_include", "ipop0"),
    ] {
        mpirun.args(["--mca", name, value]);
    }
    mpirun.arg(program).arg(ROUNDS).output().expect("timeout starts")
}

#[test]
fn a_parallel_program_runs_on_four_nodes_and_the_kernel_carries_it() {
    run_unless(reason_to_skip, || {
        let start = Instant::now();
        let crowd = nodes();
        let hosts: Vec<&Host> = crowd.hosts.iter().collect();
        let ssh = Ssh::start(&hosts);
        let ready = start.elapsed();
        let before: Vec<[u64; 2]> = hosts.iter().map(|host| carried(host)).collect();
        let done = job(&crowd, &ssh);
        let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{text}");
        assert!(text.contains("4 processes on n1 n2 n3 n4: all sums are right"), "{text}");
        for (host, before) in hosts.iter().zip(before) {
            // Counters are read from the kernel now and then.
            wait_for("the kernel has carried it", Duration::from_secs(5), || {
                let [kernel, user] = carried(host);
                let [kernel, user] = [kernel - before[0], user - before[1]];
                (kernel > 5000 && user < kernel / 50).then_some(())
            });
        }
        println!("OpenMPI on 4 nodes: ready after {ready:?}, done after {:?}", start.elapsed());
    });
}
