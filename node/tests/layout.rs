//! The architecture's rules about which code may name what (docs/architecture.md, invariant 9), checked in the sources.

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

/// The files, as paths from the root, that have one of these words outside of comments.
fn users_of(words: &[&str]) -> Vec<String> {
    let root = root();
    let mut files = Vec::new();
    for krate in
        ["proto", "storage", "router", "gateway", "client", "conformance", "canary", "node", "loadtest", "simulation"]
    {
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
    // Our own modules have the names of the engines, so these are names of the engines' types.
    only_below(&["use sled::", "sled::Db", "sled::Tree", "sled::Config", "sled::Batch"], "storage/src/engine/sled");
    only_below(&["use ::fjall", " ::fjall::"], "storage/src/engine/fjall");
    only_below(&["raft_engine::"], "storage/src/log/");
    only_below(&["openraft::"], "storage/src/raft/");
    only_below(&["hashring::"], "proto/src/ring.rs");
}

#[test]
fn roles_do_not_know_each_other() {
    for role in ["storage", "router", "gateway", "canary"] {
        let manifest = fs::read_to_string(root().join(role).join("Cargo.toml")).expect("manifest");
        for other in ["storage", "router", "gateway", "client", "loadtest", "simulation"]
            .into_iter()
            .filter(|other| (role, *other) != ("canary", "client"))
        {
            assert!(!manifest.contains(&format!("carillon-{other}.workspace")), "{role} depends on {other}");
        }
    }
}

/// Each role has a module for the simulation, by which its inside can be reached. Nothing else may use these modules.
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

/// Clocks that run only while a leader watches decide what is removed and who owns what (ADRs 6 and 8).
#[test]
fn the_store_has_no_wall_clock() {
    let users = users_of(&["now_ms(", "SystemTime", "UNIX_EPOCH"]);
    assert!(users.iter().any(|user| user.starts_with("router/src/")), "this test looks for the wrong words");
    for user in users.iter().filter(|user| user.starts_with("storage/src/")) {
        assert!(user.starts_with("storage/src/machine/tests/"), "{user} asks for the time of day");
    }
}

/// Names of `client` that the core may use: words, but no frames.
const WORDS: [&str; 25] = [
    "self",
    "ChatState",
    "Code",
    "Content",
    "Direction",
    "Envelope",
    "GroupChange",
    "Limits",
    "Media",
    "Mentions",
    "MessageRef",
    "Poll",
    "Position",
    "Presence",
    "Recipient",
    "Show",
    "Start",
    "Timeline",
    "TimelinePosition",
    "TimelineState",
    "content",
    "group_change",
    "members_change",
    "recipient",
    "timeline",
];

/// The names after `client::` in a path or in braces; nested braces are not followed.
fn named_of_client(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, path) in code.match_indices("client::") {
        let is_whole = !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let rest = &code[at + path.len()..];
        if !is_whole {
            continue;
        }
        let group = match rest.strip_prefix('{') {
            Some(group) => group.split_once('}').map_or(group, |(inside, _)| inside),
            None => rest.split(|after: char| !after.is_alphanumeric() && after != '_').next().unwrap_or_default(),
        };
        names.extend(group.split(',').map(|name| name.trim().split("::").next().unwrap_or_default().to_owned()));
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn names_are_found_in_paths_and_braces() {
    let code =
        "use carillon_proto::pb::{client::{self, Code, recipient::To}, link}; fn f(x: client::Send) { my_client::Y }";
    assert_eq!(named_of_client(code), ["self", "Code", "recipient", "Send"]);
}

/// A second protocol needs the same core, and the simulation drives it by its own time.
#[test]
fn the_gateways_core_names_no_frame_no_socket_and_no_clock() {
    for folder in CORE {
        let mut files = Vec::new();
        sources(&root().join(folder), &mut files);
        assert!(!files.is_empty(), "{folder} is not there");
        for path in files
            .iter()
            .filter(|path| !path.iter().any(|part| part.to_string_lossy().trim_end_matches(".rs").ends_with("tests")))
        {
            let text = fs::read_to_string(path).expect("source");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let shown = path.display();
            for name in named_of_client(&code) {
                assert!(WORDS.contains(&&*name), "{shown} names client::{name}");
            }
            let strange = ["tokio", "crate::transport", "crate::listener", "crate::dialect"];
            for word in strange.iter().chain(&["Instant::now", "SystemTime", "now_ms()", "TcpStream"]) {
                assert!(!code.contains(word), "{shown} has {word}");
            }
        }
    }
}

const CORE: [&str; 2] = ["gateway/src/conversation", "gateway/src/feeds"];
