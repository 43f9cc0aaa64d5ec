//! Files over real sockets: asked for on the connection, and transferred over HTTP.

mod play;

use carillon_media::CHUNK_BYTES;
use carillon_proto::{
    MediaReference,
    pb::client::{self, Code, Content, content, server_frame, timeline::Owner},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

pub(crate) use self::play::{Answer, Play, http, http_chunk, play, play_with, slot, url};
use self::play::{
    CHUNKED, PATIENCE, PNG, image_of, in_chunks, inbox, next_answer, of_two_chunks, parsed, says, sent_to_bob,
    slot_or_refusal,
};
use crate::client::send;

#[tokio::test]
async fn what_is_uploaded_is_downloaded_by_who_can_read_the_message() {
    let play = play(|_| {}).await;
    let (mut alice, mut bob, place) = sent_to_bob(&play, PNG).await;
    let told = url(&mut bob, &place.id, Some((inbox("bob"), 1))).await.expect("may read it");
    assert_eq!((told.size_bytes, &*told.media_type, &*told.name), (PNG.len() as u64, "image/png", "cat.png"));
    let got = http(play.http, "GET", &told.url, &[], b"").await;
    assert_eq!((got.status, &*got.body), (200, PNG));
    assert_eq!(got.header("content-type"), Some("image/png"), "by the content, not as it was claimed");
    assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(got.header("content-security-policy"), Some("sandbox; default-src 'none'"));
    assert_eq!(got.header("content-length"), Some(PNG.len().to_string().as_str()));
    assert!(got.header("content-disposition").expect("told").starts_with("inline; filename=\"cat.png\""));
    // The sender by the own copy, and as the owner.
    let again = url(&mut alice, &place.id, Some((inbox("alice"), 1))).await.expect("may read it");
    assert_eq!(http(play.http, "GET", &again.url, &[], b"").await.body, PNG);
    url(&mut alice, &place.id, None).await.expect("the owner");
    // Neither the file's address nor the place where it is kept names what messages name.
    let reference = MediaReference::from_bytes(&place.id).expect("a reference");
    let secret: String = place.id[2..].iter().map(|byte| format!("{byte:02x}")).collect();
    let kept = std::fs::read_dir(play.folder.path()).expect("reads").filter(|kept| {
        let kept = kept.as_ref().expect("reads").file_name();
        kept != "carillon-media" && !kept.to_string_lossy().contains(&secret)
    });
    assert_eq!(kept.count(), 1, "the shard");
    assert!(!told.url.contains(&secret) && reference.id().to_string() != secret);
}

#[tokio::test]
async fn parts_are_given_and_known_files_are_not_given_again() {
    let play = play(|_| {}).await;
    let (_alice, mut bob, place) = sent_to_bob(&play, PNG).await;
    let told = url(&mut bob, &place.id, Some((inbox("bob"), 1))).await.expect("may read it");
    let get = |headers: &'static [&'static str]| http(play.http, "GET", &told.url, headers, b"");
    let part = get(&["Range: bytes=1-3"]).await;
    assert_eq!((part.status, &*part.body), (206, &b"PNG"[..]));
    assert_eq!(part.header("content-range"), Some(format!("bytes 1-3/{}", PNG.len()).as_str()));
    assert_eq!(get(&["Range: bytes=-2"]).await.body, b"on");
    let outside = get(&["Range: bytes=1000-"]).await;
    assert_eq!(
        (outside.status, outside.header("content-range")),
        (416, Some(format!("bytes */{}", PNG.len()).as_str()))
    );
    assert_eq!(get(&["Range: bytes=1-3", "If-Range: \"other\""]).await.status, 200);
    let head = http(play.http, "HEAD", &told.url, &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let tag = format!("If-None-Match: {}", head.header("etag").expect("a tag"));
    let known = http(play.http, "GET", &told.url, &[&tag], b"").await;
    assert_eq!((known.status, known.body.len()), (304, 0));
}

#[tokio::test]
async fn an_upload_that_broke_goes_on_behind_what_is_kept() {
    let play = play(|_| {}).await;
    let bytes: Vec<u8> = (0..2 * CHUNK_BYTES + 1000).map(|at| (at * 7 / 5) as u8).collect();
    let mut alice = play.world.client("alice", "a").await;
    let place = slot(&mut alice, bytes.len()).await;
    {
        let mut stream = TcpStream::connect(play.http).await.expect("connects");
        let head = format!("PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", place.url, bytes.len());
        stream.write_all(head.as_bytes()).await.expect("writes");
        stream.write_all(&bytes[..CHUNK_BYTES as usize + 5000]).await.expect("writes");
    }
    let kept = loop {
        let head = http(play.http, "HEAD", &place.url, &[], b"").await;
        match head.header("upload-offset").expect("told") {
            "0" => tokio::task::yield_now().await,
            kept => break kept.to_owned(),
        }
    };
    assert_eq!(kept, CHUNK_BYTES.to_string());
    let size = bytes.len();
    let range = |from: u64| format!("Content-Range: bytes {from}-{}/{size}", size - 1);
    let gap = http(play.http, "PUT", &place.url, &[&range(2 * CHUNK_BYTES)], &bytes[2 * CHUNK_BYTES as usize..]).await;
    assert_eq!((gap.status, gap.header("upload-offset")), (409, Some(&*kept)));
    let rest = http(play.http, "PUT", &place.url, &[&range(CHUNK_BYTES)], &bytes[CHUNK_BYTES as usize..]).await;
    assert_eq!(rest.status, 201, "{}", rest.head);
    let told = url(&mut alice, &place.id, None).await.expect("whole");
    assert_eq!(http(play.http, "GET", &told.url, &[], b"").await.body, bytes);
    let part = format!("Range: bytes={}-{}", CHUNK_BYTES - 3, CHUNK_BYTES + 2);
    let part = http(play.http, "GET", &told.url, &[&part], b"").await;
    assert_eq!(part.body, bytes[CHUNK_BYTES as usize - 3..CHUNK_BYTES as usize + 3], "over the end of a chunk");
}

#[tokio::test]
async fn an_upload_of_which_only_the_last_word_was_lost_is_made_whole() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    let place = slot(&mut alice, PNG.len()).await;
    let first = format!("Content-Range: bytes */{}", PNG.len());
    let nothing = http(play.http, "PUT", &place.url, &[&first, "Content-Length: 0"], b"").await;
    assert_eq!((nothing.status, nothing.header("upload-offset")), (202, Some("0")));
    assert_eq!(http(play.http, "PUT", &place.url, &[], PNG).await.status, 201);
    play.world.router.store.lock().files.values_mut().for_each(|row| row.state = 1);
    assert_eq!(url(&mut alice, &place.id, None).await, Err(Code::NotFound), "not whole");
    let whole = http(play.http, "PUT", &place.url, &[&first, "Content-Length: 0"], b"").await;
    assert_eq!((whole.status, whole.header("upload-offset")), (201, Some(PNG.len().to_string().as_str())));
    url(&mut alice, &place.id, None).await.expect("whole");
}

#[tokio::test]
async fn who_cannot_read_the_message_gets_no_address() {
    let play = play(|_| {}).await;
    let (mut alice, mut bob, place) = sent_to_bob(&play, PNG).await;
    let mut carol = play.world.client("carol", "c").await;
    carol.says(send("m2", "carol")).await;
    // Whatever she tries, with the right reference or with a guess.
    let mut guess = place.id.to_vec();
    guess[23] ^= 1;
    assert_eq!(url(&mut carol, &place.id, Some((inbox("bob"), 1))).await, Err(Code::Forbidden), "another's inbox");
    assert_eq!(url(&mut carol, &place.id, Some((inbox("carol"), 1))).await, Err(Code::NotFound), "another message");
    assert_eq!(url(&mut carol, &place.id, Some((inbox("carol"), 9))).await, Err(Code::NotFound), "no message");
    assert_eq!(url(&mut carol, &place.id, None).await, Err(Code::NotFound), "another's file");
    let club = Owner::Group("club".to_owned());
    assert_eq!(url(&mut carol, &place.id, Some((club, 1))).await, Err(Code::NotFound), "no group of hers");
    assert_eq!(url(&mut bob, &guess, Some((inbox("bob"), 1))).await, Err(Code::NotFound));
    assert_eq!(url(&mut alice, &guess, None).await, Err(Code::NotFound));
    assert_eq!(url(&mut alice, &place.id[..23], None).await, Err(Code::Invalid));
}

#[tokio::test]
async fn a_file_in_an_edit_is_read_by_who_can_read_the_edit() {
    let play = play(|_| {}).await;
    let (mut alice, mut bob) = (play.world.client("alice", "a").await, play.world.client("bob", "b").await);
    let place = slot(&mut alice, PNG.len()).await;
    assert_eq!(http(play.http, "PUT", &place.url, &[], PNG).await.status, 201);
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned();
    alice.says(send(&id, "bob")).await;
    let target = Some(client::MessageRef {
        client_id: id.clone(),
        id,
        sender: "alice".to_owned(),
        sender_device: "a".to_owned(),
        seq: 0,
        expires_at_ms: 0,
    });
    let edit = client::Edit { target, content: Some(Box::new(image_of(&place.id))) };
    alice
        .says(says("m2", "bob", Content { body: Some(content::Body::Edit(Box::new(edit))), ..Default::default() }))
        .await;
    for _ in 0..2 {
        assert!(matches!(alice.hears().await, server_frame::Body::Accepted(_)));
        assert!(matches!(bob.hears().await, server_frame::Body::Deliver(_)));
    }
    assert_eq!(url(&mut bob, &place.id, Some((inbox("bob"), 1))).await, Err(Code::NotFound), "the text");
    let told = url(&mut bob, &place.id, Some((inbox("bob"), 2))).await.expect("may read it");
    assert_eq!(http(play.http, "GET", &told.url, &[], b"").await.body, PNG);
}

#[tokio::test]
async fn an_address_is_for_one_thing_and_for_its_time() {
    let play = play(|config| config.download_url_s = 0).await;
    let (mut alice, _bob, place) = sent_to_bob(&play, PNG).await;
    let told = url(&mut alice, &place.id, None).await.expect("the owner");
    let late = http(play.http, "GET", &told.url, &[], b"").await;
    assert_eq!(late.status, 403);
    assert!(String::from_utf8_lossy(&late.body).contains("expired"));
    assert_eq!(http(play.http, "PUT", &told.url, &[], PNG).await.status, 403);
    assert_eq!(http(play.http, "GET", &place.url, &[], b"").await.status, 405, "an upload shows nothing");
    let mut forged = place.url.clone();
    let last = forged.pop().expect("long");
    forged.push(if last == 'A' { 'B' } else { 'A' });
    for path in [&*forged, "/media/", "/media/x", "/media/../etc/passwd", "/media/%2e%2e/x"] {
        assert_eq!(http(play.http, "GET", path, &[], b"").await.status, 403, "{path}");
    }
    assert_eq!(http(play.http, "GET", "/healthz", &[], b"").await.status, 200);
}

#[tokio::test]
async fn what_is_whole_does_not_change_any_more() {
    let play = play(|_| {}).await;
    let (mut alice, _bob, place) = sent_to_bob(&play, PNG).await;
    let other = vec![b'x'; PNG.len()];
    let size = PNG.len().to_string();
    for chunked in [false, true] {
        // Chunked bodies go another way.
        let put = |bytes: &[u8]| match chunked {
            false => (Vec::new(), bytes.to_vec()),
            true => (vec![CHUNKED], in_chunks(bytes)),
        };
        let (headers, body) = put(&other);
        let refused = http(play.http, "PUT", &place.url, &headers, &body).await;
        assert_eq!((refused.status, refused.header("upload-offset")), (409, Some(&*size)), "{}", refused.head);
        let (headers, body) = put(PNG);
        assert_eq!(http(play.http, "PUT", &place.url, &headers, &body).await.status, 201, "the same bytes");
    }
    let told = url(&mut alice, &place.id, None).await.expect("the owner");
    assert_eq!(http(play.http, "GET", &told.url, &[], b"").await.body, PNG);
}

#[tokio::test]
async fn a_part_of_a_whole_file_is_compared_by_chunks_and_says_that_all_is_kept() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    let bytes = of_two_chunks();
    let (size, place) = (bytes.len().to_string(), slot(&mut alice, bytes.len()).await);
    let put = |last: usize, bytes: Vec<u8>, chunked: bool| {
        let (range, url) = (format!("Content-Range: bytes 0-{last}/{size}"), place.url.clone());
        async move {
            match chunked {
                false => http(play.http, "PUT", &url, &[&range], &bytes).await,
                true => http(play.http, "PUT", &url, &[&range, CHUNKED], &in_chunks(&bytes)).await,
            }
        }
    };
    let chunk = CHUNK_BYTES as usize;
    for chunked in [false, true] {
        let none = put(4, bytes[..5].to_vec(), chunked).await;
        assert_eq!((none.status, none.header("upload-offset")), (409, Some("0")), "{}", none.head);
    }
    let half = put(chunk - 1, bytes[..chunk].to_vec(), false).await;
    assert_eq!((half.status, half.header("upload-offset")), (202, Some(&*CHUNK_BYTES.to_string())), "{}", half.head);
    assert_eq!(http(play.http, "PUT", &place.url, &[], &bytes).await.status, 201);
    for chunked in [false, true] {
        for (last, sent, status) in [
            (4, b"other".to_vec(), 409),
            (4, bytes[..5].to_vec(), 409),
            (chunk - 1, vec![b'x'; chunk], 409),
            (chunk - 1, bytes[..chunk].to_vec(), 201),
        ] {
            let answer = put(last, sent, chunked).await;
            assert_eq!((answer.status, answer.header("upload-offset")), (status, Some(&*size)), "{}", answer.head);
        }
    }
}

#[tokio::test]
async fn what_could_run_in_a_browser_is_a_download() {
    let play = play(|_| {}).await;
    let page = b"<!DOCTYPE html><script>alert(1)</script>";
    let (mut alice, _bob, place) = sent_to_bob(&play, page).await;
    let told = url(&mut alice, &place.id, None).await.expect("the owner");
    let got = http(play.http, "GET", &told.url, &[], b"").await;
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert!(got.header("content-disposition").expect("told").starts_with("attachment"));
}

#[tokio::test]
async fn uploads_of_another_length_than_was_told_are_refused() {
    let play = play(|config| config.max_file_bytes = 1000).await;
    let mut alice = play.world.client("alice", "a").await;
    let place = slot(&mut alice, PNG.len()).await;
    let longer = [PNG, b"more"].concat();
    assert_eq!(http(play.http, "PUT", &place.url, &[], &longer).await.status, 413);
    // Without a length, too.
    assert_eq!(http(play.http, "PUT", &place.url, &[CHUNKED], &in_chunks(&longer)).await.status, 413);
    assert_eq!(http(play.http, "PUT", &place.url, &[], &PNG[..5]).await.status, 400);
    for wrong in ["bytes 0-4/6", "bytes 5-1/31", "pages 1-2/3"] {
        let range = format!("Content-Range: {wrong}");
        assert_eq!(http(play.http, "PUT", &place.url, &[&range], &PNG[..5]).await.status, 400, "{wrong}");
    }
    assert_eq!(url(&mut alice, &place.id, None).await, Err(Code::NotFound), "not whole");
    assert_eq!(http(play.http, "PUT", &place.url, &[], PNG).await.status, 201, "nothing wrong was kept");
    let refused = slot_or_refusal(&mut alice, 1001, "x").await.expect_err("too large");
    assert_eq!(refused.code(), Code::TooLarge);
    assert!(refused.reason.contains("1000"), "{}", refused.reason);
}

#[tokio::test]
async fn names_with_paths_and_lines_are_refused() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    for name in ["../etc/passwd", "a\\b", "a\r\nSet-Cookie: x", "a\0b"] {
        let refused = slot_or_refusal(&mut alice, 5, name).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Invalid, "{name:?}");
    }
    assert_eq!(slot_or_refusal(&mut alice, 0, "x").await.expect_err("empty").code(), Code::Invalid);
    let long = "n".repeat(257);
    assert_eq!(slot_or_refusal(&mut alice, 5, &long).await.expect_err("long").code(), Code::Invalid);
}

#[tokio::test]
async fn a_client_that_stops_sending_or_taking_is_let_go() {
    let play = play(|config| (config.idle_timeout_ms, config.max_downloads) = (300, 1)).await;
    let mut alice = play.world.client("alice", "a").await;
    let place = slot(&mut alice, PNG.len()).await;
    let mut stream = TcpStream::connect(play.http).await.expect("connects");
    let head = format!("PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n\u{89}", place.url, PNG.len());
    stream.write_all(head.as_bytes()).await.expect("writes");
    let mut got = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("let go in time").expect("reads");
    // More than sockets hold.
    let large = vec![1; 16 << 20];
    let place = slot(&mut alice, large.len()).await;
    assert_eq!(http(play.http, "PUT", &place.url, &[], &large).await.status, 201);
    let told = url(&mut alice, &place.id, None).await.expect("the owner");
    let mut stream = TcpStream::connect(play.http).await.expect("connects");
    stream.write_all(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", told.url).as_bytes()).await.expect("writes");
    stream.peek(&mut [0]).await.expect("the answer begins");
    // The turn of one who takes nothing is free again.
    let others = async { while http(play.http, "GET", &told.url, &["Range: bytes=0-0"], b"").await.status == 503 {} };
    timeout(PATIENCE, others).await.expect("let go in time");
    drop(stream);
}

#[tokio::test]
async fn so_many_uploads_at_once_and_no_more() {
    let play = play(|config| config.max_uploads = 1).await;
    let mut alice = play.world.client("alice", "a").await;
    let (one, two) = (slot(&mut alice, PNG.len()).await, slot(&mut alice, PNG.len()).await);
    let mut stream = TcpStream::connect(play.http).await.expect("connects");
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        one.url,
        PNG.len()
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    let mut said = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut said)).await.expect("asked for the body").expect("reads");
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
    let refused = http(play.http, "PUT", &two.url, &[], PNG).await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    stream.write_all(PNG).await.expect("writes");
    let mut got = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("ends").expect("reads");
    assert_eq!(parsed(&got).status, 201);
    assert_eq!(http(play.http, "PUT", &two.url, &[], PNG).await.status, 201);
}

#[tokio::test]
async fn requests_follow_one_another_on_one_connection() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    let bytes = of_two_chunks();
    let place = slot(&mut alice, bytes.len()).await;
    let mut stream = TcpStream::connect(play.http).await.expect("connects");
    let head = |method: &str, path: &str, more: &str| format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    // The next request comes with the last bytes of the body.
    let put = head("PUT", &place.url, &format!("Content-Length: {}\r\n", bytes.len()));
    let (health, closing) = (head("GET", "/healthz", ""), head("GET", "/healthz", "Connection: close\r\n"));
    let sent = [put.as_bytes(), &bytes, health.as_bytes()].concat();
    timeout(PATIENCE, stream.write_all(&sent)).await.expect("taken").expect("writes");
    let (uploaded, healthy) = (next_answer(&mut stream).await, next_answer(&mut stream).await);
    assert_eq!((uploaded.status, healthy.status, &*healthy.body), (201, 200, &b"ok\n"[..]));
    let told = url(&mut alice, &place.id, None).await.expect("whole");
    let requests = [
        head("GET", &told.url, ""),
        health,
        head("GET", &told.url, &format!("Range: bytes={}-{}\r\n", CHUNK_BYTES - 3, 2 * CHUNK_BYTES + 2)),
        head("GET", &told.url, "Range: bytes=99999999-\r\n"),
        head("GET", &told.url, &format!("If-None-Match: {}\r\n", "*")),
        head("GET", &told.url, "Range: bytes=-5\r\n"),
        closing,
    ];
    timeout(PATIENCE, stream.write_all(requests.concat().as_bytes())).await.expect("taken").expect("writes");
    let part = &bytes[CHUNK_BYTES as usize - 3..2 * CHUNK_BYTES as usize + 3];
    let last = &bytes[bytes.len() - 5..];
    for (status, body) in
        [(200, &*bytes), (200, b"ok\n"), (206, part), (416, b""), (304, b""), (206, last), (200, b"ok\n")]
    {
        let answer = next_answer(&mut stream).await;
        assert!(answer.status == status && answer.body == body, "{}: {} bytes", answer.head, answer.body.len());
    }
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0])).await.expect("ends").expect("reads"), 0);
}

#[tokio::test]
async fn clients_of_http_1_0_and_with_chunks_get_the_same_bytes() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    let bytes = of_two_chunks();
    let place = slot(&mut alice, bytes.len()).await;
    let put = http(play.http, "PUT", &place.url, &[CHUNKED], &in_chunks(&bytes)).await;
    assert_eq!(put.status, 201, "{}", put.head);
    let told = url(&mut alice, &place.id, None).await.expect("whole");
    let mut stream = TcpStream::connect(play.http).await.expect("connects");
    stream.write_all(format!("GET {} HTTP/1.0\r\nHost: x\r\n\r\n", told.url).as_bytes()).await.expect("writes");
    let mut got = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("ends").expect("reads");
    assert!(parsed(&got).body == bytes, "{} bytes", got.len());
}

/// The folder is renamed, as if a share was not mounted.
#[tokio::test]
async fn while_the_folder_is_away_nothing_is_taken_or_given_and_an_upload_goes_on_later() {
    let play = play(|_| {}).await;
    let (mut alice, mut bob, sent) = sent_to_bob(&play, PNG).await;
    let told = url(&mut bob, &sent.id, Some((inbox("bob"), 1))).await.expect("may read it");
    let bytes = of_two_chunks();
    let place = slot(&mut alice, bytes.len()).await;
    let first = format!("Content-Range: bytes 0-{}/{}", CHUNK_BYTES - 1, bytes.len());
    let part = http(play.http, "PUT", &place.url, &[&first], &bytes[..CHUNK_BYTES as usize]).await;
    assert_eq!((part.status, part.header("upload-offset")), (202, Some(CHUNK_BYTES.to_string().as_str())));

    let (here, away) = (play.folder.path(), play.folder.path().with_extension("away"));
    std::fs::rename(here, &away).expect("renames");
    let rest = format!("Content-Range: bytes {CHUNK_BYTES}-{}/{}", bytes.len() - 1, bytes.len());
    let tail = &bytes[CHUNK_BYTES as usize..];
    for is_there in [false, true] {
        if is_there {
            std::fs::create_dir(here).expect("makes");
        }
        for answer in [
            http(play.http, "PUT", &place.url, &[&rest], tail).await,
            http(play.http, "HEAD", &place.url, &[], b"").await,
            http(play.http, "GET", &told.url, &[], b"").await,
            http(play.http, "GET", &told.url, &["Range: bytes=1-3"], b"").await,
        ] {
            assert_eq!(answer.status, 503, "{}", answer.head);
            assert!(answer.header("retry-after").is_some(), "{}", answer.head);
        }
        assert_eq!(url(&mut alice, &place.id, None).await, Err(Code::NotFound), "half a file is none");
    }
    alice.says(send("m2", "bob")).await;
    assert!(matches!(alice.hears().await, server_frame::Body::Accepted(_)), "messages do not wait for files");
    std::fs::remove_dir(here).expect("nothing was put there");
    std::fs::rename(&away, here).expect("renames");

    let head = http(play.http, "HEAD", &place.url, &[], b"").await;
    assert_eq!((head.status, head.header("upload-offset")), (200, Some(CHUNK_BYTES.to_string().as_str())));
    assert_eq!(http(play.http, "PUT", &place.url, &[&rest], tail).await.status, 201);
    let whole = url(&mut alice, &place.id, None).await.expect("whole");
    assert!(http(play.http, "GET", &whole.url, &[], b"").await.body == bytes);
    assert_eq!(http(play.http, "GET", &told.url, &[], b"").await.body, PNG);
}

#[tokio::test]
async fn a_file_of_which_bytes_are_missing_is_not_given_as_a_whole_one() {
    let play = play(|_| {}).await;
    let mut alice = play.world.client("alice", "a").await;
    let bytes = of_two_chunks();
    let place = slot(&mut alice, bytes.len()).await;
    assert_eq!(http(play.http, "PUT", &place.url, &[], &bytes).await.status, 201);
    let told = url(&mut alice, &place.id, None).await.expect("whole");
    let id = MediaReference::from_bytes(&place.id).expect("a reference").id().to_string();
    let chunk = |number: u64| play.folder.path().join(&id[..4]).join(&id).join(format!("{number:06}"));
    std::fs::remove_file(chunk(1)).expect("removes");
    let cut = http(play.http, "GET", &told.url, &[], b"").await;
    assert_eq!(cut.header("content-length"), Some(bytes.len().to_string().as_str()));
    assert!(cut.status == 200 && cut.body == bytes[..CHUNK_BYTES as usize], "{} bytes", cut.body.len());
    std::fs::remove_file(chunk(0)).expect("removes");
    assert_eq!(http(play.http, "GET", &told.url, &[], b"").await.status, 410);
}

#[tokio::test]
async fn without_a_place_for_files_the_service_says_so() {
    let world = crate::plays::world(|_| {}).await;
    let mut alice = world.client("alice", "a").await;
    assert_eq!(slot_or_refusal(&mut alice, 5, "x").await.expect_err("refused").code(), Code::Unsupported);
    assert_eq!(url(&mut alice, &[1; 24], None).await, Err(Code::Unsupported));
    let http_at = world.gateway.ws_address().expect("on");
    assert_eq!(http(http_at, "GET", "/media/x", &[], b"").await.status, 404);
}
