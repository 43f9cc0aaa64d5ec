//! Data of a user, for the operator.

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use carillon_client::Credential;
use carillon_loadtest::{
    direct::{Direct, DirectConfig, SlowReaders},
    payload::Filling,
};
use carillon_proto::{
    pb::client::{Ack, Code, Content, Deliver, Entry, Envelope, Page, Text, client_frame::Body, content, server_frame},
    tasks::Tasks,
};
use prost::Message as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::{
    cluster::Cluster,
    command::text,
    node::until,
    people::{Device, PATIENCE, enter, with_token},
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
    let service = Service::start("gateway.sends_per_second = 100000\ngateway.send_burst = 100000");
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
        assert_eq!(
            stored.content,
            Some(Content { body: Some(content::Body::Text(Text { body })), ..Default::default() })
        );
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
        // A conversation begins with a message at the level of conversations, to which each shard rises by itself.
        let mut number = 1;
        while of_kind(&found, "conversation").is_empty() {
            number += 1;
            assert!(number < 300, "no conversation: {found:?}");
            erik.send("dora", &number.to_string(), "again").await.expect("accepted");
            found = lines(&ends_with(0, &["export", "dora", "--to", "-", "--node", &node], folder.path()).0);
        }
        let conversation = &of_kind(&found, "conversation")[0];
        assert_eq!((&conversation["with"], &conversation["pinned"]), (&"user/erik".into(), &false.into()));
    });
}

/// Positions, senders and texts of an inbox; `None` for the text of an erased message.
fn said(page: &Page) -> Vec<(u64, String, Option<String>)> {
    let of_entry = |entry: &Entry| {
        let envelope = entry.envelope.clone().expect("an envelope");
        let Some(content::Body::Text(Text { body })) = envelope.content.and_then(|content| content.body) else {
            panic!("every message has a text, for every client");
        };
        assert!(!envelope.id.is_empty() && envelope.time_ms > 0);
        assert_eq!(body.is_empty(), envelope.erased);
        (entry.seq, envelope.sender, (!envelope.erased).then_some(body))
    };
    page.entries.iter().map(of_entry).collect()
}

#[test]
fn an_erased_user_has_said_nothing_and_nobody_else_loses_a_word() {
    let mut service = Service::start("gateway.jwt.leeway_s = 0");
    let folder = tempfile::tempdir().expect("folder");
    let (node, router) = (service.storage().to_string(), service.router().to_string());
    let erase = |code, more: &[&str]| {
        let arguments = [&["erase", "mallory", "--router", &router, "--node", &node], more].concat();
        ends_with(code, &arguments, folder.path())
    };
    service.block_on(async {
        let (_, refused) = erase(4, &[]);
        assert!(refused.contains("there never was a user mallory"), "{refused}");
        let mut bob = with_token(&service, "bob").await;
        let mut carol = with_token(&service, "carol").await;
        let mut mallory = with_token(&service, "mallory").await;
        chat(&mut mallory, "bob", 30).await;
        chat(&mut bob, "mallory", 2).await;
        chat(&mut carol, "bob", 3).await;
        chat(&mut mallory, "carol", 4).await;
        let (_, refused) = erase(4, &["--status"]);
        assert!(refused.contains("nobody has ordered"), "{refused}");
        let before = said(&bob.history().await);

        let (_, told) = erase(5, &[]);
        assert!(told.contains("user mallory is erased") && told.contains("started again"), "{told}");
        assert_eq!(mallory.bye().await.0, Code::Unauthenticated, "the session is over");
        let expected: Vec<_> = before
            .into_iter()
            .map(|(seq, sender, text)| (seq, sender.clone(), text.filter(|_| sender != "mallory")))
            .collect();
        assert_eq!(said(&bob.history().await), expected);
        assert_eq!(expected.iter().filter(|(.., text)| text.is_none()).count(), 30);
        for more in [&[][..], &["--status"], &["--no-wait"]] {
            assert!(erase(5, more).1.contains("user mallory is erased"), "asked again: {more:?}");
        }
        let (found, _) = ends_with(0, &["export", "mallory", "--to", "-", "--node", &node], folder.path());
        assert_eq!(of_kind(&lines(&found), "message").len(), 0);
        let (found, _) = ends_with(0, &["export", "bob", "--to", "-", "--node", &node], folder.path());
        assert_eq!(of_kind(&lines(&found), "message").len(), 35);
        assert_eq!(found.matches("bob-").count(), 3 * 2, "client ids and texts, of carol alone");

        // The next owner of the name is somebody else.
        support::people::done(&service, &["user", "add", "mallory", "--no-password"], "");
        let mut mallory = support::people::with_new_token(&service, "mallory").await;
        chat(&mut mallory, "bob", 1).await;
        assert_eq!(mallory.history().await.entries.len(), 1);
        assert_eq!(said(&bob.history().await).last().expect("is there").2.as_deref(), Some("bob-0"));
    });
    service.node.terminate();
    service.node.start_again();
    service.node.wait_ready();
    let (told, _) = erase(0, &["--status"]);
    assert!(told.contains("off all disks"), "{told}");
    service.block_on(async {
        let mut bob = with_token(&service, "bob").await;
        assert_eq!(said(&bob.history().await).len(), 36, "the directory that was made anew knows everybody");
    });
}

/// True if a file in this folder has the bytes.
fn holds(folder: &Path, text: &str) -> bool {
    const PIECE: usize = 4096;
    fs::read_dir(folder).expect("lists").any(|entry| {
        let entry = entry.expect("lists");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return holds(&entry.path(), text);
        }
        // The file may have been deleted.
        let bytes = fs::read(entry.path()).unwrap_or_default();
        (0..bytes.len()).step_by(PIECE).any(|from| {
            let piece = &bytes[from..bytes.len().min(from + PIECE + text.len())];
            // Journals are mostly empty.
            piece.iter().any(|byte| *byte != 0) && piece.windows(text.len()).any(|part| part == text.as_bytes())
        })
    })
}

/// To bob, again while the service has too much to do.
async fn send(from: &mut Device, id: &str, text: &str) {
    loop {
        match from.send("bob", id, text).await {
            Ok(_) => return,
            Err(Code::Overloaded | Code::Unavailable | Code::RateLimited) => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Err(other) => panic!("refused: {other:?}"),
        }
    }
}

#[test]
fn under_load_what_was_erased_leaves_three_disks_and_the_checker_misses_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let mut cluster = Cluster::start();
        let tasks = Tasks::new();
        let config = DirectConfig {
            run: "erase".to_owned(),
            addresses: cluster.addresses.clone(),
            users: 8,
            devices: 1,
            rate: Some(20.0),
            window: 64,
            bytes: 400,
            filling: Filling::Repeated,
            send_timeout: PATIENCE,
            slow_readers: SlowReaders::default(),
        };
        let run = Direct::start(config, |user| cluster.token(user), &tasks).await.expect("starts");
        let token = |user: &str| Credential::Token(cluster.token(user));
        // Nothing can compress these, so they stand as they are in every file.
        let (secret, device) = ("7f3a9c5e1b8d2046e9a1c7b3f5d80924", "d5f1e7a93c0b48264b9a7d2e6f80c135");
        let mut bob = enter(&cluster.addresses[0], "bob", "d", &token("bob")).await.expect("signs in");
        let mut carol = enter(&cluster.addresses[0], "carol", "d", &token("carol")).await.expect("signs in");
        let mut mallory = enter(&cluster.addresses[1], "mallory", device, &token("mallory")).await.expect("signs in");
        for number in 0..20 {
            send(&mut mallory, &format!("m{number}"), &format!("{number} {secret}")).await;
            send(&mut carol, &format!("c{number}"), &format!("of carol {number}")).await;
        }
        let before = said(&bob.history().await);
        assert_eq!(before.len(), 40);
        let disks: Vec<_> = (0..3).map(|number| cluster.data(&format!("storage-{number}")).join("storage")).collect();
        for text in [secret, device] {
            assert!(disks.iter().all(|disk| holds(disk, text)), "this test looks in the wrong place");
        }
        let (routers, nodes) = (cluster.router_addresses(), cluster.storage_addresses());
        let folder = tempfile::tempdir().expect("folder");
        let erase = |code: i32, more: &str| {
            let mut arguments = vec!["erase", "mallory", "--router", &routers[0], "--timeout", "300"];
            nodes.iter().for_each(|node| arguments.extend(["--node", node]));
            arguments.extend((!more.is_empty()).then_some(more));
            ends_with(code, &arguments, folder.path())
        };
        // The leader dies while it is at it.
        erase(5, "--no-wait");
        let leader = cluster.leader();
        cluster.storage[leader].kill();
        cluster.storage[leader].start_again();
        cluster.storage[leader].wait_ready();
        let (_, told) = tokio::task::block_in_place(|| erase(5, ""));
        assert!(told.contains("started again"), "{told}");
        for disk in &disks {
            assert!(!holds(disk, secret), "{} has what was said", disk.display());
        }
        let report = run.finish(PATIENCE).await;
        tasks.finish(Duration::from_secs(5)).await;
        assert!(report.wrong().is_empty(), "the erasure has harmed others: {:?}", report.wrong().first());
        let left: Vec<_> = before
            .into_iter()
            .map(|(seq, sender, text)| (seq, sender.clone(), text.filter(|_| sender != "mallory")))
            .collect();
        assert_eq!(said(&bob.history().await), left);
        for number in 0..3 {
            cluster.storage[number].terminate();
            cluster.storage[number].start_again();
            cluster.storage[number].wait_ready();
        }
        let (told, _) = erase(0, "");
        assert!(told.contains("off all disks"), "{told}");
        for disk in &disks {
            assert!(!holds(disk, secret) && !holds(disk, device), "{} has something of mallory", disk.display());
        }
    });
}
