//! Pictures: what they tell of their place goes, and previews are made by a process that may do what it likes.

use std::time::{Duration, Instant};

use carillon_media::{CHUNK_BYTES, Files, ToldPlace};
use carillon_proto::{MediaReference, pb::client};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::media::{Answer, Play, http, http_chunk, play, play_with, slot, url};

const PATIENCE: Duration = Duration::from_secs(20);
const PLACE: &[u8] = b"xmp:GPSLatitude=52.5";

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32).to_be_bytes(), &kind[..], data, b"crc!"].concat()
}

/// A PNG whose pixels are these bytes, with these chunks before them. Nobody decodes it.
fn png(told: &[u8], pixels: &[u8]) -> Vec<u8> {
    let begin = [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &[1; 13])].concat();
    [&*begin, told, &chunk(b"IDAT", pixels), &chunk(b"IEND", b"")].concat()
}

fn told() -> Vec<u8> {
    chunk(b"tEXt", PLACE)
}

/// A user of this name uploads these bytes at once.
async fn uploaded(play: &Play, user: &str, bytes: &[u8]) -> Answer {
    let mut alice = play.world.client(user, "a").await;
    let place = slot(&mut alice, bytes.len()).await;
    http(play.http, "PUT", &place.url, &[], bytes).await
}

fn media(answer: &Answer) -> client::Media {
    assert_eq!((answer.status, answer.header("content-type")), (201, Some("application/json")), "{}", answer.head);
    serde_json::from_slice(&answer.body).expect("what a message says of a file")
}

#[tokio::test]
async fn a_picture_does_not_tell_where_it_was_made() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    // Two chunks before and after.
    let pixels = vec![7; CHUNK_BYTES as usize + 1000];
    let (before, after) = (png(&told(), &pixels), png(b"", &pixels));
    let place = slot(&mut alice, before.len()).await;
    let put = http(play.http, "PUT", &place.url, &[], &before).await;
    let first = media(&put);
    assert_eq!((&*first.media_type, first.size_bytes), ("image/png", after.len() as u64));
    assert_eq!((first.sha256.len(), first.width, first.preview.len()), (32, 0, 0), "nobody has looked at it");
    assert_eq!(put.header("upload-offset"), Some(before.len().to_string().as_str()));
    let told = url(&mut alice, &place.id, None).await.expect("whole");
    assert_eq!(told.size_bytes, after.len() as u64);
    let got = http(play.http, "GET", &told.url, &[], b"").await;
    assert!(got.status == 200 && got.body == after, "{}", got.head);
    let part = format!("Range: bytes={}-{}", CHUNK_BYTES - 3, CHUNK_BYTES + 2);
    let part = http(play.http, "GET", &told.url, &[&part], b"").await;
    assert_eq!(part.body, after[CHUNK_BYTES as usize - 3..CHUNK_BYTES as usize + 3]);

    // The uploaded bytes are removed. A client that did not hear that the file is whole hears it now, and nothing else can be put there.
    let id = MediaReference::from_bytes(&place.id).expect("a reference").id();
    Files::in_folder(play.folder.path()).expect("opens").remove_uploaded(&id).await.expect("removed");
    let head = http(play.http, "HEAD", &place.url, &[], b"").await;
    assert_eq!(head.header("upload-offset"), Some(before.len().to_string().as_str()));
    let nothing = format!("Content-Range: bytes */{}", before.len());
    let again = http(play.http, "PUT", &place.url, &[&nothing, "Content-Length: 0"], b"").await;
    assert_eq!(media(&again), first);
    http(play.http, "PUT", &place.url, &[], &before).await;
    let got = http(play.http, "GET", &told.url, &[], b"").await;
    assert!(got.body == after, "{}", got.head);
    let names = std::fs::read_dir(play.folder.path().join("0005").join(id.to_string())).expect("reads");
    assert!(names.flatten().all(|name| name.file_name().to_string_lossy().contains('-')), "what was uploaded is back");
}

#[tokio::test]
async fn bytes_that_come_after_the_uploaded_ones_were_removed_do_not_stay() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    let files = Files::in_folder(play.folder.path()).expect("opens");
    let chunk = CHUNK_BYTES as usize;
    let picture = png(&told(), &vec![7; chunk + 1000]);
    let size = picture.len();
    let (whole, first, more) = (&picture[..], &picture[..chunk], &b"more"[..]);
    for (pieces, last, status) in [(&[whole][..], size, 201), (&[first], chunk, 201), (&[first, more], chunk, 409)] {
        let place = slot(&mut alice, size).await;
        media(&http(play.http, "PUT", &place.url, &[], &picture).await);
        let mut stream = TcpStream::connect(play.http).await.expect("connects");
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
             Content-Range: bytes 0-{}/{size}\r\n\r\n",
            place.url,
            last - 1
        );
        stream.write_all(head.as_bytes()).await.expect("writes");
        let mut said = [0; 25];
        // The gateway has seen that the uploaded bytes are kept.
        timeout(PATIENCE, stream.read_exact(&mut said)).await.expect("asked for the body").expect("reads");
        let id = MediaReference::from_bytes(&place.id).expect("a reference").id();
        files.remove_uploaded(&id).await.expect("removed");
        for piece in pieces {
            stream.write_all(&http_chunk(piece)).await.expect("writes");
        }
        stream.write_all(b"0\r\n\r\n").await.expect("writes");
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("reads");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(&format!("upload-offset: {size}\r\n")), "{answer}");
        let names = std::fs::read_dir(play.folder.path().join("0005").join(id.to_string())).expect("reads");
        assert!(names.flatten().all(|name| name.file_name().to_string_lossy().contains('-')), "{answer}");
    }
}

#[tokio::test]
async fn a_plain_picture_is_what_was_uploaded() {
    let play = play(|_| {}).await;
    let plain = png(b"", b"pixels");
    let whole = media(&uploaded(&play, "alice", &plain).await);
    assert_eq!((whole.size_bytes, whole.sha256.len()), (plain.len() as u64, 32));
    assert_eq!(play.world.router.store.lock().files.values().map(|row| row.sha256.len()).collect::<Vec<_>>(), [0]);
}

#[tokio::test]
async fn what_is_no_picture_is_not_looked_into() {
    let play = play(|_| {}).await;
    let whole = media(&uploaded(&play, "alice", PLACE).await);
    assert_eq!(
        (whole.size_bytes, whole.sha256.len(), &*whole.media_type),
        (PLACE.len() as u64, 0, "application/octet-stream")
    );
}

#[tokio::test]
async fn a_place_that_cannot_be_removed_is_refused_unless_the_operator_wants_it() {
    let damaged = &png(&told(), b"pixels")[..90];
    let unknown = [b"\0\0\0\x18ftypheic\0\0\0\0heicmif1".as_slice(), PLACE].concat();
    let large = png(&told(), &vec![7; 3000]);
    for bytes in [damaged, &unknown, &large] {
        for (choice, status) in [(ToldPlace::Refuse, 422), (ToldPlace::Keep, 201)] {
            let play = play(|config| (config.told_place, config.max_picture_bytes) = (choice, 2000)).await;
            let answer = uploaded(&play, "alice", bytes).await;
            assert_eq!(answer.status, status, "{choice:?}: {}", answer.head);
        }
    }
    let play = play(|config| config.max_picture_bytes = 2000).await;
    for (bytes, why) in [(&damaged[..50], "damaged"), (&*png(b"", &vec![7; 3000]), "large")] {
        assert_eq!(uploaded(&play, "alice", bytes).await.status, 201, "{why}, but it tells no place");
    }
}

fn boxed(kind: &[u8; 4], within: &[u8]) -> Vec<u8> {
    [&(within.len() as u32 + 8).to_be_bytes(), &kind[..], within].concat()
}

/// A film whose user data stand over the end of its first chunk.
fn film(user_data: &[u8]) -> Vec<u8> {
    let begin = boxed(b"ftyp", b"mp42\0\0\0\0mp42isom");
    let frames = boxed(b"mdat", &vec![7; CHUNK_BYTES as usize - begin.len() - 8 - 40]);
    [begin, frames, boxed(b"moov", &boxed(b"udta", user_data)), boxed(b"mdat", &[8; 1000])].concat()
}

#[tokio::test]
async fn a_film_does_not_tell_where_it_was_made_and_is_no_other_film() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    let place = b"+52.5200+013.4050/ and so on";
    let (xyz, tool) = (boxed(b"\xa9xyz", place), boxed(b"\xa9too", b"a tool"));
    let before = film(&[&*xyz, &tool].concat());
    let after = film(&[&*boxed(b"free", &[0; 28]), &tool].concat());
    let slot = slot(&mut alice, before.len()).await;
    let whole = media(&http(play.http, "PUT", &slot.url, &[], &before).await);
    let size = before.len() as u64;
    assert_eq!((&*whole.media_type, whole.size_bytes, whole.sha256.len()), ("video/mp4", size, 0));
    let told = url(&mut alice, &slot.id, None).await.expect("whole");
    let got = http(play.http, "GET", &told.url, &[], b"").await;
    assert!(got.status == 200 && got.body == after, "{}", got.head);
    // Whoever did not hear that it is whole hears it.
    let nothing = format!("Content-Range: bytes */{size}");
    let again = http(play.http, "PUT", &slot.url, &[&nothing, "Content-Length: 0"], b"").await;
    assert_eq!(media(&again), whole);
    assert!(http(play.http, "GET", &told.url, &[], b"").await.body == after);
}

#[tokio::test]
async fn a_film_whose_place_cannot_be_removed_is_refused_unless_the_operator_wants_it() {
    let xyz = boxed(b"\xa9xyz", b"+52.5200+013.4050/");
    let large = film(&[&*xyz, &boxed(b"free", &[0; 3000])].concat());
    let damaged = &film(&xyz)[..film(&xyz).len() - 1];
    let plain = film(&boxed(b"free", &[0; 3000]));
    for (choice, status) in [(ToldPlace::Refuse, 422), (ToldPlace::Keep, 201)] {
        let play = play(|config| (config.told_place, config.max_picture_bytes) = (choice, 2000)).await;
        assert_eq!(uploaded(&play, "alice", &large).await.status, status, "{choice:?}");
        assert_eq!(uploaded(&play, "alice", &plain).await.status, 201, "{choice:?}");
        // A piece is missing behind what was looked into.
        assert_eq!(uploaded(&play, "alice", damaged).await.status, 201, "{choice:?}");
    }
}

fn sh(script: &'static str) -> [&'static str; 3] {
    ["/bin/sh", "-c", script]
}

#[tokio::test]
async fn the_preview_is_what_the_process_says() {
    let script = "[ \"$0 $1\" = 'png 402653184' ] && cat >/dev/null && printf '\\000\\000\\001\\100\\000\\000\\000\\360\\000\\003jpg'";
    let play = play_with(&sh(script), |_| {}).await;
    let whole = media(&uploaded(&play, "alice", &png(&told(), b"pixels")).await);
    assert_eq!((whole.width, whole.height, &whole.preview[..]), (320, 240, &b"jpg"[..]));
}

#[tokio::test]
async fn whatever_the_process_does_a_picture_is_kept_and_others_go_on() {
    for (what, script) in [
        ("ends at once", "exit 1"),
        ("says too little", "printf '\\000\\000'"),
        ("says too much", "while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"),
        ("reads nothing and hangs", "while :; do :; done"),
    ] {
        let play = play_with(&sh(script), |config| (config.preview_timeout_ms, config.max_previews) = (300, 1)).await;
        let began = Instant::now();
        // More than a pipe holds.
        let picture = png(&told(), &vec![7; 200_000]);
        let (one, other) = tokio::join!(uploaded(&play, "alice", &picture), uploaded(&play, "bob", PLACE));
        assert_eq!(media(&one).preview.len(), 0, "{what}");
        assert_eq!(other.status, 201, "{what}");
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
    }
}
