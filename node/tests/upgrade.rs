//! A folder that an older version wrote opens with this one, and nothing in it is lost.
//!
//! `folders/0.1-….tar.gz` are `data/storage` of the version before incarnations, the clock of each shard and the new
//! format of timelines (commit 758fdc6), with one directory shard and two timeline shards:
//!
//! 1. `user add` made alice, bob and dave, for tokens alone, and carol with the password "a long secret".
//! 2. alice sent bob "read 1" to "read 4", which bob's device `phone` took and acknowledged.
//! 3. carol sent bob "unread 1", "by password 1", "unread 2", "by password 2"; dave was deleted.
//! 4. SIGTERM: `stopped`. Started again, alice sent bob "unread 3" and "unread 4". SIGKILL: `killed`.
//!
//! A version that changes what is on disk adds the folder of the one before: made so, packed with
//! `tar -C data -czSf … storage`, some kilobytes each.

mod support;

use std::{path::Path, process::Command, time::Duration};

use carillon_client::{Address, Credential};
use carillon_proto::pb::client::{Position, SignIn, Timeline, TimelinePosition, timeline};
use support::{
    node::{Node, own_address, until},
    people::{Device, enter_with},
    service::{CLUSTER_SECRET, TOKEN_SECRET},
};

/// Longer than leases of the killed version last.
const PATIENCE: Duration = Duration::from_secs(60);
/// The epoch of bob's inbox, which old devices know.
const EPOCH: u64 = 11_385_365_640_736_993_213;
/// The id of alice's first message.
const FIRST_CLIENT_ID: &str = "9bcc220bc2ab2b1e-0";
const FIRST_MESSAGE_ID: &str = "01M8H57ZKYS8WWK95X8Y2P34JH";

const STOPPED: [&str; 8] =
    ["read 1", "read 2", "read 3", "read 4", "unread 1", "by password 1", "unread 2", "by password 2"];

struct Old {
    _folder: tempfile::TempDir,
    node: Node,
    address: Address,
    storage: String,
    router: String,
}

impl Old {
    /// Starts this version with the unpacked folder.
    fn open(archive: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/folders").join(archive);
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("folder");
        let unpacked = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&data).status();
        assert!(unpacked.expect("tar runs").success(), "{}", archive.display());
        let ip = own_address();
        let config = format!(
            r#"
            data_dir = {data:?}
            cluster.secret = "{CLUSTER_SECRET}"
            admin.listen = "{ip}:7400"
            storage.listen = "{ip}:7401"
            storage.directory_shards = 1
            storage.timeline_shards = 2
            router.listen = "{ip}:7402"
            router.storage = ["{ip}:7401"]
            gateway.routers = ["{ip}:7402"]
            gateway.tcp.listen = "{ip}:7410"
            gateway.ws.listen = "{ip}:7411"
            gateway.grpc.listen = "{ip}:7412"
            gateway.jwt.keys = [{{ algorithm = "HS256", secret = "{TOKEN_SECRET}" }}]
            "#
        );
        let mut node = Node::start(folder.path(), "all", "all", (ip, 7400).into(), &config);
        node.wait_ready();
        let address = format!("tcp://{ip}:7410").parse().expect("address");
        Self { _folder: folder, node, address, storage: format!("{ip}:7401"), router: format!("{ip}:7402") }
    }

    /// Runs a command. Returns what it says.
    fn command(&self, arguments: &[&str]) -> String {
        self.try_command(arguments).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The error is what it says on standard error.
    fn try_command(&self, arguments: &[&str]) -> Result<String, String> {
        let secret = format!("cluster.secret={CLUSTER_SECRET}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        let output = command.args(arguments).args(["--set", &secret]).output().expect("starts");
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).expect("text")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn users(&self) -> Vec<String> {
        let users = self.command(&["user", "list", "--json", "--router", &self.router]);
        let user = |line: &str| -> String {
            let user: serde_json::Value = serde_json::from_str(line).expect("JSON");
            user["user"].as_str().expect("a name").to_owned()
        };
        users.lines().map(user).collect()
    }

    async fn enter(&self, user: &str, device: &str, position: Option<(u64, u64)>) -> Device {
        let credential = Credential::Token(carillon_loadtest::token::sign(TOKEN_SECRET, user));
        self.enter_by(user, device, position, &credential).await
    }

    async fn enter_by(
        &self,
        user: &str,
        device: &str,
        position: Option<(u64, u64)>,
        credential: &Credential,
    ) -> Device {
        let positions = position.map(|(epoch, seq)| TimelinePosition {
            timeline: Some(Timeline { owner: Some(timeline::Owner::Inbox(user.to_owned())) }),
            position: Some(Position { epoch, seq }),
        });
        let request = SignIn {
            user: user.to_owned(),
            device: device.to_owned(),
            positions: positions.into_iter().collect(),
            ..SignIn::default()
        };
        enter_with(&self.address, request, credential).await.expect("signs in")
    }

    /// Checks bob's inbox, and what each of his devices is delivered.
    async fn bob_has(&self, texts: &[&str]) {
        let last = texts.len() as u64;
        let mut new = self.enter("bob", "new", None).await;
        let timeline = &new.signed_in.timelines[0];
        assert_eq!((timeline.epoch, timeline.first, timeline.last), (EPOCH, 1, last));
        assert_eq!(new.delivered(texts.len()).await, texts, "from the beginning");
        let mut at_five = self.enter("bob", "tablet", Some((EPOCH, 5))).await;
        assert_eq!(at_five.delivered(texts.len() - 5).await, texts[5..], "after its position");
        let mut phone = self.enter("bob", "phone", None).await;
        assert_eq!(phone.signed_in.timelines[0].delivered_from, 4, "what it acknowledged");
        assert_eq!(phone.delivered(texts.len() - 4).await, texts[4..], "after its cursor");
    }
}

async fn everything_is_there(archive: &str, texts: &[&str]) {
    let mut old = Old::open(archive);
    assert_eq!(old.users(), ["alice", "bob", "carol"], "dave was deleted");
    old.bob_has(texts).await;
    let password = Credential::Password("a long secret".to_owned());
    let carol = old.enter_by("carol", "laptop", None, &password).await;
    assert_eq!(carol.signed_in.timelines[0].last, 4);
    // Sent again by a client that did not receive the answer.
    let mut alice = old.enter("alice", "terminal-send", None).await;
    let again = alice.send("bob", FIRST_CLIENT_ID, "read 1").await.expect("accepted before");
    assert_eq!((again.message_id.as_str(), again.position.map(|position| position.seq)), (FIRST_MESSAGE_ID, Some(1)));
    alice.send("bob", "new", "new").await.expect("accepted");
    let texts = [texts, &["new"]].concat();
    old.bob_has(&texts).await;
    drop((alice, carol));
    old.node.terminate();
    old.node.start_again();
    old.node.wait_ready();
    old.bob_has(&texts).await;
    // Until now the old version could come back.
    let raise = || old.try_command(&["cluster", "raise-level", "--node", &old.storage]);
    until("the leases of the old version have run out", PATIENCE, || match raise() {
        Ok(raised) => raised.contains("it was at 0"),
        Err(why) => {
            assert!(why.contains("has not told what it runs"), "{why}");
            false
        }
    });
    old.bob_has(&texts).await;
    old.node.terminate();
    old.node.start_again();
    old.node.wait_ready();
    old.bob_has(&texts).await;
}

#[tokio::test]
async fn a_folder_of_before_incarnations_that_was_stopped_in_order_opens() {
    everything_is_there("0.1-stopped.tar.gz", &STOPPED).await;
}

#[tokio::test]
async fn a_folder_of_before_incarnations_whose_process_was_killed_opens() {
    everything_is_there("0.1-killed.tar.gz", &[&STOPPED[..], &["unread 3", "unread 4"]].concat()).await;
}
