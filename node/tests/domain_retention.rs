//! How long a domain keeps its messages and reports: over two gateways, while a router and a storage node die, beside domains that keep theirs.

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use carillon_client::{Client, ClientConfig, Credential, Events, FetchError, SendError};
use carillon_proto::{
    GroupId, TimelineId, UserId,
    pb::client::{Content, CreateGroup, Direction, ReportReason, content::Body},
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(90);
/// The shortest time that there is.
const AGE: Duration = Duration::from_secs(60);
/// The clocks of the shards tick every second, and repeats are recognised for a shorter time than messages are kept.
const QUICK_CLOCKS: &str = "storage.retention.cursor_age_ms = 8000\nstorage.retention.duplicate_window_ms = 8000\n";
const SECRET: &str = "the-secret-of-a-domain-of-at-least-32-bytes";
const DOMAINS: [&str; 2] = ["acme.example", "partner.example"];

fn token(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = serde_json::json!({"sub": user, "iat": now, "exp": now + 3600});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("signs")
}

struct Device {
    client: Client,
    inbox: TimelineId,
    _events: Events,
    _tasks: Tasks,
}

impl Device {
    async fn enter(cluster: &Cluster, gateway: usize, user: &str) -> Self {
        let token = if user.contains('@') { token(user) } else { cluster.token(user) };
        let addresses = vec![cluster.addresses[gateway].clone()];
        let tasks = Tasks::new();
        let config = ClientConfig::new(addresses, user, "phone", Credential::Token(token));
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        let inbox = TimelineId::Inbox(UserId::new(user).expect("valid"));
        Self { client, inbox, _events: events, _tasks: tasks }
    }

    async fn says(&self, to: &TimelineId, text: &str) {
        let to = match to {
            TimelineId::Inbox(user) => Client::user(user.as_str()),
            TimelineId::Group(group) => Client::group(group.as_str()),
        };
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.send(to.clone(), Client::text(text)).await {
                Ok(_) => return,
                Err(SendError::Refused(refusal)) if refusal.retry => assert!(Instant::now() < until, "{refusal}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The texts that are kept.
    async fn reads(&self, timeline: &TimelineId) -> Vec<String> {
        self.kept(timeline).await.into_iter().map(|(_, text)| text).collect()
    }

    /// Reports the only text in the inbox, of this user.
    async fn reports(&self, of: &str) {
        let seq = self.kept(&self.inbox).await[0].0;
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.report(Client::user(of), vec![seq], ReportReason::Spam, "").await {
                Ok(()) => return,
                Err(FetchError::Refused(refusal)) if refusal.retry => assert!(Instant::now() < until, "{refusal}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The texts that are kept, with their positions.
    async fn kept(&self, timeline: &TimelineId) -> Vec<(u64, String)> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.fetch(timeline, Direction::Backward, 0, 100).await {
                Ok(page) => {
                    let contents =
                        page.entries.into_iter().filter_map(|entry| Some((entry.seq, entry.envelope?.content?)));
                    let text = |(seq, content): (u64, Content)| match content.body {
                        Some(Body::Text(text)) => Some((seq, text.body)),
                        _ => None,
                    };
                    return contents.filter_map(text).collect();
                }
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[test]
fn messages_and_reports_of_one_domain_go_after_its_time_and_those_of_others_stay_although_nodes_die() {
    let keys = DOMAINS.map(|name| {
        format!("gateway.domains.{name:?}.jwt.keys = [{{ algorithm = \"HS256\", secret = {SECRET:?} }}]\n")
    });
    let mut cluster = Cluster::start_as(QUICK_CLOCKS, &keys.concat());
    Runtime::new().expect("runtime").block_on(async {
        let router = cluster.router_addresses()[0].clone();
        let ages = ["--message-age", "60s", "--report-age", "60s"];
        let decides = [&["domain", "set", DOMAINS[0], "--router", &router], &ages[..]].concat();
        cluster.routers[0].command(&decides).expect("decided");
        let (ann, bob) = (
            Device::enter(&cluster, 0, "ann@acme.example").await,
            Device::enter(&cluster, 1, "bob@acme.example").await,
        );
        let (carol, dave) =
            (Device::enter(&cluster, 0, "carol@partner.example").await, Device::enter(&cluster, 1, "dave").await);
        let erin = Device::enter(&cluster, 0, "erin").await;
        let create = CreateGroup { members: vec!["bob@acme.example".to_owned()], ..CreateGroup::default() };
        let club = GroupId::new("club@acme.example").expect("valid");
        ann.client.create_group(Some(&club), create).await.expect("made");
        let club = TimelineId::Group(club);

        let said_at = Instant::now();
        ann.says(&bob.inbox, "of acme").await;
        ann.says(&club, "of the club").await;
        carol.says(&carol.inbox, "of partner").await;
        erin.says(&dave.inbox, "of none").await;
        bob.reports("ann@acme.example").await;
        dave.reports("erin").await;
        let reporters = |cluster: &Cluster| {
            let listed = cluster.routers[1].command(&["reports", "list", "--json"]).expect("listed");
            let by = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("an object")["by"].clone();
            listed.lines().map(by).collect::<Vec<_>>()
        };
        assert_eq!(reporters(&cluster), ["bob@acme.example", "dave"]);
        cluster.routers[0].kill();
        let leader = cluster.leader();
        cluster.storage[leader].kill();
        for (device, timeline, text) in [(&bob, &bob.inbox, "of acme"), (&bob, &club, "of the club")] {
            assert_eq!(device.reads(timeline).await, [text], "before its time");
        }
        cluster.routers[0].start_again();
        cluster.storage[leader].start_again();
        cluster.wait_ready();

        let until = said_at + AGE + 2 * PATIENCE;
        for (device, timeline) in [(&ann, &ann.inbox), (&bob, &bob.inbox), (&bob, &club)] {
            loop {
                let kept = device.reads(timeline).await;
                if kept.is_empty() {
                    break;
                }
                assert!(Instant::now() < until, "{timeline:?} still has {kept:?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert!(said_at.elapsed() >= AGE, "{timeline:?}: too early, after {:?}", said_at.elapsed());
        }
        assert_eq!(carol.reads(&carol.inbox).await, ["of partner"]);
        assert_eq!(dave.reads(&dave.inbox).await, ["of none"]);
        while reporters(&cluster).len() > 1 {
            assert!(Instant::now() < until, "the report of the domain is still there");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(reporters(&cluster), ["dave"]);

        // What is younger stays, and everything is the same after another restart of the leader.
        ann.says(&bob.inbox, "later").await;
        let leader = cluster.leader();
        cluster.storage[leader].kill();
        cluster.storage[leader].start_again();
        cluster.wait_ready();
        assert_eq!(bob.reads(&bob.inbox).await, ["later"]);
        assert_eq!(bob.reads(&club).await, [""; 0]);
        assert_eq!(carol.reads(&carol.inbox).await, ["of partner"]);
        assert_eq!(dave.reads(&dave.inbox).await, ["of none"]);
        // The operator thinks otherwise: what is there is kept as long as the cluster keeps it.
        cluster.routers[1].command(&["domain", "reset", DOMAINS[0]]).expect("reset");
        let listed = cluster.routers[1].command(&["domain", "list"]).expect("listed");
        assert!(!listed.contains(DOMAINS[0]), "{listed}");
    });
}
