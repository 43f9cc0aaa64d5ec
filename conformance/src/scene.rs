//! Scenes, and how they are written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

/// The frames that are played to a client, and those that it must send.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// The name of its file.
    pub name: String,
    /// The section of docs/protocol.md that has the rule.
    pub rule: String,
    /// The rule in one sentence.
    pub says: String,
    /// Abilities that the driver must have; see its first line.
    pub needs: Vec<String>,
    /// The client signs in with it, and not with a token.
    pub password: Option<String>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Counted from 1 in the file.
    pub line: usize,
    pub act: Act,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// The user does something: one line for the driver.
    User(Value),
    /// The next line of the driver has at least this.
    Shown(Value),
    /// The driver has said nothing else.
    ShownNothing,
    /// The client opens a connection.
    Connects,
    /// The client opens a connection and signs in; the answer has these fields beside the usual ones.
    SignsIn(Value),
    /// The next frame of the client has at least this.
    Says(Value),
    /// The client sends nothing for so long.
    SaysNothing(Duration),
    /// The client sends something within this time.
    SaysSomething(Duration),
    /// The client opens no connection for so long.
    StaysAway(Duration),
    /// The client ends its connection.
    Closes,
    /// The client is ended without a word.
    Killed,
    /// The client is started again, with the folder of before.
    Starts,
    /// The gateway sends frames, in one write.
    Server(Vec<Value>),
    /// The gateway sends a frame as a later release could send it: with fields that nobody knows.
    ServerLater(Value),
    /// The gateway sends the first half of a frame, and the connection breaks.
    ServerHalf(Value),
    /// The connection breaks.
    Cuts,
    /// The client asks by HTTP for this path, and gets this answer.
    Http(HttpStep),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpStep {
    pub get: String,
    pub status: u16,
    #[serde(default)]
    pub body: String,
}

#[derive(Debug, thiserror::Error)]
pub enum InvalidScene {
    #[error("can't read {path}: {why}")]
    Read { path: PathBuf, why: io::Error },
    #[error("{path}: {why}")]
    File { path: PathBuf, why: String },
    #[error("{path}, line {line}: {why}")]
    Line { path: PathBuf, line: usize, why: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rule: String,
    says: String,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    password: Option<String>,
    play: Spanned<String>,
}

/// Reads a scene, or all scenes of a folder (`*.toml`), by name.
pub fn read(path: &Path) -> Result<Vec<Scene>, InvalidScene> {
    let unread = |why| InvalidScene::Read { path: path.to_owned(), why };
    if !path.is_dir() {
        return Ok(vec![read_file(path)?]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unread)? {
        let file = entry.map_err(unread)?.path();
        if file.extension().is_some_and(|end| end == "toml") {
            files.push(file);
        }
    }
    files.sort_by(|one, other| one.file_stem().cmp(&other.file_stem()));
    files.iter().map(|file| read_file(file)).collect()
}

fn read_file(path: &Path) -> Result<Scene, InvalidScene> {
    let text = fs::read_to_string(path).map_err(|why| InvalidScene::Read { path: path.to_owned(), why })?;
    parse_as(path, &text)
}

/// A scene with the name of this file.
pub(crate) fn parse_as(path: &Path, text: &str) -> Result<Scene, InvalidScene> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    parse(&name, text).map_err(|wrong| match wrong {
        Wrong::File(why) => InvalidScene::File { path: path.to_owned(), why },
        Wrong::Line(line, why) => InvalidScene::Line { path: path.to_owned(), line, why },
    })
}

#[derive(Debug)]
enum Wrong {
    File(String),
    Line(usize, String),
}

fn parse(name: &str, text: &str) -> Result<Scene, Wrong> {
    let File { rule, says, needs, password, play } =
        toml::from_str(text).map_err(|error| Wrong::File(error.to_string()))?;
    // The play begins on the line behind its opening quotes.
    let start = text[..play.span().start].matches('\n').count() + 2;
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (line, written) in play.get_ref().lines().enumerate().map(|(number, line)| (start + number, line)) {
        if written.starts_with("  ") {
            let before =
                lines.last_mut().ok_or_else(|| Wrong::Line(line, "there is no line to continue".to_owned()))?;
            before.1.push(' ');
            before.1.push_str(written.trim());
        } else if !written.trim().is_empty() && !written.starts_with('#') {
            lines.push((line, written.trim().to_owned()));
        }
    }
    let step = |(line, written): (usize, String)| {
        let act = parse_act(&written).map_err(|why| Wrong::Line(line, why))?;
        Ok(Step { line, act })
    };
    let steps: Vec<Step> = lines.into_iter().map(step).collect::<Result<_, _>>()?;
    if steps.is_empty() {
        return Err(Wrong::File("the play has no step".to_owned()));
    }
    Ok(Scene { name: name.to_owned(), rule, says, needs, password, steps })
}

fn parse_act(written: &str) -> Result<Act, String> {
    let (who, what) = written.split_once(' ').ok_or("has no action: expected for example \"client connects\"")?;
    let what = what.trim();
    let unknown = || format!("{who:?} does not do {what:?}: see docs/examples/README.md");
    match who {
        "user" => Ok(Act::User(object(what)?)),
        "shown" if what == "nothing" => Ok(Act::ShownNothing),
        "shown" => Ok(Act::Shown(object(what)?)),
        "http" => serde_json::from_str(what).map(Act::Http).map_err(|error| error.to_string()),
        "client" => {
            if what.starts_with('{') {
                return Ok(Act::Says(object(what)?));
            }
            if let Some(more) = what.strip_prefix("signs in") {
                let more = more.trim();
                return Ok(Act::SignsIn(if more.is_empty() {
                    Value::Object(Default::default())
                } else {
                    object(more)?
                }));
            }
            if let Some(time) = what.strip_prefix("sends nothing for ") {
                return Ok(Act::SaysNothing(milliseconds(time)?));
            }
            if let Some(time) = what.strip_prefix("sends something within ") {
                return Ok(Act::SaysSomething(milliseconds(time)?));
            }
            if let Some(time) = what.strip_prefix("stays away for ") {
                return Ok(Act::StaysAway(milliseconds(time)?));
            }
            match what {
                "connects" => Ok(Act::Connects),
                "closes" => Ok(Act::Closes),
                "is killed" => Ok(Act::Killed),
                "starts" => Ok(Act::Starts),
                _ => Err(unknown()),
            }
        }
        "server" => {
            if let Some(frame) = what.strip_prefix("later ") {
                return Ok(Act::ServerLater(object(frame)?));
            }
            if let Some(frame) = what.strip_prefix("half ") {
                return Ok(Act::ServerHalf(object(frame)?));
            }
            if what == "cuts" {
                return Ok(Act::Cuts);
            }
            match json(what)? {
                Value::Array(frames) if !frames.is_empty() => Ok(Act::Server(frames)),
                frame @ Value::Object(_) => Ok(Act::Server(vec![frame])),
                _ => Err("is neither a frame nor a list of frames".to_owned()),
            }
        }
        _ => Err(format!("{who:?} is none of user, shown, client, server and http")),
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))
}

fn object(text: &str) -> Result<Value, String> {
    match json(text)? {
        object @ Value::Object(_) => Ok(object),
        _ => Err(format!("{text} is no JSON object")),
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.trim().strip_suffix("ms").map(str::trim).and_then(|number| number.parse().ok());
    number.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is no time: expected for example \"300 ms\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HEAD: &str = "rule = \"Sending\"\nsays = \"It is sent.\"\nneeds = [\"send\"]\nplay = '''\n";

    fn scene(play: &str) -> Result<Scene, Wrong> {
        parse("a-scene", &format!("{HEAD}{play}'''\n"))
    }

    #[test]
    fn a_scene_is_read_line_by_line() {
        let scene = scene(
            "# a comment\nclient signs in {\"heartbeatMs\": 5}\nuser {\"do\":\n  \"send\"}\nclient sends nothing for 20 ms\n",
        )
        .expect("valid");
        let expected = [
            (6, Act::SignsIn(json!({"heartbeatMs": 5}))),
            (7, Act::User(json!({"do": "send"}))),
            (9, Act::SaysNothing(Duration::from_millis(20))),
        ];
        assert_eq!(scene.steps, expected.map(|(line, act)| Step { line, act }));
        assert_eq!((scene.name.as_str(), scene.needs.len()), ("a-scene", 1));
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        for (play, at, why) in [
            ("client connects\nclient dances\n", 6, "does not do"),
            ("nobody knows\n", 5, "none of"),
            ("user [1]\n", 5, "no JSON object"),
            ("server {\n", 5, "EOF"),
            ("client sends nothing for ever\n", 5, "no time"),
            ("  {}\n", 5, "no line to continue"),
        ] {
            match scene(play).expect_err(play) {
                Wrong::Line(line, told) => assert!(line == at && told.contains(why), "{play}: {line}: {told}"),
                Wrong::File(told) => panic!("{play}: {told}"),
            }
        }
        assert!(matches!(scene(""), Err(Wrong::File(_))));
        assert!(matches!(parse("a", "rule = 1"), Err(Wrong::File(_))));
    }
}
