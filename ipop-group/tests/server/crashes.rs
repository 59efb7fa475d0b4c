//! A server that is killed, a database that is damaged, backups.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ipop_overlay::group::request::Purpose;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{Machine, Server, make_group, run, token};

/// How many times the server is killed, each after one more acknowledged join than the time before.
const CRASHES: u32 = 12;

#[test]
fn what_was_acknowledged_survives_a_crash_and_nothing_is_half_made() {
    let mut server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[("lease", "assigned")]);
    let mut acknowledged = BTreeMap::new();
    let mut next = 0;
    for crash in 0..CRASHES {
        let tokens: Vec<String> = (0..16).map(|_| token(&mut owner, "lab", &[("hours", "1")])).collect();
        let killed_after = crash % 6;
        for (seed, certificate) in join_until_killed(&server, &tokens, next, killed_after) {
            acknowledged.insert(seed, certificate);
        }
        next += tokens.len() as u32;
        server.crash();
    }
    assert!(acknowledged.len() >= CRASHES as usize, "{}", acknowledged.len());
    let mut addresses = std::collections::BTreeSet::new();
    for seed in 0..next {
        let machine = Machine::new(&server, "lab", seed);
        let answer = machine.ask(Purpose::Fetch, "");
        if let Some(certificate) = acknowledged.get(&seed) {
            let granted = machine.granted();
            assert_eq!(granted.der, *certificate, "what was acknowledged is there");
            assert!(addresses.insert(granted.member.grant.nets[0]), "an address was given twice");
        } else if answer.status == 200 {
            // Not acknowledged and done all the same: then all of it.
            assert!(addresses.insert(machine.granted().member.grant.nets[0]), "an address was given twice");
        } else {
            assert_eq!(answer.status, 404, "{}", answer.body);
        }
    }
    let checked = run(&["check"], server.folder.path(), "");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// Machines join all at a time; the server is killed in the midst, after so many answers.
fn join_until_killed(server: &Server, tokens: &[String], first: u32, after: u32) -> Vec<(u32, Vec<u8>)> {
    let (joined, answers, is_killed) = (Mutex::new(Vec::new()), AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for (number, text) in tokens.iter().enumerate() {
            let (joined, answers, is_killed) = (&joined, &answers, &is_killed);
            scope.spawn(move || {
                let seed = first + number as u32;
                let machine = Machine::new(server, "lab", seed);
                let body = format!("{{\"name\":\"node-{seed}-x\",\"token\":\"{text}\"}}");
                let answer = machine.send(&machine.request(Purpose::Join, &body));
                let Ok(answer) = answer else { return };
                // What came before the connection broke may be less than an answer.
                let Ok(membership) = serde_json::from_str::<ipop_group::api::Membership>(&answer.body) else {
                    return;
                };
                let certificate = membership.granted.expect("a token approves").certificate;
                joined.lock().expect("the list").push((seed, decoded(&certificate)));
                if answers.fetch_add(1, Ordering::SeqCst) == after && !is_killed.swap(true, Ordering::SeqCst)
                {
                    let id = Pid::from_raw(i32::try_from(server.id()).expect("a process"));
                    kill(id, Signal::SIGKILL).expect("the server can be killed");
                }
            });
        }
    });
    assert!(is_killed.into_inner(), "the server was killed");
    joined.into_inner().expect("the list")
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

#[test]
fn a_damaged_database_is_named_and_a_backup_can_be_put_back() {
    let mut server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let machine = Machine::new(&server, "lab", 1);
    let text = token(&mut owner, "lab", &[("hours", "1")]);
    machine.join("alpha", Some(&text));
    let before = machine.granted();
    let folder = server.folder.path().to_owned();
    let copy = folder.join("copy.sqlite");
    let copy = copy.to_str().expect("a name");
    // While the server runs.
    let output = run(&["backup", copy], &folder, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let refused = run(&["restore", copy], &folder, "");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!((refused.status.code(), said.contains("another ipop-group uses")), (Some(1), true), "{said}");
    server.kill();
    damage(&folder.join("group.sqlite"));
    for wal in ["group.sqlite-wal", "group.sqlite-shm"] {
        drop(fs::remove_file(folder.join(wal)));
    }
    for command in [&["check"][..], &["serve", "--listen", "127.0.0.1:0"]] {
        let output = run(command, &folder, "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot use") && said.contains("ipop-group restore"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let nonsense = folder.join("nonsense");
    fs::write(&nonsense, "this is no database").expect("a file");
    let output = run(&["restore", nonsense.to_str().expect("a name")], &folder, "");
    assert_eq!(output.status.code(), Some(1));
    let output = run(&["restore", copy], &folder, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.crash();
    let machine = Machine::new(&server, "lab", 1);
    assert_eq!(machine.granted().der, before.der);
}

/// Overwrites the middle of each page but the first.
fn damage(file: &std::path::Path) {
    let mut bytes = fs::read(file).expect("the database");
    for page in bytes.chunks_mut(4096).skip(1) {
        page[..64].fill(0xa5);
    }
    fs::write(file, bytes).expect("the database");
}

#[test]
fn keys_of_groups_are_sealed_and_a_lost_master_key_is_told() {
    let mut server = Server::start();
    let mut owner = server.person("alice");
    make_group(&mut owner, "lab", &[]);
    let folder = server.folder.path().to_owned();
    server.kill();
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(folder.join(name)).expect("a file").permissions().mode() & 0o777
    };
    assert_eq!((mode("group.sqlite"), mode("master.key")), (0o600, 0o600));
    fs::remove_file(folder.join("master.key")).expect("the key");
    let output = run(&["serve", "--listen", "127.0.0.1:0"], &folder, "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.contains("master key")), (Some(1), true), "{said}");
}
