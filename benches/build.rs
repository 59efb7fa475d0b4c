//! Compiles the programs and puts the object into OUT_DIR, to be embedded.

#[path = "../ipop-ebpf/build_support.rs"]
mod build_support;

fn main() {
    build_support::provide(&[build_support::PLAIN]);
}
