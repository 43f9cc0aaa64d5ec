//! The place for files goes away and comes back while messages are sent and files go up and down at both gateways.

mod support;

use std::{
    fs,
    io::Cursor,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use carillon_client::{Client, ClientConfig, Credential, MediaError, NewFile};
use carillon_loadtest::{
    direct::{Direct, DirectConfig, SlowReaders},
    payload::Filling,
};
use carillon_proto::{pb::client::Media, tasks::Tasks};
use support::cluster::Cluster;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// More than one chunk.
const SIZE: usize = 9_000_000;
const FAILED: &str = "carillon_gateway_media_transfers_total{direction=\"upload\",outcome=\"failed\"}";

fn content(seed: usize) -> Vec<u8> {
    (0..SIZE).map(|at| (at * 7 / 5 + at / 4099 * seed + seed) as u8).collect()
}

async fn enter(cluster: &Cluster, gateway: usize, user: &str, tasks: &Tasks) -> Client {
    let credential = Credential::Token(cluster.token(user));
    let config = ClientConfig::new(vec![cluster.addresses[gateway].clone()], user, "phone", credential);
    let (client, _) = Client::open(config, tasks).expect("opens");
    client.connected(PATIENCE).await.expect("signs in");
    client
}

async fn upload(client: &Client, seed: usize) -> Media {
    loop {
        let new = NewFile { size_bytes: SIZE as u64, media_type: "x/y".into(), name: "data.bin".into() };
        match client.upload(new, &mut Cursor::new(content(seed))).await {
            Ok(media) => return media,
            // The client library does not try for ever.
            Err(MediaError::Broken(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The answer to one request.
async fn ask(method: &str, url: &str) -> String {
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("an URL");
    let address: SocketAddr = host.parse().expect("an address");
    let asking = async {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("{method} /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.expect("reads");
        String::from_utf8_lossy(&got[..got.len().min(4096)]).into_owned()
    };
    timeout(PATIENCE, asking).await.expect("an answer in time")
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn while_the_place_for_files_is_away_messages_go_on_and_no_accepted_byte_is_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let cluster = Cluster::start();
        let tasks = Tasks::new();
        let config = DirectConfig {
            run: "away".to_owned(),
            addresses: cluster.addresses.clone(),
            users: 4,
            devices: 2,
            rate: Some(20.0),
            window: 64,
            bytes: 256,
            filling: Filling::Repeated,
            send_timeout: PATIENCE,
            slow_readers: SlowReaders::default(),
        };
        let load = Direct::start(config, |user| cluster.token(user), &tasks).await.expect("load starts");
        let clients = [enter(&cluster, 0, "alice", &tasks).await, enter(&cluster, 1, "bob", &tasks).await];
        let first = upload(&clients[0], 1).await;
        // Of the other gateway, and of this one.
        let url = clients[0].media_url(&first.id, None).await.expect("the owner").url;
        let port = if url.contains(":7811/") { ":7810/" } else { ":7811/" };
        let urls = [url.clone(), url.replace(":7810/", port).replace(":7811/", port)];

        let (goes_on, uploaded) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let mut uploads = JoinSet::new();
        for (number, client) in clients.iter().enumerate() {
            let (client, goes_on, uploaded) = (client.clone(), Arc::clone(&goes_on), Arc::clone(&uploaded));
            uploads.spawn(async move {
                let mut all = Vec::new();
                for seed in (number + 2..).step_by(2) {
                    if !goes_on.load(Ordering::Relaxed) {
                        break;
                    }
                    all.push((upload(&client, seed).await.id, seed, number));
                    uploaded.fetch_add(1, Ordering::Relaxed);
                }
                all
            });
        }
        until("files are uploaded", async || uploaded.load(Ordering::Relaxed) >= 2).await;

        let (here, away) = (cluster.data("files"), cluster.data("away"));
        fs::rename(&here, &away).expect("renames");
        fs::create_dir(&here).expect("as below a share that is not mounted");
        for url in &urls {
            let answer = ask("GET", url).await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: "), "{answer}");
        }
        let failed = || {
            cluster.gateways.iter().filter(|gateway| {
                gateway.metrics().lines().any(|line| line.strip_prefix(FAILED).is_some_and(|count| count.trim() != "0"))
            })
        };
        until("uploads have stopped at both gateways", async || failed().count() == 2).await;
        let (accepted, delivered) = (load.accepted(), load.delivered());
        until("messages go on", async || load.accepted() >= accepted + 50 && load.delivered() >= delivered + 50).await;
        assert_eq!(fs::read_dir(&here).expect("reads").count(), 0, "something was put where nobody will find it");

        fs::remove_dir(&here).expect("empty");
        fs::rename(&away, &here).expect("renames");
        let before = uploaded.load(Ordering::Relaxed);
        until("uploads go on", async || uploaded.load(Ordering::Relaxed) >= before + 2).await;
        goes_on.store(false, Ordering::Relaxed);
        let mut kept = vec![(first.id, 1, 0)];
        while let Some(all) = uploads.join_next().await {
            kept.extend(all.expect("none was lost"));
        }
        for (id, seed, owner) in kept {
            let mut got = Vec::new();
            clients[owner].download(&id, None, 0, &mut got).await.expect("downloaded");
            assert!(got == content(seed), "the file {seed} has other bytes");
        }
        let report = load.finish(PATIENCE).await;
        assert!(report.wrong().is_empty(), "{:#?}", report.wrong().iter().take(10).collect::<Vec<_>>());
        for client in clients {
            client.close().await;
        }
        tasks.finish(Duration::from_secs(10)).await;
    });
}
