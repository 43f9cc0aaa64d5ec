//! The stage: a gateway with a folder for files, and requests over HTTP.

use std::{net::SocketAddr, time::Duration};

use carillon_media::{CHUNK_BYTES, Files, Media, MediaConfig};
use carillon_proto::pb::client::{
    self, Code, Content, MediaSlot, MediaUrl, Recipient, RequestMediaSlot, RequestMediaUrl, Send, Timeline,
    client_frame::Body, content, recipient::To, server_frame, timeline::Owner,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client::StreamClient,
    plays::{World, world_with_media},
};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const CHUNKED: &str = "Transfer-Encoding: chunked";
pub(super) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR and so on";

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends a request on a connection of its own. Its body has a `Content-Length`, unless the headers say another one or that it is chunked.
pub(crate) async fn http(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let says_length = |header: &&str| header.starts_with("Content-Length") || *header == CHUNKED;
    if !headers.iter().any(says_length) && !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    headers.iter().for_each(|header| head += &format!("{header}\r\n"));
    let answering = async {
        // The service may have answered before everything was sent.
        let _ = stream.write_all(format!("{head}\r\n").as_bytes()).await;
        let _ = stream.write_all(body).await;
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
        got
    };
    parsed(&timeout(PATIENCE, answering).await.expect("an answer in time"))
}

/// A chunked body (RFC 9112, section 7.1).
pub(super) fn in_chunks(bytes: &[u8]) -> Vec<u8> {
    let mut body: Vec<u8> = bytes.chunks(100_000).flat_map(http_chunk).collect();
    body.extend_from_slice(b"0\r\n\r\n");
    body
}

pub(crate) fn http_chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub(super) fn parsed(got: &[u8]) -> Answer {
    let end = got.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(got[..end].to_vec()).expect("text");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head, body: got[end + 4..].to_vec() }
}

/// A gateway with a folder for files.
pub(crate) struct Play {
    pub(crate) world: World,
    pub(crate) http: SocketAddr,
    pub(crate) folder: TempDir,
}

pub(crate) async fn play(change: impl FnOnce(&mut MediaConfig)) -> Play {
    play_with(&[], change).await
}

/// `previewer`: the program that makes previews, and its arguments.
pub(crate) async fn play_with(previewer: &[&str], change: impl FnOnce(&mut MediaConfig)) -> Play {
    let folder = tempfile::tempdir().expect("folder");
    let mut config = MediaConfig::default();
    change(&mut config);
    let files = Files::in_folder(folder.path()).expect("opens");
    let world = world_with_media(Media { files, config, previewer: previewer.iter().map(Into::into).collect() }).await;
    let http = world.gateway.ws_address().expect("on");
    Play { world, http, folder }
}

pub(super) async fn slot_or_refusal(
    client: &mut StreamClient,
    size_bytes: u64,
    name: &str,
) -> Result<MediaSlot, client::Refused> {
    let media_type = "text/html".to_owned();
    let ask = RequestMediaSlot { request: 7, size_bytes, media_type, name: name.to_owned() };
    client.says(Body::RequestMediaSlot(ask)).await;
    match client.hears().await {
        server_frame::Body::MediaSlot(slot) => Ok(slot),
        server_frame::Body::Refused(refused) => Err(refused),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn slot(client: &mut StreamClient, size_bytes: usize) -> MediaSlot {
    slot_or_refusal(client, size_bytes as u64, "cat.png").await.expect("a place")
}

pub(crate) async fn url(client: &mut StreamClient, id: &[u8], of: Option<(Owner, u64)>) -> Result<MediaUrl, Code> {
    let (owner, seq) = of.map_or((None, 0), |(owner, seq)| (Some(owner), seq));
    let timeline = owner.map(|owner| Timeline { owner: Some(owner) });
    let ask = RequestMediaUrl { request: 8, id: id.to_vec().into(), timeline, seq };
    client.says(Body::RequestMediaUrl(ask)).await;
    loop {
        match client.hears().await {
            server_frame::Body::MediaUrl(url) => return Ok(url),
            server_frame::Body::Refused(refused) => return Err(refused.code()),
            server_frame::Body::Deliver(_) | server_frame::Body::Accepted(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn inbox(user: &str) -> Owner {
    Owner::Inbox(user.to_owned())
}

pub(super) fn image_of(id: &[u8]) -> Content {
    let media = client::Media { id: id.to_vec().into(), ..client::Media::default() };
    Content { body: Some(content::Body::Image(media)), ..Default::default() }
}

pub(super) fn says(client_id: &str, to: &str, content: Content) -> Body {
    let to = Some(Recipient { to: Some(To::User(to.to_owned())) });
    Body::Send(Send {
        client_id: client_id.to_owned(),
        to,
        content: Some(content),
        after: String::new(),
        expires_after_ms: 0,
    })
}

fn image(client_id: &str, to: &str, id: &[u8]) -> Body {
    says(client_id, to, image_of(id))
}

/// Alice uploads these bytes, and sends them to Bob as message 1 of his inbox.
pub(super) async fn sent_to_bob(play: &Play, bytes: &[u8]) -> (StreamClient, StreamClient, MediaSlot) {
    let mut alice = play.world.client("alice", "a").await;
    let mut bob = play.world.client("bob", "b").await;
    let place = slot(&mut alice, bytes.len()).await;
    let put = http(play.http, "PUT", &place.url, &[], bytes).await;
    assert_eq!(put.status, 201, "{}", put.head);
    alice.says(image("m1", "bob", &place.id)).await;
    assert!(matches!(alice.hears().await, server_frame::Body::Accepted(_)));
    assert!(matches!(bob.hears().await, server_frame::Body::Deliver(_)));
    (alice, bob, place)
}

pub(super) fn of_two_chunks() -> Vec<u8> {
    (0..2 * CHUNK_BYTES + 1000).map(|at| (at * 7 / 5) as u8).collect()
}

/// Reads the next answer on a connection with several.
pub(super) async fn next_answer(stream: &mut TcpStream) -> Answer {
    let reading = async {
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            got.push(stream.read_u8().await.expect("a head"));
        }
        let mut answer = parsed(&got);
        let length = answer.header("content-length").map_or(0, |length| length.parse().expect("a number"));
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body).await.expect("a body");
        answer
    };
    timeout(PATIENCE, reading).await.expect("an answer in time")
}
