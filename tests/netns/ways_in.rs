//! By what a node finds the overlay.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::crowd::Crowd;
use crate::lab::host::generate_key;
use crate::lab::packet::USER_PORT;
use crate::lab::{How, SOON, run, wait_for};

/// For what takes a few rounds of repetition.
const PATIENCE: Duration = Duration::from_secs(40);

/// What names stand for in one namespace.
struct Hosts(PathBuf);

impl Hosts {
    fn write(namespace: &str, text: &str) -> Self {
        let folder = Path::new("/etc/netns").join(namespace);
        fs::create_dir_all(&folder).expect("a folder of the namespace");
        fs::write(folder.join("hosts"), text).expect("a file in it");
        Self(folder)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn on_one_lan_nothing_needs_to_be_configured() {
    run(|| {
        let mut crowd = Crowd::new(4);
        for host in &mut crowd.hosts {
            host.config.bootstrap = Some(Vec::new());
            host.config.multicast = true;
        }
        // The others hear it, and it is none of them.
        crowd.hosts[3].config.secret = "the secret of another network".to_owned();
        let crowd = crowd.up();
        crowd.wait_for_all_pairs(&[0, 1, 2], PATIENCE);
        crowd.hosts[0].wait_for_counter("rx_bad_handshake", 0, 1);
        assert_eq!(crowd.hosts[3].ask("/v1/peers").as_array().map(Vec::len), Some(0));
    });
}

#[test]
fn where_others_were_is_known_in_the_next_run() {
    run(|| {
        let mut crowd = Crowd::new(4).up();
        crowd.wait_for_all_pairs(&[0, 1, 2, 3], PATIENCE);
        for host in &mut crowd.hosts {
            assert!(host.take().terminate().success());
        }
        // All but the only one that is configured.
        for host in &mut crowd.hosts[1..] {
            host.start(&How::Plain);
        }
        crowd.wait_for_all_pairs(&[1, 2, 3], PATIENCE);
    });
}

#[test]
fn a_bootstrap_node_whose_key_is_known_has_to_be_that_node() {
    run(|| {
        let mut crowd = Crowd::new(3);
        let place = format!("udp://10.200.0.1:{USER_PORT}");
        let other = generate_key(&crowd.hosts[2].folder.join("another"));
        crowd.hosts[1].config.bootstrap = Some(vec![format!("{place}#{}", crowd.hosts[0].key)]);
        crowd.hosts[2].config.bootstrap = Some(vec![format!("{place}#{other}")]);
        let mut crowd = crowd.up();
        crowd.wait_for_all_pairs(&[0, 1], PATIENCE);
        wait_for("who does not answer is told of", PATIENCE, || {
            crowd.hosts[2].log().contains("no answer: is it there").then_some(())
        });
        assert!(!crowd.answers(2, 0) && !crowd.answers(2, 1));
        // The mistake is mended without a restart.
        crowd.hosts[2].config.bootstrap = Some(vec![place]);
        crowd.hosts[2].write_config();
        crowd.hosts[2].ctl(&["reload"]);
        crowd.wait_for_all_pairs(&[0, 1, 2], PATIENCE);
    });
}

#[test]
fn a_name_stands_for_several_places() {
    run(|| {
        let mut crowd = Crowd::new(2);
        crowd.hosts[1].config.bootstrap = Some(vec![format!("udp://way-in.test:{USER_PORT}")]);
        // Nobody is at the first, and one of ours at the second.
        let _hosts =
            Hosts::write(crowd.hosts[1].ns.name(), "10.200.0.77 way-in.test\n10.200.0.1 way-in.test\n");
        crowd.hosts[0].start(&How::Plain);
        crowd.hosts[1].start(&How::IpNetnsExec);
        crowd.wait_for_all_pairs(&[0, 1], SOON);
    });
}

#[test]
fn a_node_can_move_to_another_network_while_it_runs() {
    run(|| {
        let mut crowd = Crowd::new(3);
        crowd.hosts[2].config.secret = "the secret of another network".to_owned();
        let mut crowd = crowd.up();
        crowd.wait_for_all_pairs(&[0, 1], PATIENCE);
        crowd.hosts[2].config.secret = crowd.hosts[0].config.secret.clone();
        crowd.hosts[2].write_config();
        crowd.hosts[2].ctl(&["reload"]);
        crowd.wait_for_all_pairs(&[0, 1, 2], PATIENCE);
    });
}
