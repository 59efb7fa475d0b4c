//! Compiles the programs and puts both objects into OUT_DIR, to be embedded.

#[path = "../ipop-ebpf/build_support.rs"]
mod build_support;

use build_support::{Object, PLAIN, provide};

/// The second object logs every refusal.
const LOGGING: Object = Object { name: "ipop-log", features: &["log"] };

fn main() {
    provide(&[PLAIN, LOGGING]);
}
