//! Several domains on one service: each with keys of its own, and nothing crosses between them unless it is allowed.

mod support;

use std::{
    io::Cursor,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use carillon_client::{
    Change, Client, ClientConfig, ContactChange, Credential, Event, Events, FetchError, NewFile, Refusal, SendError,
    Target,
};
use carillon_proto::{
    GroupId, TimelineId, UserId, now_ms,
    pb::client::{
        ChangeMembers, Code, Content, CreateGroup, Direction, Media, ReportReason, Show, content::Body,
        members_change::Kind,
    },
    tasks::Tasks,
};
use serde_json::Value;
use support::{
    people::{done, failed},
    service::{Carrier, Service},
};
use tokio::time::timeout;

const ACME: &str = "the-secret-of-acme-of-at-least-32-bytes";
const PARTNER: &str = "the-secret-of-partner-of-at-least-32-bytes";

fn token(secret: &str, sub: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = serde_json::json!({"sub": sub, "iat": now, "exp": now + 3600});
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("signs")
}

/// Runs `carillon` with this token. Ok: what it printed; an error: what it complained of.
fn carillon(service: &Service, carrier: Carrier, token: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(args).env("CARILLON_URL", service.address(carrier).to_string()).env("CARILLON_TOKEN", token);
    let output = command.output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn service() -> Service {
    let domain = |name: &str, secret: &str| {
        format!("gateway.domains.{name:?}.jwt.keys = [{{ algorithm = \"HS256\", secret = {secret:?} }}]\n")
    };
    Service::start(&format!("{}{}", domain("acme.example", ACME), domain("partner.example", PARTNER)))
}

#[test]
fn users_of_a_domain_reach_each_other_and_nobody_else_unless_it_is_allowed() {
    let service = service();
    done(&service, &["domain", "set", "--default-domain", "--crosses-to", "partner.example"], "");
    let send =
        |carrier, token: &str, from: &str, to: &str| carillon(&service, carrier, token, &["send", from, to, "hello"]);
    let (ann, bob) = ("ann@acme.example", "bob@acme.example");
    let (anns, bobs) = (token(ACME, "ann"), token(ACME, bob));
    // A local part names somebody else in each domain.
    let (default_ann, partner_ann) = (service.token("ann"), token(PARTNER, "ann"));
    for (carrier, own, name) in [
        (Carrier::Tcp, &anns, ann),
        (Carrier::WebSocketProto, &bobs, bob),
        (Carrier::Grpc, &default_ann, "ann"),
        (Carrier::Tcp, &partner_ann, "ann@partner.example"),
    ] {
        send(carrier, own, name, name).expect("signs in, and writes to itself");
    }
    send(Carrier::WebSocketProto, &anns, ann, bob).expect("both are of acme.example");

    let other_domain = |refused: Result<String, String>| {
        let why = refused.expect_err("refused");
        assert!(why.contains("is of a domain that this one does not talk to"), "{why}");
    };
    other_domain(send(Carrier::Tcp, &anns, ann, "ann"));
    other_domain(send(Carrier::WebSocketProto, &default_ann, "ann", bob));
    other_domain(send(Carrier::Grpc, &anns, ann, "ann@partner.example"));
    other_domain(send(Carrier::Tcp, &anns, ann, "somebody@nowhere.example"));
    send(Carrier::Tcp, &default_ann, "ann", "ann@partner.example").expect("allowed");
    send(Carrier::Tcp, &partner_ann, "ann@partner.example", "ann").expect("allowed");

    // Nobody gets into another domain by a token of the own one.
    for (token, name) in [(&anns, "ann"), (&anns, "ann@partner.example"), (&default_ann, ann), (&partner_ann, ann)] {
        let why = send(Carrier::Tcp, token, name, name).expect_err("refused");
        assert!(why.contains("CODE_UNAUTHENTICATED") || why.contains("token"), "{why}");
    }
    let foreign = token(ACME, "eve@partner.example");
    assert!(send(Carrier::Tcp, &foreign, "", "eve@partner.example").is_err());

    let group = |token: &str, user: &str, args: &[&str]| {
        carillon(&service, Carrier::Tcp, token, &[&["group", "--as", user], args].concat())
    };
    group(&anns, ann, &["create", "club@acme.example", "--open", "true", "--member", bob]).expect("made");
    group(&bobs, bob, &["send", "club@acme.example", "hello"]).expect("a member");
    other_domain(group(&default_ann, "ann", &["join", "club@acme.example"]));
    other_domain(group(&default_ann, "ann", &["show", "club@acme.example"]));
    other_domain(group(&anns, ann, &["add", "club@acme.example", "ann"]));
    other_domain(group(&anns, ann, &["create", "club"]));
    let made = group(&anns, ann, &["create"]).expect("made");
    assert!(made.trim().ends_with("@acme.example was made"), "{made}");

    let contact = |token: &str, user: &str, args: &[&str]| {
        carillon(&service, Carrier::Tcp, token, &[&["contact", "--as", user], args].concat())
    };
    contact(&anns, ann, &["add", bob]).expect("both are of acme.example");
    other_domain(contact(&anns, ann, &["add", "ann"]));
    other_domain(contact(&anns, ann, &["accept", "ann@partner.example"]));
    contact(&default_ann, "ann", &["add", "ann@partner.example"]).expect("allowed");
}

const PATIENCE: Duration = Duration::from_secs(60);

struct Device {
    client: Client,
    events: Events,
    inbox: TimelineId,
    /// Texts that have come, and whether contacts are there.
    heard: Vec<String>,
    _tasks: Tasks,
}

impl Device {
    async fn enter(service: &Service, secret: &str, user: &str, device: &str) -> Self {
        let tasks = Tasks::new();
        let addresses = vec![service.address(Carrier::WebSocketProto)];
        let config = ClientConfig::new(addresses, user, device, Credential::Token(token(secret, user)));
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        client.show(Show::Online, "", 0).await.expect("is there");
        let inbox = TimelineId::Inbox(UserId::new(user).expect("valid"));
        Self { client, events, inbox, heard: Vec::new(), _tasks: tasks }
    }

    /// Waits for this.
    async fn hears(&mut self, what: &str) {
        let Self { events, heard, .. } = self;
        let hears = async {
            while heard.last().is_none_or(|last| last != what) {
                match events.next().await.expect("it goes on") {
                    Event::Delivered { envelope, .. } => {
                        match envelope.content.as_ref().and_then(|content| content.body.as_ref()) {
                            Some(Body::Text(text)) => heard.push(text.body.clone()),
                            Some(Body::File(_)) => heard.push("(file)".to_owned()),
                            _ => {}
                        }
                    }
                    Event::Presence(presence) => {
                        let is_there = if presence.show() == Show::Unspecified { "gone" } else { "there" };
                        heard.push(format!("{} is {is_there}", presence.user));
                    }
                    _ => {}
                }
            }
        };
        if timeout(PATIENCE, hears).await.is_err() {
            panic!("{what} did not come, but {:?}", self.heard);
        }
    }

    /// Tries one thing after the other. `None`: it was done.
    async fn tries(
        &self,
        other: &str,
        club: &GroupId,
        file: &Content,
        seqs: [u64; 2],
    ) -> Vec<(&'static str, Option<Code>)> {
        let Some(Body::File(media)) = &file.body else { panic!("a file") };
        let (group, [file_at, said_at]) = (TimelineId::Group(club.clone()), seqs);
        let user = UserId::new(other).expect("valid");
        // With the reference in a message of its own.
        let own = self.client.send(Client::user(self.inbox.owner()), file.clone()).await.expect("to itself");
        let own_at = own.position.expect("has one").seq;
        let soon = now_ms() + 3_600_000;
        vec![
            ("send", sent(self.client.send(Client::user(other), Client::text("hi")).await)),
            ("send to the group", sent(self.client.send(Client::group(club.as_str()), Client::text("all")).await)),
            ("schedule", fetched(self.client.schedule(Client::user(other), Client::text("later"), soon).await)),
            (
                "schedule to the group",
                fetched(self.client.schedule(Client::group(club.as_str()), Client::text("x"), soon).await),
            ),
            ("read the group", fetched(self.client.read_group(club).await)),
            ("read its history", fetched(self.client.fetch(&group, Direction::Backward, 0, 9).await)),
            ("read its members", fetched(self.client.read_members(members_of(club)).await)),
            (
                "report what was said in it",
                fetched(self.client.report(Client::group(club.as_str()), vec![said_at], ReportReason::Spam, "").await),
            ),
            ("be a contact", fetched(self.client.change_contact(&user, ContactChange::Subscribe(String::new())).await)),
            ("get the file", fetched(self.client.media_url(&media.id, Some((&self.inbox, file_at))).await)),
            ("get it by an own message", fetched(self.client.media_url(&media.id, Some((&self.inbox, own_at))).await)),
        ]
    }
}

fn members_of(club: &GroupId) -> carillon_proto::pb::client::ReadMembers {
    carillon_proto::pb::client::ReadMembers { group: club.as_str().to_owned(), ..Default::default() }
}

fn sent<T>(result: Result<T, SendError>) -> Option<Code> {
    match result {
        Ok(_) => None,
        Err(SendError::Refused(Refusal { code, .. })) => Some(code),
        Err(error) => panic!("{error}"),
    }
}

fn fetched<T>(result: Result<T, FetchError>) -> Option<Code> {
    match result {
        Ok(_) => None,
        Err(FetchError::Refused(Refusal { code, .. })) => Some(code),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_was_allowed_between_domains_ends_at_once_for_all_that_there_is() {
    let service = service();
    let decides = |args: &[&str]| done(&service, &[&["domain", "set", "acme.example"], args].concat(), "");
    let (ann_name, pam_name) = ("ann@acme.example", "pam@partner.example");
    service.block_on(async {
        let mut ann = Device::enter(&service, ACME, ann_name, "phone").await;
        let mut bob = Device::enter(&service, ACME, "bob@acme.example", "phone").await;
        let mut pam = Device::enter(&service, PARTNER, pam_name, "phone").await;
        let eve = Device::enter(&service, PARTNER, "eve@partner.example", "phone").await;
        assert_eq!(sent(pam.client.send(Client::user(ann_name), Client::text("hi")).await), Some(Code::Forbidden));
        decides(&["--crosses-to", "partner.example"]);
        let until = Instant::now() + PATIENCE;
        while sent(pam.client.send(Client::user(ann_name), Client::text("allowed")).await).is_some() {
            assert!(Instant::now() < until, "the router has not heard of it");
        }
        ann.hears("allowed").await;

        // They are contacts, in one group, and one has a file of the other one.
        let (ann_id, pam_id) = (UserId::new(ann_name).expect("valid"), UserId::new(pam_name).expect("valid"));
        for (one, other) in [(&ann, &pam_id), (&pam, &ann_id)] {
            one.client.change_contact(other, ContactChange::Subscribe(String::new())).await.expect("asked");
            one.client.change_contact(other, ContactChange::Accept).await.expect("accepted");
        }
        ann.hears("pam@partner.example is there").await;
        pam.hears("ann@acme.example is there").await;
        let club = GroupId::new("club@acme.example").expect("valid");
        let members = vec![pam_name.to_owned(), "bob@acme.example".to_owned()];
        ann.client.create_group(Some(&club), CreateGroup { members, ..CreateGroup::default() }).await.expect("made");
        let said = ann.client.send(Client::group(club.as_str()), Client::text("welcome")).await.expect("accepted");
        pam.hears("welcome").await;
        bob.hears("welcome").await;
        let new = NewFile { size_bytes: 5, media_type: "x/y".into(), name: "x".into() };
        let uploaded = ann.client.upload(new, &mut Cursor::new(b"bytes".to_vec())).await.expect("uploaded");
        let media = Media { id: uploaded.id, ..Media::default() };
        let file = Content { body: Some(Body::File(media)), ..Content::default() };
        ann.client.send(Client::user(pam_name), file.clone()).await.expect("accepted");
        pam.hears("(file)").await;
        let page = pam.client.fetch(&pam.inbox, Direction::Backward, 0, 1).await.expect("fetched");
        let file_at = page.entries[0].seq;
        let seqs = [file_at, said.position.expect("has one").seq];
        for (what, code) in pam.tries(ann_name, &club, &file, seqs).await {
            assert_eq!(code, None, "{what}");
        }
        let add = |user: &str| ChangeMembers {
            kind: Kind::Added.into(),
            users: vec![user.to_owned()],
            ..ChangeMembers::default()
        };
        let invite = |user: &str| ChangeMembers {
            kind: Kind::Invited.into(),
            users: vec![user.to_owned()],
            ..ChangeMembers::default()
        };

        decides(&["--parts-from", "partner.example"]);
        let until = Instant::now() + PATIENCE;
        while sent(pam.client.send(Client::user(ann_name), Client::text("still")).await).is_none() {
            assert!(Instant::now() < until, "the router has not heard of it");
        }
        for (what, code) in pam.tries(ann_name, &club, &file, seqs).await {
            let expected = if what.contains("get") { Code::NotFound } else { Code::Forbidden };
            assert_eq!(code, Some(expected), "{what}");
        }
        assert_eq!(sent(ann.client.send(Client::user(pam_name), Client::text("hi")).await), Some(Code::Forbidden));
        for change in [add("eve@partner.example"), invite("eve@partner.example")] {
            let changed = ann.client.change_group(&club, Change::Members(change)).await;
            assert_eq!(sent(changed), Some(Code::Forbidden));
        }
        // Each is gone for the other one, and nothing of the group comes.
        ann.hears("pam@partner.example is gone").await;
        pam.hears("ann@acme.example is gone").await;
        ann.client.send(Client::group(club.as_str()), Client::text("among us")).await.expect("accepted");
        bob.hears("among us").await;
        eve.client.send(Client::user(pam_name), Client::text("of partner")).await.expect("accepted");
        pam.hears("of partner").await;
        let again = Device::enter(&service, PARTNER, pam_name, "tablet").await;
        assert!(!pam.heard.iter().any(|heard| heard == "among us"), "{:?}", pam.heard);

        // By the other one's name, and the group is there again from the next sign-in on.
        done(&service, &["domain", "set", "partner.example", "--crosses-to", "acme.example"], "");
        let until = Instant::now() + PATIENCE;
        while sent(again.client.send(Client::user(ann_name), Client::text("again")).await).is_some() {
            assert!(Instant::now() < until, "the router has not heard of it");
        }
        let listed = done(&service, &["domain", "list"], "");
        assert_eq!(listed.matches("crosses-to=").count(), 2, "both domains tell of it: {listed}");
        pam.client.close().await;
        let mut pam = Device::enter(&service, PARTNER, pam_name, "phone").await;
        pam.hears("among us").await;
        ann.hears("pam@partner.example is there").await;
    });
}

#[test]
fn what_was_begun_before_two_domains_parted_is_ended_from_both_sides() {
    let service = service();
    let [ann, bob, pam] = ["ann@acme.example", "bob@acme.example", "pam@partner.example"];
    let [eve, dan, ivy] = ["eve@partner.example", "dan@partner.example", "ivy@partner.example"];
    let zoe = "zoe@partner.example";
    let runs = |user: &str, args: &[&str]| {
        let secret = if user.ends_with("acme.example") { ACME } else { PARTNER };
        carillon(&service, Carrier::Tcp, &token(secret, user), args)
    };
    let runs_as = |user: &str, command: &str, args: &[&str]| runs(user, &[&[command, "--as", user], args].concat());
    let other_domain = |refused: Result<String, String>| {
        let why = refused.expect_err("refused");
        assert!(why.contains("is of a domain that this one does not talk to"), "{why}");
    };
    // The id of the message.
    let sends = |from: &str, to: &str, text: &str| {
        let sent = runs(from, &["send", from, to, text]).expect("sent");
        sent.split_whitespace().nth(1).expect("accepted, and the id").to_owned()
    };
    let is_read = |user: &str, with: &str, text: &str| {
        runs_as(user, "message", &["list", "--with", with]).expect("listed").contains(text)
    };
    for user in [ann, bob, pam, eve, dan, ivy, zoe] {
        sends(user, user, "hello");
    }
    done(&service, &["domain", "set", "acme.example", "--crosses-to", "partner.example"], "");
    let until = Instant::now() + PATIENCE;
    while runs(pam, &["send", pam, ann, "allowed"]).is_err() {
        assert!(Instant::now() < until, "the router has not heard of it");
    }
    let (to_pam, to_ann) = (sends(ann, pam, "words of ann"), sends(pam, ann, "words of pam"));
    let (to_dan, to_bob) = (sends(ann, dan, "words for dan"), sends(ann, bob, "words for bob"));
    let club = "club@acme.example";
    let members = ["--member", bob, "--member", pam, "--member", eve, "--member", dan];
    runs_as(ann, "group", &[&["create", club][..], &members].concat()).expect("made");
    for invited in [ivy, zoe] {
        runs_as(ann, "group", &["invite", club, invited]).expect("invited");
    }
    for (user, other) in [(ann, pam), (pam, ann)] {
        runs_as(user, "contact", &["add", other]).expect("asked");
    }
    let in_club = TimelineId::Group(GroupId::new(club).expect("valid"));
    let said_there = service.block_on(async {
        let pam = Device::enter(&service, PARTNER, pam, "phone").await;
        pam.client.send(Client::group(club), Client::text("said by pam")).await.expect("accepted");
        let page = pam.client.fetch(&in_club, Direction::Backward, 0, 1).await.expect("fetched");
        let entry = &page.entries[0];
        Target::of(&in_club, entry.seq, entry.envelope.as_ref().expect("has one")).expect("a message")
    });
    let typed = runs_as(pam, "group", &["send", club, "typed by pam", "--json"]).expect("accepted");
    let typed: Value = serde_json::from_str(&typed).expect("one object");

    done(&service, &["domain", "set", "acme.example", "--parts-from", "partner.example"], "");
    let until = Instant::now() + PATIENCE;
    while runs(pam, &["send", pam, ann, "still"]).is_ok() {
        assert!(Instant::now() < until, "the router has not heard of it");
    }

    // What was said is taken back, for good or not, in both inboxes and in the group.
    assert!(is_read(pam, ann, "words of ann") && is_read(ann, pam, "words of pam"));
    runs_as(ann, "message", &["recall", &to_pam, "--erase"]).expect("recalled");
    runs_as(pam, "message", &["recall", &to_ann]).expect("recalled");
    for (user, other) in [(ann, pam), (pam, ann)] {
        assert!(!is_read(user, other, "words of"), "in both inboxes");
    }
    let club_says =
        |words| runs(bob, &["message", "--as", bob, "--group", club, "list"]).expect("listed").contains(words);
    assert!(club_says("said by pam") && club_says("typed by pam"));
    service.block_on(async {
        let pam = Device::enter(&service, PARTNER, pam, "phone").await;
        pam.client.recall(&said_there, true).await.expect("recalled");
    });
    // The command line can't look for a message there.
    let id = typed["accepted"].as_str().expect("an id");
    let recall = ["--group", club, "recall", id];
    other_domain(runs_as(pam, "message", &recall));
    let (position, client_id) = (typed["position"].to_string(), typed["client_id"].as_str().expect("an id"));
    let named = ["--position", &position, "--client-id", client_id];
    runs_as(pam, "message", &[&recall[..], &named].concat()).expect("recalled");
    assert!(!club_says("said by pam") && !club_says("typed by pam"));

    // Members and the invited leave, and owners let them go. Nobody from beyond the border gets anything.
    runs_as(pam, "group", &["leave", club]).expect("left");
    runs_as(ivy, "group", &["leave", club]).expect("refused the invitation");
    other_domain(runs_as(pam, "group", &["join", club]));
    other_domain(runs_as(ann, "group", &["role", club, "admin", eve]));
    other_domain(runs_as(ann, "group", &["invite", club, ivy]));
    let refused = failed(&service, &["groups", "role", club, "owner", eve]);
    assert!(refused.contains("is of a domain that the group's does not talk to"), "{refused}");
    runs_as(ann, "group", &["role", club, "member", eve]).expect("no higher one");
    runs_as(ann, "group", &["role", club, "reader", eve]).expect("lower");
    other_domain(runs_as(ann, "group", &["role", club, "member", eve]));
    runs_as(ann, "group", &["mute", club, "1h", eve]).expect("muted");
    other_domain(runs_as(ann, "group", &["mute", club, "0", eve]));
    runs_as(ann, "group", &["remove", club, eve]).expect("removed");
    for user in [eve, "nobody@partner.example"] {
        let refused = runs_as(ann, "group", &["remove", club, user]).expect_err("no member");
        assert!(refused.contains("is not a member"), "the same for both: {refused}");
        runs_as(ann, "group", &["ban", club, user]).expect("banned");
    }
    runs_as(ann, "group", &["ban", club, zoe]).expect("banned");
    let until = Instant::now() + PATIENCE;
    while runs_as(zoe, "group", &["list"]).expect("listed").contains(club) {
        assert!(Instant::now() < until, "she still has the invitation");
    }
    assert!(done(&service, &["groups", "remove", club, dan], "").contains("is no longer in"));
    let refused = failed(&service, &["groups", "remove", club, dan]);
    assert!(refused.contains("dan@partner.example is no member of club@acme.example"), "{refused}");
    let members = done(&service, &["groups", "members", club], "");
    assert!(members.contains(bob) && !members.contains("partner.example"), "{members}");
    let listed = runs_as(eve, "group", &["list"]).expect("listed");
    assert!(!listed.contains(club), "she knows that she was removed: {listed}");

    // Blocks and contacts.
    for who in [pam, "nobody@partner.example"] {
        runs_as(ann, "privacy", &["block", who]).expect("blocked");
        runs_as(ann, "privacy", &["unblock", who]).expect("not any more");
    }
    other_domain(runs_as(ann, "contact", &["accept", pam]));
    runs_as(ann, "contact", &["refuse", pam]).expect("refused");
    runs_as(pam, "contact", &["unsubscribe", ann]).expect("ended");
    runs_as(pam, "contact", &["remove", ann]).expect("removed");

    // The accounts have ended: the own copies go.
    for (user, id, words) in [(dan, &to_dan, "words for dan"), (bob, &to_bob, "words for bob")] {
        done(&service, &["user", "delete", user], "");
        assert!(is_read(ann, user, words));
        runs_as(ann, "message", &["recall", id, "--erase"]).expect("recalled");
        assert!(!is_read(ann, user, words));
    }
}
