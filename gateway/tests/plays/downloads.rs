//! Downloads of files that are larger than what sockets hold, and of a disk that is slow.

use std::{fs::File, net::SocketAddr, path::Path, time::Duration};

use carillon_media::{CHUNK_BYTES, Files, Media, MediaConfig};
use rustix::fs::{Advice, fadvise};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    media::{Play, http, play, slot, url},
    plays::world_with_media,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn of_chunks(count: u64) -> Vec<u8> {
    (0..count * CHUNK_BYTES - 1000).map(|at| (at * 7 / 5) as u8).collect()
}

/// The path of a file of Alice's with these bytes, from which it is downloaded.
async fn uploaded(play: &Play, bytes: &[u8]) -> String {
    let mut alice = play.world.client("alice", "a").await;
    let place = slot(&mut alice, bytes.len()).await;
    assert_eq!(http(play.http, "PUT", &place.url, &[], bytes).await.status, 201);
    url(&mut alice, &place.id, None).await.expect("the owner").url
}

/// Asks for a file, and reads the head of the answer. The sockets hold little of the rest.
async fn begun(address: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("set");
    let mut stream = socket.connect(address).await.expect("connects");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("writes");
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
    };
    timeout(PATIENCE, reading).await.expect("in time");
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Has the system forget the bytes of all files that it does not send just now.
fn forget(folder: &Path) {
    for entry in folder.read_dir().expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() {
            forget(&path);
        } else {
            fadvise(File::open(&path).expect("opens"), 0, None, Advice::DontNeed).expect("forgets");
        }
    }
}

/// Bytes that a thread, or all of them, had the disk read (proc(5)).
fn read_from_disk(of: &str) -> u64 {
    let text = std::fs::read_to_string(of).expect("counted by the system");
    let count = text.lines().find_map(|line| line.strip_prefix("read_bytes: ")).expect("a count");
    count.parse().expect("a number")
}

/// All tasks are on the thread of the test.
#[tokio::test]
async fn no_task_waits_for_the_disk_when_the_system_has_forgotten_the_bytes() {
    // Not in memory, where the system may keep what is temporary.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder");
    let files = Files::in_folder(folder.path()).expect("opens");
    let world = world_with_media(Media { files, config: MediaConfig::default(), previewer: Vec::new() }).await;
    let play = Play { http: world.gateway.ws_address().expect("on"), world, folder };
    let bytes = of_chunks(3);
    let path = uploaded(&play, &bytes).await;
    forget(play.folder.path());
    let before = [read_from_disk("/proc/thread-self/io"), read_from_disk("/proc/self/io")];
    let mut stream = begun(play.http, &path).await;
    let (mut got, mut piece) = (Vec::new(), vec![0; 256 * 1024]);
    while got.len() < bytes.len() {
        forget(play.folder.path());
        let count = timeout(PATIENCE, stream.read(&mut piece)).await.expect("in time").expect("reads");
        assert!(count > 0, "ended after {} bytes", got.len());
        got.extend_from_slice(&piece[..count]);
    }
    assert!(got == bytes);
    let after = [read_from_disk("/proc/thread-self/io"), read_from_disk("/proc/self/io")];
    assert!(after[1] - before[1] >= CHUNK_BYTES, "the disk was read: {before:?} to {after:?}");
    assert_eq!(after[0], before[0], "by no task");
}

#[tokio::test]
async fn more_downloads_than_threads_all_get_their_bytes() {
    const CLIENTS: usize = 80;
    let play = play(|config| config.max_downloads = 4 * CLIENTS).await;
    let bytes = of_chunks(2);
    let path = uploaded(&play, &bytes).await;
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        streams.push(begun(play.http, &path).await);
    }
    let refused = http(play.http, "GET", &path, &[], b"").await;
    assert_eq!(refused.status, 503, "one user has the quarter of all turns");
    let mut bob = play.world.client("bob", "b").await;
    let place = slot(&mut bob, 5).await;
    assert_eq!(http(play.http, "PUT", &place.url, &[], b"bytes").await.status, 201);
    let of_bob = url(&mut bob, &place.id, None).await.expect("the owner").url;
    assert_eq!(http(play.http, "GET", &of_bob, &[], b"").await.status, 200, "another user is not held up");
    let reading = streams.into_iter().map(|mut stream| async {
        let mut got = vec![0; bytes.len()];
        stream.read_exact(&mut got).await.expect("all bytes");
        assert!(got == bytes);
        stream
    });
    let streams = timeout(PATIENCE, futures_util::future::join_all(reading)).await.expect("in time");
    // Another request may follow on each.
    for mut stream in streams {
        let next = format!("GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=1-1\r\nConnection: close\r\n\r\n");
        stream.write_all(next.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("reads");
        assert!(answer.starts_with(b"HTTP/1.1 206 ") && answer.ends_with(&[b'\n', bytes[1]]));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_turn_and_no_open_file() {
    let play = play(|config| config.max_downloads = 1).await;
    let path = uploaded(&play, &of_chunks(4)).await;
    let open_chunks = || {
        let open = std::fs::read_dir("/proc/self/fd").expect("lists");
        let paths = open.filter_map(|one| std::fs::read_link(one.expect("lists").path()).ok());
        paths.filter(|path| path.starts_with(play.folder.path())).count()
    };
    let stream = begun(play.http, &path).await;
    assert_eq!(open_chunks(), 1);
    drop(stream);
    let others = async { while http(play.http, "GET", &path, &["Range: bytes=0-0"], b"").await.status == 503 {} };
    timeout(PATIENCE, others).await.expect("the turn is free");
    let closed = async {
        while open_chunks() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, closed).await.expect("nothing is open");
}
