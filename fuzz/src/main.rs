//! One fuzzer for all decoders; the environment variable `MESH_FUZZ_TARGET` names the one.
//!
//! `cargo xtask fuzz` sets it, builds this with counters for coverage, and keeps what it finds.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mesh_core::fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("MESH_FUZZ_TARGET").unwrap_or_default();
    let crates = [
        mesh_core::fuzz::TARGETS,
        mesh_gossip::fuzz::TARGETS,
        mesh_sync::fuzz::TARGETS,
        mesh_transport::fuzz::TARGETS,
        mesh::fuzz::TARGETS,
        mesh_cli::fuzz::TARGETS,
    ];
    let all: Vec<Target> = crates.concat();
    all.iter().find(|(known, _)| *known == name).copied().unwrap_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        panic!("MESH_FUZZ_TARGET is {name:?}, it must be one of {}", names.join(", "))
    })
});

fuzz_target!(|data: &[u8]| (TARGET.1)(data));
