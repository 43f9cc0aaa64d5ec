//! What the operator gets of a user.

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use carillon_proto::pb::client::{Ack, Content, Deliver, Envelope, Text, client_frame::Body, content, server_frame};
use prost::Message as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::{
    command::text,
    node::until,
    people::{Device, PATIENCE, with_token},
    service::{CLUSTER_SECRET, Service},
};

/// Runs `carillon user` with the operator's secret.
fn user(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.arg("user").args(arguments).args(["--set", &format!("cluster.secret={CLUSTER_SECRET}")]);
    command.current_dir(folder).stdin(Stdio::null()).output().expect("the program starts")
}

fn ends_with(code: i32, arguments: &[&str], folder: &Path) -> (String, String) {
    let output = user(arguments, folder);
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    (told, said)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

async fn chat(from: &mut Device, to: &str, count: usize) {
    for number in 0..count {
        let name = format!("{to}-{number}");
        from.send(to, &name, &name).await.expect("accepted");
    }
}

#[test]
fn an_export_has_all_that_is_kept_of_a_user_and_nothing_of_others() {
    let service = Service::start("");
    let node = service.storage().to_string();
    let folder = tempfile::tempdir().expect("folder");
    service.block_on(async {
        let mut bob = with_token(&service, "bob").await;
        let mut carol = with_token(&service, "carol").await;
        let mut alice = with_token(&service, "alice").await;
        // More than one page.
        chat(&mut alice, "bob", 1100).await;
        chat(&mut bob, "alice", 3).await;
        chat(&mut carol, "bob", 2).await;
    });
    let (_, said) = ends_with(0, &["export", "alice", "--to", "alice", "--node", &node], folder.path());
    assert!(said.contains("1103 messages"), "{said}");
    let bytes = fs::read(folder.path().join("alice/export.jsonl")).expect("the lines");
    let found = lines(&text(&bytes));
    let manifest = fs::read_to_string(folder.path().join("alice/manifest.json")).expect("the manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&manifest["sha256"], &manifest["bytes"]), (&sum.into(), &bytes.len().into()));
    for file in ["alice", "alice/export.jsonl", "alice/manifest.json"] {
        let mode = fs::metadata(folder.path().join(file)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} is for its owner alone");
    }

    assert_eq!(found[0]["kind"], "export");
    assert_eq!(found.last().expect("lines")["kind"], "end");
    let account = &of_kind(&found, "account")[0];
    assert_eq!((&account["user"], &account["password"]), (&"alice".into(), &Value::Null));
    let messages = of_kind(&found, "message");
    assert_eq!(manifest["messages"], messages.len());
    let positions: Vec<u64> = messages.iter().map(|line| line["position"].as_u64().expect("a number")).collect();
    assert_eq!(positions, (1..=1103).collect::<Vec<_>>());
    let (sent, received): (Vec<&Value>, Vec<&Value>) =
        messages.iter().copied().partition(|line| line["direction"] == "sent");
    assert_eq!((sent.len(), received.len()), (1100, 3));
    for (number, line) in sent.iter().enumerate() {
        let body = format!("bob-{number}");
        assert_eq!(line["content"]["text"]["body"], body);
        assert_eq!((&line["from"], &line["to"]), (&"alice".into(), &"bob".into()));
        let stored = line["envelope"].as_str().expect("text");
        let stored = STANDARD.decode(stored).expect("base64");
        let stored = Envelope::decode(&*stored).expect("an envelope");
        assert_eq!(stored.content, Some(Content { body: Some(content::Body::Text(Text { body })) }));
    }
    assert!(!text(&bytes).contains("carol"), "others are no part of it");

    let (_, refused) = ends_with(4, &["export", "alice", "--to", "alice", "--node", &node], folder.path());
    assert!(refused.contains("not empty"), "{refused}");
    let (_, refused) = ends_with(4, &["export", "nobody", "--to", "nobody", "--node", &node], folder.path());
    assert!(refused.contains("there never was a user nobody"), "{refused}");
    assert!(!folder.path().join("nobody").exists());
    let (told, _) = ends_with(0, &["export", "bob", "--to", "-", "--node", &node], folder.path());
    let found = lines(&told);
    assert_eq!(of_kind(&found, "message").len(), 1105);
    assert_eq!(found.last().expect("lines")["last"], 1105);
}

#[test]
fn an_export_tells_of_sessions_devices_and_passwords_but_gives_no_secret() {
    let service = Service::start("");
    let node = service.storage().to_string();
    let folder = tempfile::tempdir().expect("folder");
    support::people::done(&service, &["user", "add", "dora", "--password-stdin"], "a long password of dora\n");
    service.block_on(async {
        let mut erik = with_token(&service, "erik").await;
        let mut dora = with_token(&service, "dora").await;
        let accepted = erik.send("dora", "1", "hello").await.expect("accepted");
        assert!(accepted.position.is_some());
        let body = loop {
            if let Some(server_frame::Body::Deliver(Deliver { timeline, position, .. })) = dora.frame().await {
                break Body::Ack(Ack { timeline, position });
            }
        };
        assert!(dora.say(body).await);
        let mut found = Vec::new();
        // The cursor is written a moment after the acknowledgement.
        until("the cursor to be written", PATIENCE, || {
            found = lines(&ends_with(0, &["export", "dora", "--to", "-", "--node", &node], folder.path()).0);
            !of_kind(&found, "device").is_empty()
        });
        let session = &of_kind(&found, "session")[0];
        assert_eq!(
            (&session["device"], &session["protocol"], &session["by"]),
            (&"d".into(), &"tcp".into(), &"token".into())
        );
        let device = &of_kind(&found, "device")[0];
        assert_eq!(
            (&device["device"], &device["timeline"], &device["position"]),
            (&"d".into(), &"inbox/dora".into(), &1.into())
        );
        let password = &of_kind(&found, "account")[0]["password"];
        assert_eq!(password["kept_as"], "SCRAM-SHA-256");
        assert_eq!(password.as_object().expect("an object").len(), 2, "neither salt nor keys: {password}");
    });
}
