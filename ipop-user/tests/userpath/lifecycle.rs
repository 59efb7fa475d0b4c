//! Starting, stopping and failing: what is refused says why, and nothing is left behind.

use std::fs;
use std::thread;

use ipop_user::userpath::{Io, Settings, StartError, Tun, TunError, UserPath};

use crate::transfer::{MIB, transfer};
use crate::wire::{DEADLINE, INNER, Options, Wire, alone, inside, is_root, run_in, wait_for};

/// io_uring_setup, the same number on all architectures.
const IO_URING_SETUP: u32 = 425;

/// Makes io_uring_setup fail with EPERM for this thread and those that it starts, as a container's
/// seccomp profile does.
fn forbid_io_uring() {
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    let statement = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        statement((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, IO_URING_SETUP),
        statement(ret, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: numbers, and a pointer to a program that outlives the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

fn entries(path: &str) -> usize {
    fs::read_dir(path).unwrap().count()
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn where_io_uring_is_forbidden_auto_takes_epoll_and_says_why() {
    if !is_root() {
        return;
    }
    let _turn = alone();
    let mut wire = Wire::new(Options::new(Io::Epoll));
    wire.a.path.take().unwrap().stop().unwrap();
    let settings = |io| Settings { io, ..wire.a.settings.clone() };
    let (auto, demanded) = (settings(Io::Auto), settings(Io::IoUring));
    let path = thread::scope(|scope| {
        let start = scope.spawn(|| {
            forbid_io_uring();
            let refused = UserPath::start(demanded).unwrap_err();
            assert!(matches!(refused, StartError::IoUring { .. }));
            assert!(refused.to_string().contains("forbids"), "{refused}");
            UserPath::start(auto).unwrap()
        });
        start.join().unwrap()
    });
    assert_eq!(path.io(), Io::Epoll);
    assert!(path.io_reason().unwrap().contains("forbids"), "{:?}", path.io_reason());
    wire.a.path = Some(path);
    transfer(&wire.a, &wire.b, INNER[1][0], MIB);
}

#[test]
fn auto_takes_io_uring_where_it_works() {
    if !is_root() {
        return;
    }
    let _turn = alone();
    let wire = Wire::new(Options::new(Io::Auto));
    let path = wire.a.path.as_ref().unwrap();
    assert_eq!((path.io(), path.io_reason()), (Io::IoUring, None));
}

#[test]
fn a_device_in_use_is_named() {
    if !is_root() {
        return;
    }
    let _turn = alone();
    let wire = Wire::new(Options::new(Io::Epoll));
    let error = inside(&wire.a.netns, || Tun::open("ipop0").unwrap_err());
    assert!(matches!(&error, TunError::Busy { name } if name == "ipop0"), "{error}");
    let error = inside(&wire.a.netns, || Tun::open("w0").unwrap_err());
    assert!(matches!(&error, TunError::NotTun { name } if name == "w0"), "{error}");
}

#[test]
fn without_the_capability_the_device_is_refused() {
    if !is_root() {
        return;
    }
    let refused = thread::spawn(|| {
        // SAFETY: numbers only. The system call, unlike the library's function, changes this thread
        // alone, which ends here.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
        Tun::open("ipop-test").unwrap_err()
    });
    let error = refused.join().unwrap();
    assert!(matches!(error, TunError::NotPermitted { .. }), "{error}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"));
}

#[test]
fn a_persistent_device_stays_and_can_be_opened_again() {
    if !is_root() {
        return;
    }
    let _turn = alone();
    let wire = Wire::new(Options::new(Io::Epoll));
    inside(&wire.a.netns, || {
        let tun = Tun::open("keep%d").unwrap();
        assert_eq!(tun.name(), "keep0");
        tun.persist(true).unwrap();
        drop(tun);
        let tun = Tun::open("keep0").unwrap();
        tun.persist(false).unwrap();
    });
    assert!(!run_in(&wire.a.netns, "ip -o link").contains("keep0"));
}

with_both_engines! {
    fn stopping_leaves_no_thread_and_no_descriptor(io) {
        let mut wire = Wire::new(Options::new(io));
        wire.a.path.take().unwrap().stop().unwrap();
        let (threads, files) = (entries("/proc/self/task"), entries("/proc/self/fd"));
        for _ in 0..20 {
            let path = UserPath::start(wire.a.settings.clone()).unwrap();
            assert_eq!(path.io(), io);
            path.stop().unwrap();
        }
        // The kernel closes a ring's descriptor when its last request is gone.
        wait_for("threads end", || entries("/proc/self/task") <= threads);
        wait_for("files are closed", || entries("/proc/self/fd") <= files);
    }

    fn a_device_that_is_removed_ends_the_thread_with_a_reason(io) {
        let mut wire = Wire::new(Options::new(io));
        run_in(&wire.a.netns, "ip link del ipop0");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let path = wire.a.path.as_mut().unwrap();
        let failed = runtime.block_on(async { tokio::time::timeout(DEADLINE, path.failed()).await });
        let error = failed.expect("it is noticed");
        assert!(error.to_string().contains("TUN"), "{error}");
        let again = runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::ZERO, path.failed()).await
        });
        again.expect_err("it is said once");
    }

    fn a_device_that_goes_down_and_up_carries_packets_again(io) {
        let wire = Wire::new(Options::new(io));
        transfer(&wire.a, &wire.b, INNER[1][0], MIB);
        for node in wire.nodes() {
            run_in(&node.netns, "ip link set ipop0 down");
            run_in(&node.netns, "ip link set ipop0 up");
        }
        transfer(&wire.a, &wire.b, INNER[1][0], MIB);
    }

    fn an_idle_path_needs_little_memory(io) {
        let before = resident();
        let wire = Wire::new(Options::new(io));
        transfer(&wire.a, &wire.b, INNER[1][0], 8);
        let used = resident().saturating_sub(before) / 2;
        assert!(used < 4 << 20, "{} KiB each", used >> 10);
    }

    fn several_queues_carry_many_flows(io) {
        let mut wire = Wire::new(Options { queues: 3, ..Options::new(io) });
        let names = fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        assert_eq!(names.filter(|name| name.starts_with("ipop-queue-")).count(), 6);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| transfer(&wire.a, &wire.b, INNER[1][0], 8 * MIB));
            }
        });
        // One that ends ends all, and says so.
        run_in(&wire.b.netns, "ip link del ipop0");
        let mut path = wire.b.path.take().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let failed = async { tokio::time::timeout(DEADLINE, path.failed()).await };
        runtime.block_on(failed).expect("a thread says that it has ended");
    }

    fn the_data_thread_has_a_name_and_counts_its_system_calls(io) {
        let wire = Wire::new(Options::new(io));
        let names = fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        assert_eq!(names.filter(|name| name.trim() == "ipop-queue-0").count(), 2);
        let path = wire.a.path.as_ref().unwrap();
        let before = path.syscalls();
        transfer(&wire.a, &wire.b, INNER[1][0], 64 << 10);
        assert!(path.syscalls() > before);
    }
}
