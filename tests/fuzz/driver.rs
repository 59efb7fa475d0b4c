//! The fuzz targets behind libFuzzer: one program, `IPOP_FUZZ_TARGET` names the target. Started by
//! `cargo xtask test --fuzz`, which also says how it is to be compiled.

#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

use targets::Target;

const TARGET_VARIABLE: &str = "IPOP_FUZZ_TARGET";

static TARGET: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    TARGET.get_or_init(|| {
        let name = std::env::var(TARGET_VARIABLE).unwrap_or_default();
        targets::find(&name).unwrap_or_else(|| {
            let known: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
            panic!("{TARGET_VARIABLE}={name} is no target; known: {}", known.join(", "))
        })
    })
}

fuzz_target!(init: { chosen(); }, |input: &[u8]| (chosen().run)(input));
