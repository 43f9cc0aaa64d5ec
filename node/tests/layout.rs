//! The architecture's rules about who may name what (docs/architecture.md, invariant 8), read from the sources.

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

/// The files, as paths from the root, that use a crate.
fn users_of(name: &str) -> Vec<String> {
    let root = root();
    let mut files = Vec::new();
    for krate in ["proto", "storage", "router", "gateway", "client", "node", "loadtest"] {
        sources(&root.join(krate).join("src"), &mut files);
    }
    let uses = [format!("use {name}::"), format!("{name}::"), format!("use {name};")];
    let mut found: Vec<String> = files
        .iter()
        .filter(|path| {
            let text = fs::read_to_string(path).expect("source");
            let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            code.any(|line| {
                uses.iter().any(|word| line.trim_start().starts_with(&**word) || line.contains(&format!(" {word}")))
            })
        })
        .map(|path| path.strip_prefix(&root).expect("below the root").display().to_string())
        .collect();
    found.sort();
    found
}

fn only_below(name: &str, places: &[&str]) {
    let users = users_of(name);
    assert!(!users.is_empty(), "{name} is used nowhere: this test looks for the wrong name");
    for user in users {
        assert!(places.iter().any(|place| user.starts_with(place)), "{user} names {name}");
    }
}

#[test]
fn one_place_names_each_engine_and_the_ring() {
    // `engine/mod.rs` names its own modules, which have the engines' names.
    only_below("sled", &["storage/src/engine/sled.rs", "storage/src/engine/mod.rs"]);
    only_below("fjall", &["storage/src/engine/fjall.rs", "storage/src/engine/mod.rs"]);
    only_below("raft_engine", &["storage/src/log/"]);
    only_below("openraft", &["storage/src/raft/"]);
    only_below("hashring", &["proto/src/ring.rs"]);
}

#[test]
fn roles_do_not_know_each_other() {
    for role in ["storage", "router", "gateway"] {
        let manifest = fs::read_to_string(root().join(role).join("Cargo.toml")).expect("manifest");
        for other in ["storage", "router", "gateway", "client", "loadtest"] {
            assert!(!manifest.contains(&format!("carillon-{other}.workspace")), "{role} depends on {other}");
        }
    }
}
