//! Files of another host by the name that it has in the virtual network: a tree that is copied (rsync) and one that is
//! mounted (sshfs), both over ssh. What was begun goes on when the direct way is lost and when a daemon dies.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::relayed::Relayed;
use crate::lab::ssh::{self, Ssh};
use crate::lab::tcp::MIB;
use crate::lab::wireguard::plain;
use crate::lab::{Host, How, SOON, run_unless, wait_for};

/// For a way that is lost, and a connection that waits for its next attempt then.
const PATIENCE: Duration = Duration::from_secs(60);
/// KiB in a second: slow enough for all that is to happen meanwhile.
const RATE: &str = "--bwlimit=3072";
/// The folders of the tree; what is in one is not in the kernel's cache of another.
const FOLDERS: [&str; 3] = ["first", "second", "third"];
/// Lengths of the files in each of them: none, one byte, about a block, and some that take a while.
const LENGTHS: [usize; 8] = [0, 1, 4095, 4096, 70_001, 1 << 18, 1_500_000, 2_500_000];

fn reason_to_skip() -> Option<String> {
    let is_missing = |program: &&str| Command::new(program).arg("--version").output().is_err();
    let missing = ["rsync", "sshfs"].into_iter().find(is_missing);
    let missing = missing.map(|program| format!("{program} is not installed: cargo xtask setup"));
    let without_fuse = || (!Path::new("/dev/fuse").exists()).then(|| "this kernel has no FUSE".to_owned());
    missing.or_else(ssh::reason_to_skip).or_else(without_fuse)
}

/// Writes a tree of files with content that nobody guesses.
fn grow(tree: &Path) {
    let mut random = File::open("/dev/urandom").expect("/dev/urandom");
    for folder in FOLDERS {
        let folder = tree.join(folder);
        fs::create_dir_all(folder.join("empty")).expect("a folder");
        for (number, len) in LENGTHS.into_iter().enumerate() {
            let mut content = vec![0; len];
            random.read_exact(&mut content).expect("random bytes");
            fs::write(folder.join(format!("file {number}")), content).expect("a file");
        }
        symlink("file 1", folder.join("link")).expect("a link");
    }
}

/// Bytes of all files of a tree, as they are just now.
fn bytes_in(tree: &Path) -> u64 {
    let entries = fs::read_dir(tree).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_in(&entry.path()),
            // It may have got its last name meanwhile.
            _ => entry.metadata().map_or(0, |metadata| metadata.len()),
        })
        .sum()
}

/// Two trees have the same names, kinds and bytes; a mount that has come to a stop does not hold up the test.
#[track_caller]
fn are_the_same(host: &Host, one: &Path, other: &Path) {
    host.ns.succeed("timeout", &["60", "diff", "--no-dereference", "-r", plain(one), plain(other)]);
}

/// A copy under way.
struct Copying {
    rsync: Child,
    to: PathBuf,
}

impl Copying {
    fn start(from: &Host, tree: &Path, ssh: &Ssh, to: &Host) -> Self {
        let copy = to.folder.join("copy");
        let source = format!("{}/", tree.display());
        let place = format!("{}:{}/", to.virtual_name(), copy.display());
        let mut rsync = from.program("rsync", &["-a", RATE, "-e", &ssh.command(), &source, &place]);
        rsync.stderr(File::create(from.folder.join("rsync.log")).expect("a log"));
        Self { rsync: ssh::spawn(rsync), to: copy }
    }

    #[track_caller]
    fn wait_for_progress(&mut self, what: &str) {
        let before = bytes_in(&self.to);
        wait_for(&format!("files arrive {what}"), PATIENCE, || {
            assert!(matches!(self.rsync.try_wait(), Ok(None)), "rsync has ended too early, {what}");
            (bytes_in(&self.to) >= before + MIB).then_some(())
        });
    }

    /// While `body` runs nothing is copied, however long it takes; the connection stays.
    fn pause(&self, body: impl FnOnce()) {
        let rsync = Pid::from_raw(self.rsync.id().try_into().expect("a process"));
        kill(rsync, Signal::SIGSTOP).expect("rsync is stopped");
        body();
        kill(rsync, Signal::SIGCONT).expect("rsync goes on");
    }

    #[track_caller]
    fn finish(mut self, from: &Host) -> PathBuf {
        let ended = wait_for("rsync ends", PATIENCE, || self.rsync.try_wait().expect("it can be waited for"));
        let log = fs::read_to_string(from.folder.join("rsync.log")).unwrap_or_default();
        assert!(ended.success(), "{log}");
        self.to
    }
}

/// A folder of another host, mounted where its own sshfs sees it alone; gone when dropped.
struct Mount {
    sshfs: Child,
    /// By which others reach it.
    place: PathBuf,
}

impl Mount {
    #[track_caller]
    fn new(on: &Host, ssh: &Ssh, of: &Host, tree: &Path) -> Self {
        let point = on.folder.join("mounted");
        fs::create_dir(&point).expect("a place to mount at");
        let what = format!("{}:{}", of.virtual_name(), tree.display());
        let mut sshfs = on.program("sshfs", &["-f", "-F", plain(&ssh.config()), &what, plain(&point)]);
        sshfs.stdout(Stdio::null()).stderr(File::create(on.folder.join("sshfs.log")).expect("a log"));
        let sshfs = ssh::spawn(sshfs);
        let process = PathBuf::from(format!("/proc/{}", sshfs.id()));
        wait_for("the folder is mounted", SOON, || {
            let mounts = fs::read_to_string(process.join("mounts")).unwrap_or_default();
            mounts.contains("fuse.sshfs").then_some(())
        });
        let place = process.join("root").join(point.strip_prefix("/").expect("a path from the root"));
        Self { sshfs, place }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.sshfs.kill();
        let _ = self.sshfs.wait();
    }
}

#[test]
fn files_are_copied_and_mounted_by_name_while_the_way_changes_and_a_daemon_dies() {
    run_unless(reason_to_skip, || {
        let start = Instant::now();
        let mut pair = Relayed::together().up("auto");
        pair.wait_for_path("direct-kernel", SOON);
        let hosts = pair.hosts();
        hosts.iter().for_each(|host| host.write_resolver(&format!("nameserver {}\n", host.inner_v4)));
        let ssh = Ssh::start(&hosts);
        let [near, far] = hosts;
        let tree = near.folder.join("tree");
        grow(&tree);
        let mount = Mount::new(far, &ssh, near, &tree);
        are_the_same(far, &mount.place.join(FOLDERS[0]), &tree.join(FOLDERS[0]));
        let mut copying = Copying::start(near, &tree, &ssh, far);
        copying.wait_for_progress("directly");
        let direct = start.elapsed();
        pair.part("add");
        pair.wait_for_path("relay", PATIENCE);
        copying.wait_for_progress("by the relay");
        copying
            .pause(|| are_the_same(pair.hosts()[1], &mount.place.join(FOLDERS[1]), &tree.join(FOLDERS[1])));
        let relayed = start.elapsed();
        let far = pair.ends[1];
        pair.net.hosts[far].take().kill();
        pair.net.hosts[far].start(&How::Plain);
        pair.wait_for_path("relay", PATIENCE);
        copying.wait_for_progress("with another daemon");
        let [near, far] = pair.hosts();
        are_the_same(far, &mount.place.join(FOLDERS[2]), &tree.join(FOLDERS[2]));
        let restarted = start.elapsed();
        let copy = copying.finish(near);
        are_the_same(far, &copy, &tree);
        println!(
            "files: directly after {direct:?}, by the relay {relayed:?}, with another daemon {restarted:?}, \
             all after {:?}",
            start.elapsed()
        );
    });
}
