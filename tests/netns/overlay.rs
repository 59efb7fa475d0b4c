//! Nodes that know one address and a secret, and find each other.

use std::time::Duration;

use crate::lab::crowd::Crowd;
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{How, SOON, run, run_if_full, wait_for};

/// For what takes a few rounds of repetition.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn nodes_that_know_one_address_find_each_other() {
    run(|| {
        let crowd = Crowd::new(6).up();
        let all: Vec<usize> = (0..6).collect();
        crowd.wait_for_all_pairs(&all, SOON);
        // Some of it went over others; with traffic there is a link of the kernel's.
        crowd.wait_for_path(1, 4, "direct-kernel", SOON);
        crowd.wait_for_path(5, 2, "direct-kernel", SOON);
        let (near, far) = (&crowd.hosts[3], &crowd.hosts[5]);
        Tcp::transfer(near, far, far.inner_v4.into(), 64 * MIB);
        Tcp::transfer(far, near, near.inner_v6.into(), 64 * MIB);
    });
}

/// The first packets of a connection go over other nodes, the later ones by a link; none is missed.
#[test]
fn a_connection_begins_before_there_is_a_link() {
    run(|| {
        let crowd = Crowd::new(6).up();
        for (from, to) in [(1, 2), (3, 5), (4, 1)] {
            let (near, far) = (&crowd.hosts[from], &crowd.hosts[to]);
            Tcp::transfer(near, far, far.inner_v4.into(), 32 * MIB);
        }
    });
}

#[test]
fn without_a_kernel_path_it_is_the_same() {
    run(|| {
        let mut crowd = Crowd::new(4);
        for host in &mut crowd.hosts {
            host.config.datapath.insert("kernel", "off".to_owned());
        }
        let crowd = crowd.up();
        crowd.wait_for_all_pairs(&[0, 1, 2, 3], SOON);
        crowd.wait_for_path(1, 3, "direct-user", SOON);
    });
}

#[test]
fn a_way_in_that_is_down_is_waited_for() {
    run(|| {
        let mut crowd = Crowd::new(3);
        for host in [1, 2] {
            crowd.hosts[host].start(&How::Plain);
        }
        wait_for("the log says who does not answer", 4 * PATIENCE, || {
            crowd.hosts[1].log().contains("no answer: is it there").then_some(())
        });
        crowd.hosts[0].start(&How::Plain);
        crowd.wait_for_all_pairs(&[0, 1, 2], 2 * PATIENCE);
    });
}

#[test]
fn the_dead_are_not_missed() {
    run(|| {
        let mut crowd = Crowd::new(7).up();
        let all: Vec<usize> = (0..7).collect();
        crowd.wait_for_all_pairs(&all, SOON);
        for host in [0, 3] {
            crowd.hosts[host].take().kill();
        }
        crowd.wait_for_all_pairs(&[1, 2, 4, 5, 6], SOON);
    });
}

#[test]
fn who_has_another_secret_gets_nothing() {
    run(|| {
        let mut crowd = Crowd::new(3);
        crowd.hosts[2].config.secret = "the secret of another network".to_owned();
        let crowd = crowd.up();
        crowd.wait_for_all_pairs(&[0, 1], SOON);
        crowd.hosts[0].wait_for_counter("rx_bad_handshake", 0, 2);
        assert_eq!(crowd.hosts[2].ask("/v1/peers").as_array().map(Vec::len), Some(0));
        assert!(!crowd.answers(2, 0) && !crowd.answers(0, 2));
    });
}

#[test]
fn of_two_nodes_with_one_address_the_older_keeps_it() {
    run(|| {
        let mut crowd = Crowd::new(4);
        crowd.hosts[3].config.addresses = Some(vec!["10.128.0.2/24".to_owned()]);
        for host in 0..3 {
            crowd.hosts[host].start(&How::Plain);
        }
        crowd.wait_for_all_pairs(&[0, 1, 2], SOON);
        // Claims are of whole seconds.
        let since = std::time::SystemTime::now();
        wait_for("another second begins", SOON, || {
            (since.elapsed().ok()? > Duration::from_millis(1100)).then_some(())
        });
        crowd.hosts[3].start(&How::Plain);
        for host in [1, 3] {
            wait_for(&format!("host {} is told", host + 1), PATIENCE, || {
                crowd.hosts[host].log().contains("10.128.0.2").then_some(())
            });
        }
        crowd.wait_for_all_pairs(&[0, 1, 2], SOON);
    });
}

/// What a whole rack does after a power cut, and how long it takes until all hear all.
#[test]
fn thirty_two_nodes_hear_each_other() {
    run_if_full(|| {
        let crowd = Crowd::new(32).up();
        let all: Vec<usize> = (0..32).collect();
        crowd.wait_for_all_pairs(&all, PATIENCE);
    });
}
