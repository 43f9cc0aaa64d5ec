//! The architecture's rules about who may name what (docs/architecture.md, invariant 9), read from the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The files, as paths from the root, in which one of these words stands outside of comments.
fn users_of(words: &[&str]) -> Vec<String> {
    let root = root();
    let mut files = Vec::new();
    for krate in ["proto", "storage", "router", "gateway", "client", "node", "loadtest", "simulation"] {
        sources(&root.join(krate).join("src"), &mut files);
    }
    let names = |path: &&PathBuf| {
        let text = fs::read_to_string(path).expect("source");
        let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.any(|line| words.iter().any(|word| line.contains(word)))
    };
    let inside = |path: &PathBuf| path.strip_prefix(&root).expect("below the root").display().to_string();
    files.iter().filter(names).map(inside).collect()
}

fn only_below(words: &[&str], place: &str) {
    let users = users_of(words);
    assert!(!users.is_empty(), "{words:?} stand nowhere: this test looks for the wrong words");
    for user in users {
        assert!(user.starts_with(place), "{user} has one of {words:?}");
    }
}

#[test]
fn one_place_names_each_engine_and_the_ring() {
    // Our own modules are named after the engines: these are the engines' types.
    only_below(&["use sled::", "sled::Db", "sled::Tree", "sled::Config", "sled::Batch"], "storage/src/engine/sled.rs");
    only_below(&["use ::fjall", " ::fjall::"], "storage/src/engine/fjall.rs");
    only_below(&["raft_engine::"], "storage/src/log/");
    only_below(&["openraft::"], "storage/src/raft/");
    only_below(&["hashring::"], "proto/src/ring.rs");
}

#[test]
fn roles_do_not_know_each_other() {
    for role in ["storage", "router", "gateway"] {
        let manifest = fs::read_to_string(root().join(role).join("Cargo.toml")).expect("manifest");
        for other in ["storage", "router", "gateway", "client", "loadtest", "simulation"] {
            assert!(!manifest.contains(&format!("carillon-{other}.workspace")), "{role} depends on {other}");
        }
    }
}

/// Each role lets it in, so nobody else may use that way.
#[test]
fn only_the_simulation_looks_inside_the_roles() {
    for role in ["storage", "router", "gateway", "client"] {
        only_below(&[&format!("carillon_{role}::simulation")], "simulation/src/");
    }
    for krate in ["node", "loadtest"] {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("manifest");
        assert!(!manifest.contains("carillon-simulation"), "{krate} depends on the simulation");
    }
}

/// What is removed and who owns what is decided by clocks that only run while somebody watches (ADRs 6 and 8).
#[test]
fn the_store_has_no_wall_clock() {
    let users = users_of(&["now_ms(", "SystemTime", "UNIX_EPOCH"]);
    assert!(users.iter().any(|user| user.starts_with("router/src/")), "this test looks for the wrong words");
    for user in users.iter().filter(|user| user.starts_with("storage/src/")) {
        assert!(user.starts_with("storage/src/machine/tests/"), "{user} asks for the time of day");
    }
}
