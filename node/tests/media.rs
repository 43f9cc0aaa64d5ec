//! Files by the command line and the client library, over two gateways.

mod support;

use std::{io::Cursor, path::Path, process::Command, time::Duration};

use carillon_client::{Change, Client, ClientConfig, Credential, Event, Events, FetchError, NewFile, Target};
use carillon_pictures::tells_place;
use carillon_proto::{
    MediaReference, TimelineId, UserId,
    pb::client::{ChangeMembers, Code, Content, CreateGroup, Envelope, Media, content::Body, members_change::Kind},
    tasks::Tasks,
};
use image::{
    DynamicImage, ExtendedColorType, ImageEncoder as _, ImageFormat, Rgb, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};
use sha2::{Digest as _, Sha256};
use support::{cluster::Cluster, node::until, service::Service};
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

fn carillon(cluster: &Cluster, gateway: usize, user: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(args).args(["--url", &cluster.addresses[gateway].to_string()]);
    let output = command.env("CARILLON_TOKEN", cluster.token(user)).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

async fn enter(cluster: &Cluster, gateway: usize, user: &str, tasks: &Tasks) -> (Client, Events) {
    let credential = Credential::Token(cluster.token(user));
    let config = ClientConfig::new(vec![cluster.addresses[gateway].clone()], user, "phone", credential);
    let (client, events) = Client::open(config, tasks).expect("opens");
    client.connected(PATIENCE).await.expect("signs in");
    (client, events)
}

/// The next message with a file: its timeline, its position, and the file.
async fn hears(events: &mut Events) -> (TimelineId, u64, Media) {
    let (timeline, seq, _, media) = hears_message(events).await;
    (timeline, seq, media)
}

/// The same, with the message.
async fn hears_message(events: &mut Events) -> (TimelineId, u64, Envelope, Media) {
    let hears = async {
        loop {
            let Some(Event::Delivered { timeline, position, envelope }) = events.next().await else { continue };
            let body = envelope.content.as_ref().and_then(|content| content.body.clone());
            if let Some(Body::File(media) | Body::Image(media)) = body {
                return (timeline, position.seq, envelope, media);
            }
        }
    };
    timeout(PATIENCE, hears).await.expect("a file in time")
}

fn code<T>(result: Result<T, FetchError>) -> Option<Code> {
    match result {
        Err(FetchError::Refused(refusal)) => Some(refusal.code),
        _ => None,
    }
}

#[test]
fn a_file_goes_over_two_gateways_to_who_can_read_the_message_and_to_nobody_else() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let tasks = Tasks::new();
        let (alice, _) = enter(&cluster, 0, "alice", &tasks).await;
        let (bob, mut bobs) = enter(&cluster, 1, "bob", &tasks).await;
        let (carol, _) = enter(&cluster, 1, "carol", &tasks).await;
        // More than one chunk.
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|at| (at * 7 / 5) as u8).collect();
        let new = NewFile { size_bytes: bytes.len() as u64, media_type: "x/y".into(), name: "data.bin".into() };
        let uploaded = alice.upload(new, &mut Cursor::new(bytes.clone())).await.expect("uploaded");
        assert_eq!((uploaded.size_bytes, &*uploaded.name), (bytes.len() as u64, "data.bin"));
        let id = uploaded.id;
        let made = alice.create_group(None, CreateGroup { settings: None, members: vec!["bob".into()] }).await;
        let group = made.expect("made");
        let file = |id| Content { body: Some(Body::File(Media { id, ..Media::default() })), ..Default::default() };
        alice.send(Client::group(group.as_str()), file(id)).await.expect("accepted");

        let (timeline, seq, media) = hears(&mut bobs).await;
        assert_eq!(timeline, TimelineId::Group(group.clone()));
        let mut got = Vec::new();
        let told = bob.download(&media.id, Some((&timeline, seq)), 0, &mut got).await.expect("downloaded");
        assert!(got == bytes && told.name == "data.bin", "{} bytes of {told:?}", got.len());
        let mut end = Vec::new();
        bob.download(&media.id, Some((&timeline, seq)), 4_999_990, &mut end).await.expect("downloaded");
        assert_eq!(end, bytes[4_999_990..]);
        // Carol knows the id, and is no member.
        assert_eq!(code(carol.media_url(&media.id, Some((&timeline, seq))).await), Some(Code::NotFound));
        assert_eq!(code(carol.media_url(&media.id, None).await), Some(Code::NotFound));
        // Nor is Bob any more.
        let ban = ChangeMembers { kind: Kind::Banned.into(), users: vec!["bob".into()], ..ChangeMembers::default() };
        alice.change_group(&group, Change::Members(ban)).await.expect("banned");
        let may = async {
            while bob.media_url(&media.id, Some((&timeline, seq))).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, may).await.expect("who is banned reads nothing");
    });
}

#[test]
fn the_command_line_sends_a_file_and_gets_it() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().expect("folder");
    let (sent, got) = (folder.path().join("cat.png"), folder.path().join("got.png"));
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR and so on";
    std::fs::write(&sent, png).expect("writes");
    let runtime = Runtime::new().expect("runtime");
    let (position, media) = runtime.block_on(async {
        let tasks = Tasks::new();
        let (_bob, mut bobs) = enter(&cluster, 0, "bob", &tasks).await;
        let path = sent.to_string_lossy();
        carillon(&cluster, 1, "alice", &["send", "alice", "bob", "look", "--file", &path]).expect("sent");
        let (timeline, seq, media) = hears(&mut bobs).await;
        assert_eq!(timeline, TimelineId::Inbox(UserId::new("bob").expect("valid")));
        (seq, media)
    });
    assert_eq!((&*media.name, &*media.caption, media.size_bytes), ("cat.png", "look", png.len() as u64));
    let (position, path) = (position.to_string(), got.to_string_lossy().into_owned());
    let get = || carillon(&cluster, 1, "bob", &["media", "get", "--as", "bob", &position, "--output", &path]);
    let said = get().expect("got");
    assert!(said.contains("image/png"), "{said}");
    assert_eq!(std::fs::read(&got).expect("reads"), png);
    let again = get().expect_err("it is there");
    assert!(again.contains("File exists"), "{again}");
}

#[test]
fn over_tcp_the_command_line_finds_the_files_of_a_process_alone() {
    let service = Service::start("");
    let file = service.data().join("note.txt");
    std::fs::write(&file, "hello").expect("writes");
    let (tcp, ws) = (service.tcp(), service.ws());
    let here = [format!("gateway.tcp.listen={tcp}"), format!("gateway.ws.listen={ws}")];
    let path = file.to_string_lossy();
    let send = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args(["send", "alice", "alice", "--file", &path]).args(more);
        let output = command.env("CARILLON_TOKEN", service.token("alice")).output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let sent = send(&["--set", &here[0], "--set", &here[1]]);
    assert!(sent.0, "{}", sent.1);
    // Somewhere else nobody knows where files are, until somebody says so.
    let url = format!("tcp://{tcp}");
    let (is_sent, why) = send(&["--url", &url]);
    assert!(!is_sent && why.contains("names no host for files"), "{why}");
    let sent = send(&["--url", &url, "--media-url", &format!("http://{ws}")]);
    assert!(sent.0, "{}", sent.1);
}

/// EXIF of a phone: turn it by a quarter to the right, and a place.
const EXIF: &[u8] =
    b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x88\x25\0\x04\0\0\0\x01\0\0\0\x26\0\0\0\0";

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

#[test]
fn a_photo_arrives_with_a_preview_and_without_its_place() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().expect("folder");
    let (sent, got) = (folder.path().join("photo.jpg"), folder.path().join("got.jpg"));
    let plain = encoded(&RgbImage::from_pixel(800, 400, Rgb([200, 10, 10])).into(), ImageFormat::Jpeg);
    let length = (EXIF.len() as u16 + 2).to_be_bytes();
    let photo = [&plain[..2], &[0xff, 0xe1], &length, EXIF, &plain[2..]].concat();
    assert!(tells_place(&photo));
    std::fs::write(&sent, &photo).expect("writes");
    let runtime = Runtime::new().expect("runtime");
    let (position, media) = runtime.block_on(async {
        let tasks = Tasks::new();
        let (_bob, mut bobs) = enter(&cluster, 0, "bob", &tasks).await;
        carillon(&cluster, 1, "alice", &["send", "alice", "bob", "--file", &sent.to_string_lossy()]).expect("sent");
        let (_, seq, media) = hears(&mut bobs).await;
        (seq.to_string(), media)
    });
    assert_eq!((media.width, media.height, &*media.media_type), (400, 800, "image/jpeg"), "as it is seen");
    let preview = image::load_from_memory_with_format(&media.preview, ImageFormat::Jpeg).expect("a preview").to_rgb8();
    assert_eq!((preview.width(), preview.height()), (160, 320));
    assert!(preview.get_pixel(80, 160).0[0] > 180, "{:?}", preview.get_pixel(80, 160));
    let path = got.to_string_lossy();
    carillon(&cluster, 0, "bob", &["media", "get", "--as", "bob", &position, "--output", &path]).expect("got");
    let bytes = std::fs::read(&got).expect("reads");
    assert!(!tells_place(&bytes) && bytes.len() < photo.len());
    assert_eq!(bytes.len() as u64, media.size_bytes);
    assert_eq!(Sha256::digest(&bytes)[..], media.sha256[..]);
    // A worker removes what was uploaded.
    let uploaded = |name: &str| !name.contains('-') && name.len() == 6;
    until("only the picture without its place is kept", PATIENCE, || {
        let names = files_below(&cluster.data("files"));
        !names.is_empty() && !names.iter().any(|name| uploaded(name))
    });
}

#[test]
fn an_export_has_the_files_of_its_user_and_an_erasure_removes_them() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().expect("folder");
    let plain = encoded(&RgbImage::new(60, 60).into(), ImageFormat::Jpeg);
    let length = (EXIF.len() as u16 + 2).to_be_bytes();
    let photo = [&plain[..2], &[0xff, 0xe1], &length, EXIF, &plain[2..]].concat();
    // More than one chunk.
    let large: Vec<u8> = (0..5_000_000_u32).map(|at| (at * 7 / 5) as u8).collect();
    let runtime = Runtime::new().expect("runtime");
    let ids = runtime.block_on(async {
        let tasks = Tasks::new();
        let (alice, _) = enter(&cluster, 0, "alice", &tasks).await;
        let (bob, _) = enter(&cluster, 1, "bob", &tasks).await;
        let mut ids = Vec::new();
        for (user, name, bytes) in [(&alice, "photo.jpg", &photo), (&alice, "data.bin", &large), (&bob, "x", &large)] {
            let new = NewFile { size_bytes: bytes.len() as u64, media_type: "x/y".into(), name: name.into() };
            let media = user.upload(new, &mut Cursor::new(bytes.clone())).await.expect("uploaded");
            ids.push(MediaReference::from_bytes(&media.id).expect("a reference").id().to_string());
        }
        alice.close().await;
        ids
    });
    let export = folder.path().join("alice");
    let place = format!("media.place={}", cluster.data("files").display());
    let to = export.to_string_lossy();
    let export_of = ["user", "export", "alice", "--to", &to, "--files"];
    let refused = cluster.storage[0].command(&export_of).expect_err("it does not know where files are");
    assert!(refused.contains("media.place"), "{refused}");
    cluster.storage[0].command(&[&export_of[..], &["--set", &place]].concat()).expect("exported");
    let lines = std::fs::read_to_string(export.join("export.jsonl")).expect("lines");
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let files: Vec<_> = lines.iter().filter(|line| line["kind"] == "file").collect();
    assert_eq!((files.len(), &lines.last().expect("an end")["files"]), (2, &2.into()));
    for (id, name, bytes) in [(&ids[0], "photo.jpg", &plain), (&ids[1], "data.bin", &large)] {
        let line = files.iter().find(|line| line["id"] == **id).expect("listed");
        assert_eq!((&line["name"], &line["whole"]), (&name.into(), &true.into()));
        let got = std::fs::read(export.join(line["path"].as_str().expect("a path"))).expect("its bytes");
        assert_eq!(got.len() as u64, line["size_bytes"].as_u64().expect("a number"));
        assert!(if name == "data.bin" { got == *bytes } else { !tells_place(&got) }, "{name}");
    }
    assert_eq!(std::fs::read_dir(export.join("files")).expect("reads").count(), 2, "what is bob's is not alice's");

    // The command ends with code 5, as it has begun.
    let _ = cluster.routers[0].command(&["user", "erase", "alice", "--no-wait"]);
    let is_kept = |id: &str| {
        let shards = std::fs::read_dir(cluster.data("files")).into_iter().flatten().flatten();
        shards.map(|shard| files_below(&shard.path().join(id)).len()).sum::<usize>() > 0
    };
    assert!(is_kept(&ids[2]));
    until("the bytes of alice's files to be removed", Duration::from_secs(90), || {
        !is_kept(&ids[0]) && !is_kept(&ids[1])
    });
    assert!(is_kept(&ids[2]), "bob's stay");
}

/// Uploads a small file. Returns the reference of its message, and its id.
async fn uploaded(client: &Client, name: &str) -> (bytes::Bytes, String) {
    let new = NewFile { size_bytes: 5, media_type: "x/y".into(), name: name.into() };
    let media = client.upload(new, &mut Cursor::new(b"bytes".to_vec())).await.expect("uploaded");
    let id = MediaReference::from_bytes(&media.id).expect("a reference").id().to_string();
    (media.id, id)
}

#[test]
fn a_file_goes_with_the_last_message_that_refers_to_it_and_stays_while_one_is_forwarded() {
    let cluster = Cluster::start_with("storage.retention.unreferenced_media_ms = 10000\n");
    let is_kept = |id: &str| {
        let shards = std::fs::read_dir(cluster.data("files")).into_iter().flatten().flatten();
        shards.map(|shard| files_below(&shard.path().join(id)).len()).sum::<usize>() > 0
    };
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let tasks = Tasks::new();
        let (alice, _) = enter(&cluster, 0, "alice", &tasks).await;
        let (bob, mut bobs) = enter(&cluster, 1, "bob", &tasks).await;
        let (carol, mut carols) = enter(&cluster, 0, "carol", &tasks).await;
        let file = |id| Content { body: Some(Body::File(Media { id, ..Media::default() })), ..Default::default() };
        let (goes, stays) = (uploaded(&alice, "goes").await, uploaded(&alice, "stays").await);
        let unsent = uploaded(&alice, "unsent").await;
        let inbox = TimelineId::Inbox(UserId::new("alice").expect("valid"));
        for (reference, id) in [&goes, &stays] {
            alice.send(Client::user("bob"), file(reference.clone())).await.expect("accepted");
            let (_, _, envelope, media) = hears_message(&mut bobs).await;
            assert_eq!(media.id, *reference);
            if *id == stays.1 {
                bob.send(Client::user("carol"), file(media.id)).await.expect("accepted");
            }
            let target = Target::of(&inbox, 0, &envelope).expect("a message");
            alice.recall(&target, true).await.expect("recalled");
        }
        let (timeline, seq, media) = hears(&mut carols).await;
        until("files to which nothing refers to be removed", Duration::from_secs(120), || {
            !is_kept(&goes.1) && !is_kept(&unsent.1)
        });
        let place = Some((&timeline, seq));
        let mut got = Vec::new();
        carol.download(&media.id, place, 0, &mut got).await.expect("downloaded");
        assert!(got == b"bytes" && is_kept(&stays.1));
        // Of what is gone nothing counts any more.
        let listed = cluster.storage[0].command(&["media", "list", "alice", "--json"]).expect("listed");
        let lines: Vec<serde_json::Value> =
            listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 1, "{listed}");
        assert_eq!((&lines[0]["id"], &lines[0]["name"]), (&stays.1.clone().into(), &"stays".into()));
    });
    let removed: f64 = cluster.routers.iter().map(|router| router.metric("carillon_router_media_checked_total")).sum();
    assert!(removed >= 2.0, "{removed} files were looked for");
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => names.extend(files_below(&path)),
            path => names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned())),
        }
    }
    names
}

/// A PNG of this many grey pixels a side, all of them black, and as small as it can be.
fn bomb(side: u32) -> Vec<u8> {
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::NoFilter);
    encoder.write_image(&vec![0; (side * side) as usize], side, side, ExtendedColorType::L8).expect("encodes");
    png
}

/// Says that it has this many pixels a side, and has hardly any.
fn hollow(side: u32) -> Vec<u8> {
    let mut png = encoded(&RgbImage::new(8, 8).into(), ImageFormat::Png);
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let checksum = crc32fast::hash(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&checksum);
    png
}

/// An animation that begins with these sides, and has many pictures.
fn animation(side: u16) -> Vec<u8> {
    let mut gif = [b"GIF89a", &side.to_le_bytes()[..], &side.to_le_bytes(), &[0x80, 0, 0], &[0; 6]].concat();
    for _ in 0..50_000 {
        gif.extend_from_slice(b"\x2c\0\0\0\0");
        gif.extend_from_slice(&side.to_le_bytes());
        gif.extend_from_slice(&side.to_le_bytes());
        gif.extend_from_slice(b"\0\x02\x02\x44\x01\0");
    }
    gif.push(b';');
    gif
}

fn resident_peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).expect("told");
    line.trim().parse().expect("a number")
}

#[test]
fn pictures_that_are_bombs_are_kept_and_hurt_nobody() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    let gateway = &cluster.gateways[1];
    let before_kib = resident_peak_kib(gateway.pid());
    runtime.block_on(async {
        let tasks = Tasks::new();
        let (alice, _) = enter(&cluster, 0, "alice", &tasks).await;
        let upload = async |bytes: Vec<u8>| {
            let new = NewFile { size_bytes: bytes.len() as u64, media_type: "image/png".into(), name: "b".into() };
            let mut bytes = Cursor::new(bytes);
            timeout(PATIENCE, alice.upload(new, &mut bytes)).await.expect("in time").expect("kept")
        };
        // 225 million pixels in some 200 KiB, which is more than the process may have.
        let (large, hollow, many) = (bomb(15_000), hollow(60_000), animation(60_000));
        assert!(large.len() < 1 << 20, "{} bytes", large.len());
        let bombs = tokio::join!(upload(large), upload(hollow), upload(many));
        for (media, side) in [(bombs.0, 15_000), (bombs.1, 60_000), (bombs.2, 60_000)] {
            assert_eq!((media.width, media.height, media.preview.len()), (side, side, 0));
        }
        // Whoever comes next is served.
        let plain = encoded(&RgbImage::new(400, 400).into(), ImageFormat::Png);
        assert!(!upload(plain).await.preview.is_empty());
    });
    let grown_kib = resident_peak_kib(gateway.pid()) - before_kib;
    assert!(grown_kib < 64 << 10, "the gateway has grown by {grown_kib} KiB");
}
