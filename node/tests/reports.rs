//! Reports to the moderators by the command line and the client library, over two gateways.

mod support;

use std::{
    io::Cursor,
    net::SocketAddr,
    time::{Duration, Instant},
};

use carillon_client::{Change, Client, ClientConfig, Credential, Event, Events, FetchError, NewFile, Target};
use carillon_proto::{
    GroupId, MediaReference, TimelineId, UserId,
    pb::client::{
        ChangeMembers, Code, Content, CreateGroup, Direction, Media, Report, ReportReason, client_frame, content::Body,
        members_change::Kind, server_frame,
    },
    tasks::Tasks,
};
use serde_json::Value;
use support::{
    cluster::Cluster,
    node::{get, until},
    people::{Device, done, enter},
    service::{Carrier, Service},
};
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `carillon message` as this user at this gateway. Ok: its output; an error: its complaint.
fn message(cluster: &Cluster, gateway: usize, user: &str, args: &[&str]) -> Result<String, String> {
    cluster.as_user(gateway, user, "message", args)
}

/// Runs `carillon reports` as a moderator.
fn reports(cluster: &Cluster, args: &[&str]) -> Result<String, String> {
    let router = &cluster.router_addresses()[0];
    cluster.routers[0].command(&[&["reports"], args, &["--router", router]].concat())
}

/// The reports, open or resolved, as `carillon` lists them.
fn listed(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let printed = reports(cluster, &[&["list", "--json"], args].concat()).expect("listed");
    printed.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

struct Person {
    client: Client,
    events: Events,
    inbox: TimelineId,
    /// Texts that have come.
    heard: Vec<String>,
    _tasks: Tasks,
}

impl Person {
    async fn enter(cluster: &Cluster, gateway: usize, user: &str) -> Self {
        let credential = Credential::Token(cluster.token(user));
        let config = ClientConfig::new(vec![cluster.addresses[gateway].clone()], user, "phone", credential);
        let tasks = Tasks::new();
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        let inbox = TimelineId::Inbox(UserId::new(user).expect("valid"));
        Self { client, events, inbox, heard: Vec::new(), _tasks: tasks }
    }

    /// Waits for this text, and returns the message.
    async fn gets(&mut self, text: &str) -> (Target, u64) {
        let Self { events, heard, .. } = self;
        let gets = async {
            loop {
                let event = events.next().await.expect("it goes on");
                let Event::Delivered { timeline, position, envelope } = event else { continue };
                let said = match envelope.content.as_ref().and_then(|content| content.body.as_ref()) {
                    Some(Body::Text(said)) => said.body.clone(),
                    Some(Body::Recall(_)) => "(recall)".to_owned(),
                    other => format!("{other:?}"),
                };
                heard.push(said);
                if heard.last().is_some_and(|last| last == text) {
                    let target = Target::of(&timeline, position.seq, &envelope).expect("a message");
                    return (target, position.seq);
                }
            }
        };
        timeout(PATIENCE, gets).await.unwrap_or_else(|_| panic!("{text} did not come"))
    }

    /// Reports, as soon as the shard of this user's inbox is at the level for it: each shard rises by itself.
    async fn reports(&self, of: &str, seqs: &[u64], reason: ReportReason) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.report(Client::user(of), seqs.to_vec(), reason, "see for yourself").await {
                Ok(()) => return,
                Err(FetchError::Refused(refusal)) if refusal.retry => assert!(Instant::now() < until, "{refusal}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn is_refused(&self, group: &str, seqs: &[u64]) -> Code {
        match self.client.report(Client::group(group), seqs.to_vec(), ReportReason::Other, "").await {
            Err(FetchError::Refused(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn moderators_see_what_was_reported_also_when_its_author_has_taken_it_back_for_good() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut mallory = Person::enter(&cluster, 1, "mallory").await;
        let carol = Person::enter(&cluster, 1, "carol").await;
        for text in ["hello", "buy this now"] {
            mallory.client.send(Client::user("alice"), Client::text(text)).await.expect("accepted");
        }
        carol.client.send(Client::user("alice"), Client::text("between us")).await.expect("accepted");
        let (spam, seq) = alice.gets("buy this now").await;
        alice.gets("between us").await;
        let id = spam.message.id.clone();
        // The shard takes reports from now on.
        alice.reports("mallory", &[seq - 1], ReportReason::Abuse).await;
        let printed = message(&cluster, 0, "alice", &["report", &id, "--reason", "spam", "--text", "every day"]);
        assert_eq!(printed.expect("reported").trim(), "reported 1 message");

        // At the other gateway, for good, and nobody can read it any more.
        message(&cluster, 1, "mallory", &["recall", "--erase", &id]).expect("recalled");
        alice.gets("(recall)").await;
        let page = alice.client.fetch(&alice.inbox, Direction::Forward, 0, 0).await.expect("fetched");
        assert!(!format!("{:?}", page.entries).contains("buy this now"));

        let open = listed(&cluster, &[]);
        let [first, second] = &open[..] else { panic!("{open:?}") };
        assert_eq!((&first["reason"], &second["reason"]), (&"abuse".into(), &"spam".into()));
        assert_eq!((&second["by"], &second["conversation"]), (&"alice".into(), &"user/mallory".into()));
        assert_eq!((&second["authors"][0], &second["text"]), (&"mallory".into(), &"every day".into()));
        let (one, other) = (first["id"].as_str().expect("an id"), second["id"].as_str().expect("an id"));
        let shown = reports(&cluster, &["show", other]).expect("shown");
        assert!(
            shown.contains("every day") && shown.contains("> ") && shown.contains("mallory: buy this now"),
            "{shown}"
        );
        assert!(shown.contains("mallory: hello"), "what stands around it: {shown}");
        assert!(!shown.contains("between us"), "what others say is not theirs: {shown}");

        // Page by page, of a domain, and resolved.
        assert_eq!(listed(&cluster, &["--limit", "1"])[..], open[..1]);
        assert_eq!(listed(&cluster, &["--after", one])[..], open[1..]);
        assert_eq!(listed(&cluster, &["--default-domain"]), open);
        assert_eq!(listed(&cluster, &["--domain", "other.example"]), Vec::<Value>::new());
        reports(&cluster, &["resolve", one, "--note", "warned"]).expect("resolved");
        reports(&cluster, &["resolve", one, "--note", "warned"]).expect("a repeat");
        reports(&cluster, &["resolve", one, "--note", "no reason"]).expect_err("decided already");
        assert_eq!(listed(&cluster, &[])[..], open[1..]);
        let resolved = listed(&cluster, &["--resolved"]);
        assert_eq!((&resolved[0]["id"], &resolved[0]["note"]), (&one.into(), &"warned".into()));
        let shown = reports(&cluster, &["show", one, "--json"]).expect("shown");
        let shown: Value = serde_json::from_str(&shown).expect("an object");
        assert!(shown["evidence"].to_string().contains("buy this now"), "{shown}");
        reports(&cluster, &["resolve", one, "--remove"]).expect("removed");
        reports(&cluster, &["show", one]).expect_err("it is gone");

        // It is in an open report already: no further one, and a block.
        message(&cluster, 0, "alice", &["report", &id, "--reason", "illegal", "--block"]).expect("reported");
        assert_eq!(alice.client.privacy().await.expect("read").blocked, ["mallory"]);

        let node = &cluster.storage_addresses()[0];
        let exported = cluster.storage[0].command(&["user", "export", "alice", "--to", "-", "--node", node]);
        let exported = exported.expect("is exported");
        let own = exported.lines().filter(|line| line.contains("\"kind\":\"report\"")).collect::<Vec<_>>();
        assert!(own.len() == 1 && own[0].contains("every day") && own[0].contains("user/mallory"), "{own:?}");

        // The reported one has heard of nothing.
        carol.client.send(Client::user("mallory"), Client::text("the end")).await.expect("accepted");
        mallory.gets("the end").await;
        assert_eq!(mallory.heard, ["(recall)", "the end"]);

        // With the reporter its reports go.
        assert_eq!(listed(&cluster, &[]).len(), 1);
        let router = &cluster.router_addresses()[0];
        let _ = cluster.routers[0].command(&["user", "erase", "alice", "--no-wait", "--router", router]);
        let until = Instant::now() + 2 * PATIENCE;
        while !listed(&cluster, &[]).is_empty() {
            assert!(Instant::now() < until, "reports of an erased user stay");
        }
    });
}

/// Uploads a small file. Returns a message that refers to it, and the file's id.
async fn uploaded(person: &Person, name: &str) -> (Content, String) {
    let new = NewFile { size_bytes: 5, media_type: "x/y".into(), name: name.into() };
    let media = person.client.upload(new, &mut Cursor::new(name.as_bytes().to_vec())).await.expect("uploaded");
    let id = MediaReference::from_bytes(&media.id).expect("a reference").id().to_string();
    (Content { body: Some(Body::File(Media { id: media.id, ..Media::default() })), ..Content::default() }, id)
}

#[test]
fn a_reported_file_stays_for_the_moderators_until_the_report_is_removed() {
    let cluster = Cluster::start_with("storage.retention.unreferenced_media_ms = 10000\n");
    let is_kept = |id: &str| {
        let shards = std::fs::read_dir(cluster.data("files")).into_iter().flatten().flatten();
        shards
            .filter_map(|shard| std::fs::read_dir(shard.path().join(id)).ok())
            .any(|mut chunks| chunks.next().is_some())
    };
    Runtime::new().expect("runtime").block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mallory = Person::enter(&cluster, 1, "mallory").await;
        let (other, evidence) = (uploaded(&mallory, "other").await, uploaded(&mallory, "proof").await);
        let inbox = TimelineId::Inbox(UserId::new("mallory").expect("valid"));
        mallory.client.send(Client::user("alice"), other.0).await.expect("accepted");
        // Not near the first one.
        for number in 0..50 {
            mallory.client.send(Client::user("alice"), Client::text(&number.to_string())).await.expect("accepted");
        }
        mallory.client.send(Client::user("alice"), evidence.0).await.expect("accepted");
        let mut messages = Vec::new();
        while messages.len() < 2 {
            let Some(Event::Delivered { position, envelope, .. }) = alice.events.next().await else { continue };
            if matches!(envelope.content.as_ref().and_then(|content| content.body.as_ref()), Some(Body::File(_))) {
                messages.push((Target::of(&inbox, 0, &envelope).expect("a message"), position.seq));
            }
        }
        alice.reports("mallory", &[messages[1].1], ReportReason::Illegal).await;
        for (target, _) in &messages {
            mallory.client.recall(target, true).await.expect("recalled");
        }
        let looked_for =
            || cluster.routers.iter().map(|router| router.metric("carillon_router_media_checked_total")).sum::<f64>();
        until("the other file to be collected", 4 * PATIENCE, || !is_kept(&other.1) && looked_for() >= 2.0);
        assert!(is_kept(&evidence.1));

        let open = listed(&cluster, &[]);
        let report = open[0]["id"].as_str().expect("an id");
        let shown = reports(&cluster, &["show", report]).expect("shown");
        assert!(shown.contains(&format!("file {}", evidence.1)) && !shown.contains(&other.1), "{shown}");
        let told = reports(&cluster, &["file", report, &evidence.1, "--json"]).expect("told");
        let told: Value = serde_json::from_str(&told).expect("an object");
        assert_eq!((&told["name"], &told["size_bytes"]), (&"proof".into(), &5.into()));
        let path = told["url"].as_str().expect("an URL");
        assert!(path.starts_with("/media/"), "the routers know no other address: {path}");
        let ip = cluster.router_addresses()[0].parse::<SocketAddr>().expect("an address").ip();
        for gateway in [7810, 7811] {
            let got = get(SocketAddr::new(ip, gateway), path).expect("answers");
            assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("\r\n\r\nproof"), "{got}");
        }
        let refused = reports(&cluster, &["file", report, &other.1]).expect_err("refused");
        assert!(refused.contains("refers to no such file"), "{refused}");
        let log = cluster.routers[0].log();
        let told = log.lines().filter(|line| line.contains("a moderator got the address of a reported file"));
        let told: Vec<_> = told.collect();
        assert!(told.len() == 1 && told[0].contains(report) && told[0].contains(&evidence.1), "{told:?}");

        reports(&cluster, &["resolve", report]).expect("resolved");
        reports(&cluster, &["file", report, &evidence.1]).expect("a second moderator looks at it");
        reports(&cluster, &["resolve", report, "--remove"]).expect("removed");
        reports(&cluster, &["file", report, &evidence.1]).expect_err("there is no report");
        until("the evidence to be collected", 4 * PATIENCE, || !is_kept(&evidence.1));
    });
}

#[test]
fn who_can_not_read_a_group_can_not_report_what_is_said_in_it() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let ann = Person::enter(&cluster, 0, "ann").await;
        let bob = Person::enter(&cluster, 1, "bob").await;
        let eve = Person::enter(&cluster, 1, "eve").await;
        let create = CreateGroup { members: vec!["bob".to_owned()], ..CreateGroup::default() };
        let club = GroupId::new("club").expect("valid");
        ann.client.create_group(Some(&club), create).await.expect("made");
        let sent = ann.client.send(Client::group("club"), Client::text("among us")).await.expect("accepted");
        let seq = sent.position.expect("has one").seq;
        let until = Instant::now() + PATIENCE;
        loop {
            match bob.client.report(Client::group("club"), vec![seq], ReportReason::Abuse, "").await {
                Ok(()) => break,
                Err(FetchError::Refused(refusal)) if refusal.retry => assert!(Instant::now() < until, "{refusal}"),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(eve.is_refused("club", &[seq]).await, Code::NotFound);
        assert_eq!(eve.is_refused("nothing", &[seq]).await, Code::NotFound);
        assert_eq!(bob.is_refused("club", &[seq + 100]).await, Code::NotFound);
        assert_eq!(ann.is_refused("club", &[seq]).await, Code::Invalid, "her own message");
        let ban =
            ChangeMembers { kind: Kind::Banned.into(), users: vec!["bob".to_owned()], ..ChangeMembers::default() };
        ann.client.change_group(&club, Change::Members(ban)).await.expect("banned");
        assert_eq!(bob.is_refused("club", &[seq]).await, Code::NotFound);
        let open = listed(&cluster, &[]);
        assert_eq!(open.len(), 1, "{open:?}");
        assert_eq!((&open[0]["conversation"], &open[0]["authors"][0]), (&"group/club".into(), &"ann".into()));
    });
}

/// Open reports of a user.
const OPEN: u32 = 20;
/// Messages that are reported, one after the other.
const SAID: u32 = 40;

async fn reported(device: &mut Device, number: u32) -> Result<(), (Code, String)> {
    let report = Report {
        request: number,
        client_id: format!("r{number}"),
        conversation: Some(Client::user("mallory")),
        seqs: vec![u64::from(1 + (number - 1) % SAID)],
        reason: ReportReason::Spam.into(),
        text: String::new(),
    };
    assert!(device.say(client_frame::Body::Report(report)).await, "the connection is over");
    loop {
        match device.frame().await.expect("it goes on") {
            server_frame::Body::Done(done) => {
                assert_eq!(done.request, number);
                return Ok(());
            }
            server_frame::Body::Refused(refused) => return Err((refused.code(), refused.reason)),
            // Nobody has asked for it.
            _ => {}
        }
    }
}

#[test]
fn a_flood_of_reports_is_refused_and_old_reports_go_by_themselves() {
    let service = Service::start("gateway.fetch_burst = 1000\nstorage.retention.report_age_ms = 1000");
    service.block_on(async {
        let enter = async |user: &str| {
            let token = Credential::Token(service.token(user));
            enter(&service.address(Carrier::Tcp), user, "phone", &token).await.expect("signs in")
        };
        let mut alice = enter("alice").await;
        let mut mallory = enter("mallory").await;
        for number in 1..=SAID {
            mallory.send("alice", &number.to_string(), "buy this").await.expect("accepted");
        }
        // Some reports may grow old meanwhile.
        let until = Instant::now() + PATIENCE;
        let mut number = 0;
        let (code, reason) = loop {
            number += 1;
            match reported(&mut alice, number).await {
                Ok(()) => assert!(Instant::now() < until, "{number} reports are open"),
                Err(refused) => break refused,
            }
        };
        assert!(number > OPEN && code == Code::RateLimited && reason.contains("20 reports"), "{number}: {reason}");
        let listed = || done(&service, &["reports", "list"], "").lines().count() - 1;
        let until = Instant::now() + 2 * PATIENCE;
        while listed() > 0 {
            assert!(Instant::now() < until, "old reports stay");
        }
        reported(&mut alice, 10_000).await.expect("there is room again");
    });
}
