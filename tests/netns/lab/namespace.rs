//! Network namespaces: made, entered, and removed whatever happens. Knows nothing of what they are for.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where iproute2 keeps named namespaces.
const FOLDER: &str = "/run/netns";

/// A named network namespace with its loopback up, removed when dropped.
#[derive(Debug)]
pub(crate) struct NetNs {
    name: String,
}

impl NetNs {
    /// A new one, named `PREFIX-PID-NUMBER`.
    pub(crate) fn create(prefix: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("{prefix}-{}-{number}", std::process::id()) };
        check(Command::new("ip").args(["netns", "add", &namespace.name]));
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip WORDS` in this namespace.
    #[track_caller]
    pub(crate) fn ip(&self, words: &str) -> String {
        check(Command::new("ip").args(["-n", &self.name]).args(words.split_whitespace()))
    }

    /// Sets a variable of `sysctl(8)` in this namespace.
    #[track_caller]
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        self.inside(|| fs::write(&path, value)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Runs a program inside and gives what it prints; it must succeed.
    #[track_caller]
    pub(crate) fn succeed(&self, program: &str, arguments: &[&str]) -> String {
        check(&mut self.command(program, arguments))
    }

    /// Runs a program inside, whatever comes of it.
    #[track_caller]
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// A program to be started inside.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        self.enter(&mut command);
        command
    }

    /// Makes `command` start inside. Not through `ip netns exec`, which also mounts another /sys.
    pub(crate) fn enter(&self, command: &mut Command) {
        let namespace = self.open();
        // SAFETY: the closure runs between fork and exec and makes one system call on a descriptor
        // that it owns.
        unsafe {
            command.pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
    }

    /// Moves the calling thread inside; for threads of their own.
    pub(crate) fn enter_thread(&self) -> impl FnOnce() + Send + 'static {
        let namespace = self.open();
        move || setns(&namespace, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered")
    }

    /// Runs `work` on a thread inside. Sockets opened there stay inside.
    #[track_caller]
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = self.enter_thread();
        let thread = move || {
            enter();
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join()).expect("the work inside does not panic")
    }

    fn open(&self) -> File {
        let path = PathBuf::from(FOLDER).join(&self.name);
        File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Has a command see `file` where `over` is, in mounts of its own; one over itself is read-only there.
pub(crate) fn mount_over(command: &mut Command, file: &Path, over: &Path) {
    let (file, over) = (file.to_owned(), over.to_owned());
    let none = None::<&str>;
    // SAFETY: between fork and exec the closure makes system calls alone; what it owns was made before.
    unsafe {
        command.pre_exec(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some(&file), &over, none, MsFlags::MS_BIND, none)?;
            if file == over {
                let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                mount(none, &over, none, flags, none)?;
            }
            Ok(())
        });
    }
}

/// Runs a command and gives what it prints; it must succeed.
#[track_caller]
pub(crate) fn check(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {text}{errors}", output.status);
    text
}

/// Removes the namespaces of earlier processes that were killed.
pub(crate) fn sweep(prefix: &str) {
    let Ok(entries) = fs::read_dir(FOLDER) else { return };
    for name in entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    let path = PathBuf::from(FOLDER).join(name);
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&path);
}
