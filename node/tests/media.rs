//! Files by the command line and the client library, over two gateways.

mod support;

use std::{io::Cursor, process::Command, time::Duration};

use carillon_client::{Change, Client, ClientConfig, Credential, Event, Events, FetchError, NewFile};
use carillon_proto::{
    TimelineId, UserId,
    pb::client::{ChangeMembers, Code, Content, CreateGroup, Envelope, Media, content::Body, members_change::Kind},
    tasks::Tasks,
};
use support::cluster::Cluster;
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
    let hears = async {
        loop {
            let Some(Event::Delivered { timeline, position, envelope }) = events.next().await else { continue };
            if let Envelope {
                content: Some(Content { body: Some(Body::File(media) | Body::Image(media)), .. }), ..
            } = envelope
            {
                return (timeline, position.seq, media);
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
        let id = alice.upload(new, &mut Cursor::new(bytes.clone())).await.expect("uploaded");
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
    assert!(again.contains("can't make"), "{again}");
}
