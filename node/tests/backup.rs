//! Backups of a running service, and what is there after a restore.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
};
use carillon_client::{Address, Client, ClientConfig, Credential};
use carillon_loadtest::{
    direct::{Direct, DirectConfig, SlowReaders},
    payload::Filling,
};
use carillon_proto::{
    TimelineId, UserId,
    pb::client::{Content, Direction, Text, content, recipient},
    tasks::Tasks,
};
use support::{
    cluster::Cluster,
    command::text,
    node::{Node, own_address, until},
    people::with_token,
    service::{CLUSTER_SECRET, Carrier, Service, TOKEN_SECRET},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `carillon backup` with the operator's secret.
fn backup(arguments: &[&str], folder: &Path) -> Output {
    command(arguments, folder).output().expect("the program starts")
}

fn command(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.arg("backup").args(arguments).args(["--set", &format!("cluster.secret={CLUSTER_SECRET}")]);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that must succeed. Returns what it printed.
fn done(arguments: &[&str], folder: &Path) -> String {
    let output = backup(arguments, folder);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must end with this code. Returns what it said.
fn ends_with(code: i32, arguments: &[&str], folder: &Path) -> String {
    let output = backup(arguments, folder);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

/// A service with a few messages, and a folder for its backups.
struct Copied {
    service: Service,
    folder: tempfile::TempDir,
    node: String,
}

impl Copied {
    fn new(messages: usize) -> Self {
        let service = Service::start("");
        let node = service.storage().to_string();
        let copied = Self { service, folder: tempfile::tempdir().expect("folder"), node };
        copied.send("first", messages);
        copied
    }

    /// Alice writes to bob.
    fn send(&self, what: &str, messages: usize) {
        self.service.block_on(async {
            with_token(&self.service, "bob").await;
            let mut alice = with_token(&self.service, "alice").await;
            for number in 0..messages {
                let name = format!("{what}-{number}");
                alice.send("bob", &name, &name).await.expect("accepted");
            }
        });
    }

    fn create(&self, name: &str) -> String {
        done(&["create", "--to", "backups", "--name", name, "--node", &self.node], self.path())
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The texts in a user's inbox, with the epoch.
async fn inbox(address: &Address, user: &str) -> (Vec<String>, u64) {
    let tasks = Tasks::new();
    let token = Credential::Token(carillon_loadtest::token::sign(TOKEN_SECRET, user));
    let (client, mut events) =
        Client::open(ClientConfig::new(vec![address.clone()], user, "reads", token), &tasks).expect("opens");
    // Nobody reads the messages that are delivered, and the client waits for that.
    tasks.spawn("events", async move { while events.next().await.is_some() {} });
    client.connected(PATIENCE).await.expect("signs in");
    let timeline = TimelineId::Inbox(UserId::new(user).expect("valid"));
    let (mut texts, mut epoch, mut from) = (Vec::new(), 0, 1);
    loop {
        let page = client.fetch(&timeline, Direction::Forward, from, 0).await.expect("a page");
        epoch = page.epoch.max(epoch);
        for entry in &page.entries {
            from = entry.seq + 1;
            let envelope = entry.envelope.as_ref().expect("an envelope");
            if let Some(Content { body: Some(content::Body::Text(Text { body })), .. }) = &envelope.content {
                let to = envelope.to.as_ref().and_then(|to| to.to.as_ref());
                let Some(recipient::To::User(to)) = to else { panic!("no user: {to:?}") };
                texts.push(format!("{}>{to}: {body}", envelope.sender));
            }
        }
        if page.complete || page.entries.is_empty() {
            break;
        }
    }
    client.close().await;
    tasks.finish(Duration::from_secs(5)).await;
    (texts, epoch)
}

#[test]
fn what_was_accepted_before_a_backup_is_there_after_a_restore() {
    let mut copied = Copied::new(30);
    let address = copied.service.address(Carrier::Tcp);
    let told = copied.create("one");
    assert!(told.contains("backup one of cluster") && told.contains("is whole"), "{told}");
    assert!(copied.create("one").contains("is whole already"), "it is made once");
    let listed = done(&["list", "--from", "backups"], copied.path());
    assert!(listed.contains("one") && listed.contains("whole"), "{listed}");
    let verified = done(&["verify", "--from", "backups"], copied.path());
    assert!(verified.contains("backup one is sound"), "{verified}");
    let private = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o077 == 0;
    assert!(private(&copied.path().join("backups")) && private(&copied.path().join("backups/one/manifest")));

    copied.send("later", 5);
    let (before, epoch) = copied.service.block_on(inbox(&address, "bob"));
    assert_eq!(before.len(), 35);
    copied.service.node.kill();
    let data = copied.service.data().join("storage");
    let into = data.to_str().expect("text").to_owned();
    let refused = ends_with(4, &["restore", "--from", "backups", "--name", "one", "--into", &into], copied.path());
    assert!(refused.contains("not empty"), "{refused}");
    fs::remove_dir_all(&data).expect("removed");
    let told = done(&["restore", "--from", "backups", "--name", "one", "--into", &into], copied.path());
    assert!(told.contains("is restored"), "{told}");
    copied.service.node.start_again();
    copied.service.node.wait_ready();

    copied.service.block_on(async {
        for user in ["alice", "bob"] {
            let (texts, now) = inbox(&address, user).await;
            assert_eq!(texts, before[..30], "{user}");
            assert_ne!(now, epoch, "devices that know later positions notice");
        }
        let mut alice = with_token(&copied.service, "alice").await;
        let again = alice.send("bob", "first-3", "first-3").await.expect("accepted before");
        assert_eq!(again.position.map(|position| position.seq), Some(4), "a repeat is still known");
        alice.send("bob", "new", "new").await.expect("accepted");
        assert_eq!(inbox(&address, "bob").await.0.len(), 31);
    });
    // The restored cluster is copied and started again like any other.
    let told = copied.create("two");
    assert!(told.contains("is whole"), "{told}");
    let kept =
        done(&["create", "--to", "backups", "--name", "three", "--node", &copied.node, "--keep", "1"], copied.path());
    assert!(
        kept.contains("removed: backup two") && !kept.contains("removed: backup one"),
        "of this cluster alone: {kept}"
    );
    let listed = done(&["list", "--from", "backups", "--json"], copied.path());
    let names: Vec<String> = listed
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["name"].as_str().expect("a name").to_owned()
        })
        .collect();
    assert_eq!(names, ["one", "three"]);
    let refused = ends_with(4, &["create", "--to", "backups", "--name", "one", "--node", &copied.node], copied.path());
    assert!(refused.contains("another cluster"), "{refused}");
    copied.service.node.terminate();
    copied.service.node.start_again();
    copied.service.node.wait_ready();
    assert_eq!(copied.service.block_on(inbox(&address, "bob")).0.len(), 31);
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn damage_is_found_and_not_restored_and_what_has_no_manifest_is_no_backup() {
    let copied = Copied::new(3);
    copied.create("one");
    let folder = copied.path().join("backups");
    let mut found = Vec::new();
    files(&folder, &mut found);
    assert!(found.len() > 40, "one for each shard, and the manifest");
    let restore = ["restore", "--from", "backups", "--name", "one", "--into", "new"];
    // The program runs for each, so not for each byte: unit tests have those.
    let (manifests, pieces): (Vec<_>, Vec<_>) = found.into_iter().partition(|path| path.ends_with("manifest"));
    let chosen = manifests.iter().chain(pieces.iter().step_by(13));
    for path in chosen {
        let sound = fs::read(path).expect("reads");
        let mut damaged = sound.clone();
        damaged[sound.len() / 2] ^= 0x04;
        fs::write(path, damaged).expect("writes");
        ends_with(3, &["verify", "--from", "backups", "--name", "one"], copied.path());
        ends_with(3, &restore, copied.path());
        let left = fs::read_dir(copied.path().join("new")).map_or(0, |left| left.count());
        assert!(left <= 1, "nothing but the lock is left");
        fs::write(path, sound).expect("writes");
    }
    let sound = fs::read(&pieces[7]).expect("reads");
    fs::remove_file(&pieces[7]).expect("removes");
    let why = ends_with(3, &restore, copied.path());
    assert!(why.contains("is missing"), "{why}");
    fs::write(&pieces[7], sound).expect("writes");
    let manifest = fs::read(&manifests[0]).expect("reads");
    fs::remove_file(&manifests[0]).expect("removes");
    for arguments in [&["verify", "--from", "backups"][..], &["verify", "--from", "backups", "--name", "one"], &restore]
    {
        ends_with(3, arguments, copied.path());
    }
    let listed = done(&["list", "--from", "backups"], copied.path());
    assert!(listed.contains("unfinished"), "{listed}");
    fs::write(&manifests[0], manifest).expect("writes");
    done(&restore, copied.path());
}

#[test]
fn a_backup_of_a_cluster_whose_leader_is_killed_has_everything_from_before() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let mut cluster = Cluster::start();
        let tasks = Tasks::new();
        let config = DirectConfig {
            run: "backup".to_owned(),
            addresses: cluster.addresses.clone(),
            users: 8,
            devices: 1,
            rate: Some(20.0),
            window: 64,
            bytes: 2000,
            filling: Filling::Repeated,
            send_timeout: PATIENCE,
            slow_readers: SlowReaders::default(),
        };
        let run = Direct::start(config, |user| cluster.token(user), &tasks).await.expect("load starts");
        until("some messages", PATIENCE, || run.accepted() > 500);
        let accepted = run.accepted();
        let folder = tempfile::tempdir().expect("folder");
        // Slow, so that the kill comes in the middle.
        let node = cluster.storage_addresses().remove(0);
        let arguments = ["create", "--to", "backups", "--name", "one", "--rate-bytes", "200000", "--node", &node];
        let creating = command(&arguments, folder.path()).spawn().expect("the program starts");
        let pieces = || {
            let mut found = Vec::new();
            let backups = folder.path().join("backups");
            if backups.exists() {
                files(&backups, &mut found);
            }
            found.len()
        };
        until("the backup to be in the middle", PATIENCE, || pieces() > 6);
        let leader = cluster.leader();
        cluster.storage[leader].kill();
        let output = tokio::task::spawn_blocking(|| creating.wait_with_output()).await.expect("waits").expect("ends");
        assert!(output.status.success(), "{}", text(&output.stderr));
        cluster.storage[leader].start_again();
        cluster.storage[leader].wait_ready();
        let report = run.finish(PATIENCE).await;
        tasks.finish(Duration::from_secs(5)).await;
        assert!(report.wrong().is_empty(), "the backup has harmed the service: {:?}", report.wrong().first());
        done(&["verify", "--from", "backups"], folder.path());
        drop(cluster);

        let data = folder.path().join("new/storage");
        let told = done(
            &["restore", "--from", "backups", "--name", "one", "--into", data.to_str().expect("text")],
            folder.path(),
        );
        println!("{told}");
        let ip = own_address();
        let config = format!(
            r#"
            data_dir = {:?}
            cluster.secret = "{CLUSTER_SECRET}"
            admin.listen = "{ip}:7400"
            storage.listen = "{ip}:7401"
            router.listen = "{ip}:7402"
            router.storage = ["{ip}:7401"]
            gateway.routers = ["{ip}:7402"]
            gateway.tcp.listen = "{ip}:7410"
            gateway.ws.listen = "{ip}:7411"
            gateway.grpc.listen = "{ip}:7412"
            gateway.jwt.keys = [{{ algorithm = "HS256", secret = "{TOKEN_SECRET}" }}]
            "#,
            folder.path().join("new")
        );
        let mut node = Node::start(folder.path(), "restored", "all", (ip, 7400).into(), &config);
        node.wait_ready();
        let address: Address = format!("tcp://{ip}:7410").parse().expect("address");
        let mut flows: BTreeMap<String, BTreeSet<(String, Vec<String>)>> = BTreeMap::new();
        let mut messages = BTreeSet::new();
        for number in 0..8 {
            let user = format!("backup-{number}");
            let (texts, _) = inbox(&address, &user).await;
            let mut of_user: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for text in texts {
                assert!(messages.insert((user.clone(), text.clone())), "{user} has twice: {text}");
                let flow = text.split_once(": ").expect("a flow").0.to_owned();
                of_user.entry(flow).or_default().push(text);
            }
            for (flow, texts) in of_user {
                flows.entry(flow).or_default().insert((user.clone(), texts));
            }
        }
        assert_eq!(flows.len(), 8);
        for (flow, copies) in &flows {
            let copies: Vec<_> = copies.iter().collect();
            assert_eq!(copies.len(), 2, "{flow} stands in two inboxes");
            assert!(copies[0].1 == copies[1].1, "{flow} is the same, in the same order, in both inboxes. {told}");
        }
        assert!(messages.len() as u64 / 2 >= accepted, "{} of {accepted} are there", messages.len() / 2);
        node.terminate();
    });
}

/// As much of S3 as backups need, in memory.
#[derive(Clone, Default)]
struct S3 {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

async fn s3(State(s3): State<S3>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let answer = |status: StatusCode, body: Body| {
        let answer = Response::builder().status(status).header("etag", "\"e\"");
        answer.header("last-modified", "Sun, 29 Nov 2026 06:00:00 GMT").body(body).expect("an answer")
    };
    assert!(headers.contains_key("authorization"), "each request is signed");
    let parts = uri.query().unwrap_or_default().split('&').filter_map(|part| part.split_once('='));
    let query: BTreeMap<_, _> = parts.map(|(key, value)| (key, value.replace("%2F", "/"))).collect();
    let mut objects = s3.objects.lock().expect("never poisoned");
    let path = uri.path().strip_prefix("/bucket").unwrap_or_default().trim_start_matches('/').to_owned();
    match method {
        Method::PUT if headers.contains_key("if-none-match") && objects.contains_key(&path) => {
            answer(StatusCode::PRECONDITION_FAILED, Body::empty())
        }
        Method::PUT => {
            objects.insert(path, body);
            answer(StatusCode::OK, Body::empty())
        }
        Method::POST if uri.query() == Some("delete") => {
            let named = text(&body);
            let named = named.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
            let mut deleted = String::new();
            for (path, _) in named {
                objects.remove(path);
                deleted.push_str(&format!("<Deleted><Key>{path}</Key></Deleted>"));
            }
            answer(StatusCode::OK, format!("<DeleteResult>{deleted}</DeleteResult>").into())
        }
        Method::GET if query.contains_key("list-type") => {
            let prefix = query.get("prefix").cloned().unwrap_or_default();
            let (mut names, mut folders) = (String::new(), BTreeSet::new());
            for (path, bytes) in objects.iter().filter(|(path, _)| path.starts_with(&prefix)) {
                match path[prefix.len()..].split_once('/').filter(|_| query.contains_key("delimiter")) {
                    Some((folder, _)) => drop(folders.insert(format!("{prefix}{folder}/"))),
                    None => names.push_str(&format!(
                        "<Contents><Key>{path}</Key><LastModified>2026-11-29T06:00:00.000Z</LastModified><ETag>e</ETag><Size>{}</Size></Contents>",
                        bytes.len()
                    )),
                }
            }
            let folders: String = folders
                .iter()
                .map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"))
                .collect();
            let list = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{names}{folders}</ListBucketResult>");
            answer(StatusCode::OK, list.into())
        }
        Method::GET => match objects.get(&path) {
            Some(bytes) => answer(StatusCode::OK, bytes.clone().into()),
            None => answer(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>".into()),
        },
        other => panic!("{other} {uri}"),
    }
}

#[test]
fn a_bucket_holds_backups_as_a_folder_does() {
    let copied = Copied::new(3);
    let storage = S3::default();
    let listener = copied.service.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    let tasks = Tasks::new();
    let router = Router::new().fallback(s3).with_state(storage.clone());
    copied.service.block_on(async {
        tasks.spawn("s3", async move {
            let _ = axum::serve(listener, router).await;
        });
    });
    let run = |arguments: &[&str], allowed: &str| {
        let mut command = command(arguments, copied.path());
        command.env("AWS_ENDPOINT_URL", &endpoint).env("AWS_REGION", "eu-central-1").env("AWS_ALLOW_HTTP", allowed);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        let output = command.output().expect("the program starts");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let place = "s3://bucket/some/where";
    let create = |name| ["create", "--to", place, "--name", name, "--node", &*copied.node, "--keep", "1"];
    for name in ["one", "two", "two"] {
        let (code, told, why) = run(&create(name), "true");
        assert_eq!(code, Some(0), "{why}");
        assert!(told.contains("is whole"), "{told}");
    }
    let (code, told, why) = run(&["list", "--from", place], "true");
    assert!(code == Some(0) && told.contains("two") && !told.contains("one"), "{told}{why}");
    assert!(storage.objects.lock().expect("never poisoned").keys().all(|path| path.starts_with("some/where/two/")));
    let (code, _, why) = run(&["verify", "--from", place], "true");
    assert_eq!(code, Some(0), "{why}");
    let (code, _, why) = run(&["restore", "--from", place, "--name", "two", "--into", "new"], "true");
    assert_eq!(code, Some(0), "{why}");
    assert!(copied.path().join("new/identity").exists());
    let (code, _, why) = run(&["list", "--from", place], "");
    assert!(
        code == Some(1) && why.contains("AWS_ALLOW_HTTP"),
        "nothing goes over the network in clear by mistake: {why}"
    );
    copied.service.block_on(tasks.finish(Duration::from_millis(10)));
}
