//! Tests that need root, and how one that cannot run says so.

use std::fs::OpenOptions;
use std::io::Write as _;

/// A file to which skipped tests append `NAME: REASON`, for who counts over many runners.
const LIST_VARIABLE: &str = "IPOP_TEST_SKIPPED";
/// Set where root is expected: a test that cannot run then fails.
const REQUIRE_VARIABLE: &str = "IPOP_REQUIRE_ROOT";
/// Adds the tests that take long.
const FULL_VARIABLE: &str = "IPOP_TEST_FULL";

/// Ends the calling test, reported as skipped, where it does not run as root.
#[macro_export]
macro_rules! needs_root {
    () => {
        fn here() {}
        if !$crate::privilege::is_root($crate::privilege::name_of(&here)) {
            return;
        }
    };
}

/// The name of a test by a function inside of it: `target::module::test`.
pub fn name_of<T>(_: &T) -> &'static str {
    let name = std::any::type_name::<T>();
    name.strip_suffix("::here").unwrap_or(name)
}

/// Whether the slow tests are wanted too.
pub fn is_full() -> bool {
    std::env::var_os(FULL_VARIABLE).is_some_and(|value| value == "1")
}

/// Why a slow test does not run, where it does not.
pub fn unless_full() -> Option<String> {
    (!is_full()).then(|| format!("slow: set {FULL_VARIABLE}=1"))
}

/// Whether the test `name` may go on. Otherwise it is reported as skipped, and must return.
///
/// # Panics
/// Where IPOP_REQUIRE_ROOT=1 says that it should be able to.
pub fn is_root(name: &str) -> bool {
    // SAFETY: a system call without arguments that cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    assert!(std::env::var_os(REQUIRE_VARIABLE).is_none_or(|value| value != "1"), "{name} needs root");
    skip(name, "needs root");
    false
}

/// Reports a test that cannot run here, to stdout past the test runner's capture and to the list.
pub fn skip(name: &str, reason: &str) {
    // What goes through `println!` is shown of failed tests only. Where even stdout is gone there
    // is nobody to tell.
    let _ = std::io::stdout().write_all(format!("SKIPPED {name}: {reason}\n").as_bytes());
    if let Some(list) = std::env::var_os(LIST_VARIABLE) {
        // A list that cannot be written would make a skipped test count as passed.
        let mut file = OpenOptions::new().create(true).append(true).open(list).expect("the list of skips");
        file.write_all(format!("{name}: {reason}\n").as_bytes()).expect("the list of skips");
    }
}
