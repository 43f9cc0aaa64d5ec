//! The scenes of docs/examples, and how they hang together with docs/protocol.md.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use carillon_conformance::{Act, Scene, World, build, own, read};
use serde_json::Value;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn protocol() -> String {
    fs::read_to_string(docs().join("protocol.md")).expect("the page")
}

/// The text of each section, by its heading.
fn sections(page: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in page.lines() {
        if line.starts_with('#') {
            sections.push((line.trim_start_matches('#').trim().to_owned(), String::new()));
        } else if let Some((_, text)) = sections.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    sections
}

#[test]
fn the_program_has_all_scenes_of_the_folder() {
    let (own, folder) = (own().expect("valid"), read(&docs().join("examples")).expect("valid"));
    let names = |scenes: &[Scene]| scenes.iter().map(|scene| scene.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&own), names(&folder));
    assert!(own == folder, "conformance/src/own.rs is older than the folder");
}

/// Both ways: each scene stands in the section of its rule, and each scene that the page names exists.
#[test]
fn each_scene_stands_at_its_rule_in_the_protocol() {
    let page = protocol();
    let sections = sections(&page);
    let scenes = own().expect("valid");
    for scene in &scenes {
        let found = sections.iter().find(|(heading, _)| *heading == scene.rule);
        let (_, text) = found.unwrap_or_else(|| panic!("{}: there is no section {:?}", scene.name, scene.rule));
        let link = format!("[{0}](examples/{0}.toml)", scene.name);
        assert!(text.contains(&link), "{} is not named in the section {:?}", scene.name, scene.rule);
    }
    let named = page.split("](examples/").skip(1).filter_map(|rest| rest.split_once(".toml)"));
    let named: BTreeSet<&str> = named.map(|(name, _)| name).collect();
    let known: BTreeSet<&str> = scenes.iter().map(|scene| scene.name.as_str()).collect();
    assert_eq!(named, known);
}

/// Abilities that scenes need are in the list of the page about drivers.
#[test]
fn what_scenes_need_is_described() {
    let page = fs::read_to_string(docs().join("examples/README.md")).expect("the page");
    for scene in own().expect("valid") {
        for needed in &scene.needs {
            assert!(page.contains(&format!("| `{needed}` |")), "{needed} of {}", scene.name);
        }
    }
}

/// A value that stands for each name in a frame.
fn filled(frame: &Value) -> Value {
    match frame {
        Value::String(text) if text.starts_with("$now") => "1".into(),
        // Numbers of requests, and ids.
        Value::String(text) if ["$request", "$first", "$second", "$instance"].contains(&text.as_str()) => 1.into(),
        Value::String(text) if text.starts_with('$') => "x".into(),
        Value::Array(items) => items.iter().map(filled).collect(),
        Value::Object(fields) => {
            let given = fields.iter().filter(|(_, value)| value.as_str() != Some(""));
            given.map(|(name, value)| (name.clone(), filled(value))).collect()
        }
        other => other.clone(),
    }
}

/// Each frame of the gateway is one, without names that the protocol does not have, and so is each pattern of a client's frame.
#[test]
fn every_frame_of_every_scene_is_one() {
    for scene in own().expect("valid") {
        let mut world = World::new("alice", "phone");
        for step in &scene.steps {
            let frames = match &step.act {
                Act::Server(frames) => frames.clone(),
                Act::ServerLater(frame) | Act::ServerHalf(frame) => vec![frame.clone()],
                Act::SignsIn(more) => vec![serde_json::json!({"signedIn": more})],
                _ => Vec::new(),
            };
            for frame in frames {
                let mut frame = filled(&frame);
                world.complete(&mut frame, 1);
                let made = build(&frame, matches!(step.act, Act::ServerLater(_)));
                made.unwrap_or_else(|why| panic!("{}, line {}: {why}", scene.name, step.line));
            }
            if let Act::Says(pattern) = &step.act {
                let text = filled(pattern).to_string().replace("\"*\"", "\"AAAA\"");
                carillon_gateway::reading::read_json(&text)
                    .unwrap_or_else(|why| panic!("{}, line {}: {why}", scene.name, step.line));
            }
        }
    }
}
