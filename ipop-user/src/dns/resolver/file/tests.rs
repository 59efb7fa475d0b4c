use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

const OLD: &str = "# by hand\nnameserver 192.0.2.1\nsearch example.org example.net\nnameserver 2001:db8::1\n";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        let place = Self { folder };
        place.write(text);
        place
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("etc/resolv.conf")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("state").join(KEPT)
    }

    fn of(&self, device: &str) -> ResolvConf {
        let state = if device == "ipop0" { "state".to_owned() } else { format!("state-{device}") };
        ResolvConf::new(&self.path(), &self.folder.path().join(state), device)
    }

    /// Nothing but the file is in its folder, and nothing is kept.
    fn assert_is_clean(&self) {
        assert_eq!(fs::read_dir(self.folder.path().join("etc")).unwrap().count(), 1);
        assert!(!self.kept().exists());
    }
}

fn server() -> IpAddr {
    "10.128.0.1".parse().unwrap()
}

#[test]
fn our_server_is_the_first_and_goes_without_a_trace() {
    let place = Place::new(OLD);
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o640)).unwrap();
    let file = place.of("ipop0");
    assert!(!file.is_in_place());
    let previous = file.install(server(), None).unwrap();
    assert_eq!(format!("{previous:?}"), "[192.0.2.1:53, [2001:db8::1]:53]");
    let kept = place.kept();
    let begin = format!(
        "# BEGIN ipopd ipop0: these lines go when ipopd ends; the file as it was is {}\n",
        kept.display()
    );
    assert_eq!(place.text(), format!("{begin}nameserver 10.128.0.1\n# END ipopd ipop0\n{OLD}"));
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(file.is_in_place());
    assert_eq!(file.undo().unwrap(), Undone::Removed);
    assert_eq!(place.text(), OLD);
    assert_eq!(file.undo().unwrap(), Undone::Nothing);
    place.assert_is_clean();
}

#[test]
fn the_domain_is_searched_behind_the_others() {
    let place = Place::new("nameserver 192.0.2.1\ndomain example.org");
    let file = place.of("ipop0");
    file.install(server(), Some("demo.ipop")).unwrap();
    let text = place.text();
    assert!(text.ends_with(
        "domain example.org\n# BEGIN ipopd ipop0\nsearch example.org demo.ipop\n# END ipopd ipop0\n"
    ));
    file.undo().unwrap();
    // Also its last line, which had no end.
    assert_eq!(place.text(), "nameserver 192.0.2.1\ndomain example.org");
}

#[test]
fn what_a_killed_run_left_is_undone_or_made_anew() {
    let place = Place::new(OLD);
    place.of("ipop0").install(server(), Some("demo.ipop")).unwrap();
    let first = place.text();
    // The next run does not take our server for one that was there.
    let previous = place.of("ipop0").install(server(), Some("demo.ipop")).unwrap();
    assert_eq!(previous.len(), 2);
    assert_eq!(place.text(), first);
    assert_eq!(place.of("ipop0").undo().unwrap(), Undone::Removed);
    assert_eq!(place.text(), OLD);
    place.assert_is_clean();
    // One that was killed before it had written, or after it had restored.
    place.of("ipop0").keep(OLD).unwrap();
    assert_eq!(place.of("ipop0").undo().unwrap(), Undone::Removed);
    // Or that had written in place and not yet cut off the rest.
    place.of("ipop0").keep(OLD).unwrap();
    place.write(&format!("{OLD}\n\n\n\n"));
    assert_eq!(place.of("ipop0").undo().unwrap(), Undone::Removed);
    assert_eq!(place.text(), OLD);
    place.assert_is_clean();
}

#[test]
fn what_somebody_else_has_written_stays() {
    let place = Place::new(OLD);
    let file = place.of("ipop0");
    file.install(server(), None).unwrap();
    let theirs = "nameserver 192.0.2.99\n";
    place.write(theirs);
    assert!(!file.is_in_place());
    assert_eq!(file.undo().unwrap(), Undone::Rewritten);
    assert_eq!(place.text(), theirs);
    place.assert_is_clean();
    // A line of theirs beside ours.
    file.install(server(), None).unwrap();
    place.write(&format!("{}options edns0\n", place.text()));
    assert_eq!(file.undo().unwrap(), Undone::Removed);
    assert_eq!(place.text(), format!("{theirs}options edns0\n"));
    // Of ours, only a part: who knows of what is what.
    file.install(server(), None).unwrap();
    let damaged = place.text().replace("# END ipopd ipop0\n", "");
    place.write(&damaged);
    assert_eq!(file.undo().unwrap(), Undone::Rewritten);
    assert_eq!(place.text(), damaged);
}

#[test]
fn two_networks_do_not_undo_each_other() {
    for first_out in ["ipop0", "ipop01"] {
        let place = Place::new(OLD);
        place.of("ipop0").install(server(), None).unwrap();
        let previous = place.of("ipop01").install("10.129.0.1".parse().unwrap(), None).unwrap();
        assert_eq!(
            format!("{:?}", previous[0]),
            "10.128.0.1:53",
            "names of the other network are asked there"
        );
        place.of(first_out).undo().unwrap();
        let stays = if first_out == "ipop0" { "ipop01" } else { "ipop0" };
        assert!(place.of(stays).is_in_place() && !place.of(first_out).is_in_place());
        place.of(stays).undo().unwrap();
        assert_eq!(place.text(), OLD);
    }
}

#[test]
fn a_link_stays_and_what_it_leads_to_is_changed() {
    let place = Place::new(OLD);
    let target = place.folder.path().join("run.conf");
    fs::rename(place.path(), &target).unwrap();
    symlink("../run.conf", place.path()).unwrap();
    let file = place.of("ipop0");
    file.install(server(), None).unwrap();
    assert!(fs::symlink_metadata(place.path()).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("nameserver 10.128.0.1"));
    file.undo().unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), OLD);
    // One that leads nowhere is said, and nothing is made.
    fs::remove_file(&target).unwrap();
    let error = file.install(server(), None).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.contains("No such file"), "{error}");
    assert!(!target.exists());
    assert_eq!(file.undo().unwrap(), Undone::Nothing);
}

#[test]
fn a_file_that_cannot_be_replaced_is_written_in_place() {
    let place = Place::new(OLD);
    for text in ["nameserver 192.0.2.7\n", OLD, ""] {
        write_in_place(&place.path(), text).unwrap();
        assert_eq!(place.text(), text);
    }
    assert!(must_stay(&io::Error::from_raw_os_error(libc::EBUSY)));
    assert!(!must_stay(&io::Error::from_raw_os_error(libc::ENOSPC)));
}

#[test]
fn a_file_that_is_no_text_is_left_alone() {
    let place = Place::new("");
    fs::write(place.path(), b"nameserver \xff\n").unwrap();
    let error = place.of("ipop0").install(server(), None).unwrap_err().to_string();
    assert!(error.ends_with("is no text, and is left as it is"), "{error}");
    assert_eq!(fs::read(place.path()).unwrap(), b"nameserver \xff\n");
}

#[test]
fn servers_of_one_link_have_its_number() {
    assert_eq!(nameserver("fe80::1%lo").map(|server| server.to_string()), Some("[fe80::1%1]:53".to_owned()));
    assert_eq!(nameserver("fe80::1%7").map(|server| server.to_string()), Some("[fe80::1%7]:53".to_owned()));
    assert_eq!(nameserver("fe80::1%nosuch0"), None);
    assert_eq!(nameserver("dns.example.org"), None);
}

proptest! {
    #[test]
    fn whatever_was_there_comes_back(
        old in "(nameserver 192\\.0\\.2\\.[0-9]\n|search [a-z]{1,5}\n|# BEGIN\n|# END ipopd\n|[ -~]{0,12}\n){0,6}[a-z]{0,3}",
        search in any::<bool>()
    ) {
        let place = Place::new(&old);
        let file = place.of("ipop0");
        file.install(server(), search.then_some("demo.ipop")).unwrap();
        prop_assert!(file.is_in_place());
        let rest = file.without_ours(&place.text()).unwrap();
        prop_assert_eq!(rest.trim_end(), old.trim_end());
        prop_assert_eq!(file.undo().unwrap(), Undone::Removed);
        prop_assert_eq!(place.text(), old);
    }
}
