//! The scenes of docs/examples, as part of the program.

use std::path::Path;

use crate::{InvalidScene, Scene, scene::parse_as};

macro_rules! scenes {
    ($($name:literal),* $(,)?) => {
        const SCENES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../docs/examples/", $name, ".toml")))),*];
    };
}

scenes! {
    "acknowledge-what-is-safe",
    "after-a-refused-one",
    "another-epoch",
    "answer-lost",
    "bye-drain",
    "bye-for-good",
    "contacts-missed",
    "conversations-again",
    "conversations-missed",
    "edited",
    "edited-twice",
    "erased",
    "expired",
    "file-url",
    "gap",
    "half-frame",
    "heartbeat",
    "history",
    "ids-after-a-start",
    "later-codes",
    "later-fields",
    "later-frame",
    "outbox",
    "password-signature",
    "position-ahead",
    "position-ahead-lost",
    "position-of-own",
    "position-once",
    "presence-again",
    "presence-late",
    "privacy-missed",
    "rate",
    "recalled",
    "refused-for-good",
    "refused-for-now",
    "renewal-refused",
    "scheduled-once",
    "send-again",
    "sign-in",
    "sign-in-numbers",
    "sign-out",
    "ticket",
    "ticket-refused",
    "ticket-unknown",
    "trimmed",
    "typing-forgotten",
    "typing-not-offered",
    "typing-until-the-message",
    "window",
    "wrong-credential",
}

/// The scenes of docs/examples, by name.
pub fn own() -> Result<Vec<Scene>, InvalidScene> {
    let scene = |(name, text): &(&str, &str)| parse_as(Path::new(&format!("docs/examples/{name}.toml")), text);
    SCENES.iter().map(scene).collect()
}
