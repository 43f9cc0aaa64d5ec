//! Accounts from outside: what an operator does with `carillon user`, `session` and `token`, and what clients see of it.

mod support;

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use carillon_client::{Address, ConnectOptions, Connection, Credential, SignInError, sign_in};
use carillon_proto::pb::client::{
    Code, Content, Direction, Fetch, Page, Recipient, Send, SignIn, Text, Timeline, client_frame::Body, content,
    recipient, server_frame, timeline,
};
use support::{
    cluster::Cluster,
    service::{CLUSTER_SECRET, Carrier, Service, TOKEN_SECRET},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A command of the command line against a service. The password, if one is needed, comes from its standard input.
fn carillon(service: &Service, args: &[&str], stdin: &str) -> Output {
    command(args, &service.data(), &service.router().to_string(), stdin)
}

fn command(args: &[&str], data: &Path, router: &str, stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(["--set", &format!("cluster.secret={CLUSTER_SECRET}"), "--data-dir"]).arg(data).args(args);
    command.args(["--router", router]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("written");
    child.wait_with_output().expect("it ends")
}

/// The same, which must succeed: what it printed.
fn done(service: &Service, args: &[&str], stdin: &str) -> String {
    let output = carillon(service, args, stdin);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// The same, which must fail: what it complained of.
fn failed(service: &Service, args: &[&str]) -> String {
    let output = carillon(service, args, "");
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

/// A client that says and hears frames.
struct Device {
    connection: Connection,
    user: String,
    handle: String,
    /// The last position when it signed in.
    head: u64,
}

async fn enter(address: &Address, user: &str, device: &str, credential: &Credential) -> Result<Device, SignInError> {
    let mut connection = Connection::connect(address, &ConnectOptions::default()).await.expect("connects");
    let request = SignIn { user: user.to_owned(), device: device.to_owned(), ..SignIn::default() };
    let signed_in = sign_in(&mut connection, request, credential).await?;
    let head = signed_in.timelines[0].last;
    Ok(Device { connection, user: user.to_owned(), handle: signed_in.handle, head })
}

/// The one that these tests share. One machine has one clock: tokens need no leeway.
fn shared() -> &'static Service {
    static SHARED: OnceLock<Service> = OnceLock::new();
    SHARED.get_or_init(|| Service::start("gateway.jwt.leeway_s = 0"))
}

/// With a token that is new enough for an account that has just been made again.
async fn with_new_token(service: &Service, user: &str) -> Device {
    let until = Instant::now() + PATIENCE;
    loop {
        let token = Credential::Token(service.token(user));
        match enter(&service.address(Carrier::Tcp), user, "d", &token).await {
            Ok(device) => return device,
            Err(error) => assert!(Instant::now() < until, "new tokens are refused for ever: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn with_token(service: &Service, user: &str) -> Device {
    let token = Credential::Token(service.token(user));
    enter(&service.address(Carrier::Tcp), user, "d", &token).await.expect("signs in")
}

/// A refusal of the sign-in: its code.
fn code_of(result: Result<Device, SignInError>) -> Code {
    match result {
        Err(SignInError::Bye(bye)) => bye.code(),
        Err(other) => panic!("refused otherwise: {other}"),
        Ok(_) => panic!("signed in"),
    }
}

impl Device {
    async fn frame(&mut self) -> Option<server_frame::Body> {
        let frame = tokio::time::timeout(PATIENCE, self.connection.next_frame()).await.expect("in time");
        frame.ok().flatten().and_then(|frame| frame.body)
    }

    async fn say(&mut self, body: Body) -> bool {
        self.connection.send_frame(body).await.is_ok()
    }

    /// Sends a text; what came of it.
    async fn send(&mut self, to: &str, id: &str, text: &str) -> Result<(), Code> {
        let content = Content { body: Some(content::Body::Text(Text { body: text.to_owned() })) };
        let to = Recipient { to: Some(recipient::To::User(to.to_owned())) };
        let send = Send { client_id: id.to_owned(), to: Some(to), content: Some(content), after: String::new() };
        assert!(self.say(Body::Send(send)).await, "the connection is over");
        loop {
            match self.frame().await.expect("an answer") {
                server_frame::Body::Accepted(accepted) if accepted.client_id == id => return Ok(()),
                server_frame::Body::Refused(refused) => return Err(refused.code()),
                server_frame::Body::Bye(bye) => return Err(bye.code()),
                _ => {}
            }
        }
    }

    /// All that is kept of the inbox.
    async fn history(&mut self) -> Page {
        let timeline = Timeline { owner: Some(timeline::Owner::Inbox(self.user.clone())) };
        let fetch =
            Fetch { request: 1, timeline: Some(timeline), direction: Direction::Forward.into(), ..Fetch::default() };
        assert!(self.say(Body::Fetch(fetch)).await, "the connection is over");
        loop {
            match self.frame().await.expect("an answer") {
                server_frame::Body::Page(page) => return page,
                server_frame::Body::Deliver(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// What stands in the Bye that ends the connection, which must come by itself.
    async fn bye(&mut self) -> (Code, bool) {
        loop {
            match self.frame().await {
                Some(server_frame::Body::Bye(bye)) => return (bye.code(), bye.reconnect),
                Some(_) => {}
                None => panic!("the connection ended without a Bye"),
            }
        }
    }
}

#[test]
fn a_names_next_owner_sees_nothing_of_the_old_one() {
    let service = shared();
    done(service, &["user", "add", "bob", "--no-password"], "");
    done(service, &["user", "add", "alice", "--no-password"], "");
    service.block_on(async {
        let mut alice = with_token(service, "alice").await;
        alice.send("bob", "1", "private").await.expect("accepted");
        let mut bob = with_token(service, "bob").await;
        assert_eq!(bob.history().await.entries.len(), 1);
        let before = bob.history().await.epoch;
        done(service, &["user", "delete", "bob"], "");
        done(service, &["user", "add", "bob", "--no-password"], "");
        let mut bob = with_new_token(service, "bob").await;
        assert_eq!(bob.head, 0);
        let page = bob.history().await;
        assert_eq!(page.entries, [], "the old owner's messages");
        // The same client id is another message for another owner.
        alice.send("bob", "2", "hello").await.expect("accepted");
        let page = bob.history().await;
        assert_eq!((page.entries.len(), page.entries[0].seq), (1, 1));
        assert_ne!(page.epoch, before, "what a device holds of the old inbox says nothing about the new one");
        // What was sent to the old owner stays with its sender.
        assert_eq!(alice.history().await.entries.len(), 2);
    });
}

#[test]
fn a_deleted_user_is_put_out_and_stays_out() {
    let service = shared();
    let password = Credential::Password("a long secret".to_owned());
    done(service, &["user", "add", "carol", "--password-stdin"], "a long secret\n");
    done(service, &["user", "add", "dave", "--no-password"], "");
    service.block_on(async {
        let mut dave = with_token(service, "dave").await;
        let mut by_password =
            enter(&service.address(Carrier::WebSocketJson), "carol", "p", &password).await.expect("signs in");
        let mut by_token = with_token(service, "carol").await;
        dave.send("carol", "1", "hello").await.expect("accepted");
        done(service, &["user", "delete", "carol"], "");
        // At once, not after a minute.
        assert_eq!(dave.send("carol", "2", "are you there?").await, Err(Code::NotFound));
        assert_eq!(by_password.bye().await, (Code::Unauthenticated, false));
        assert_eq!(by_token.bye().await, (Code::Unauthenticated, false));
        let token = Credential::Token(service.token("carol"));
        let address = service.address(Carrier::Tcp);
        assert_eq!(code_of(enter(&address, "carol", "d", &token).await), Code::Unauthenticated);
        assert_eq!(code_of(enter(&address, "carol", "p", &password).await), Code::Unauthenticated);
    });
}

#[test]
fn a_deletion_that_deletes_nobody_says_so() {
    let service = shared();
    assert!(failed(service, &["user", "delete", "nobody"]).contains("there is no user \"nobody\""));
    done(service, &["user", "add", "erin", "--no-password"], "");
    done(service, &["user", "delete", "erin"], "");
    assert!(failed(service, &["user", "delete", "erin"]).contains("erin"));
}

#[test]
fn a_new_password_puts_out_whoever_signed_in_with_the_old_one() {
    let service = shared();
    done(service, &["user", "add", "frank", "--password-stdin"], "the first one\n");
    let address = service.address(Carrier::Tcp);
    let (old, new) = (Credential::Password("the first one".into()), Credential::Password("the second one".into()));
    service.block_on(async {
        let mut before = enter(&address, "frank", "a", &old).await.expect("signs in");
        before.send("frank", "1", "note").await.expect("accepted");
        done(service, &["user", "add", "frank", "--replace", "--password-stdin"], "the second one\n");
        assert_eq!(before.bye().await, (Code::Unauthenticated, false));
        assert_eq!(code_of(enter(&address, "frank", "a", &old).await), Code::Unauthenticated);
        let mut after = enter(&address, "frank", "a", &new).await.expect("signs in");
        assert_eq!(after.history().await.entries.len(), 1, "it is the same account");
    });
}

#[test]
fn a_replacement_without_a_password_puts_out_whoever_is_signed_in() {
    let service = shared();
    done(service, &["user", "add", "peggy", "--no-password"], "");
    service.block_on(async {
        let mut before = with_token(service, "peggy").await;
        done(service, &["user", "add", "peggy", "--no-password", "--replace"], "");
        assert_eq!(before.bye().await, (Code::Unauthenticated, false));
    });
}

#[test]
fn a_list_that_can_not_be_written_is_a_failure() {
    let service = shared();
    done(service, &["user", "add", "trent", "--no-password"], "");
    for list in [&["user", "list"][..], &["user", "list", "--json"], &["session", "list"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args(["--set", &format!("cluster.secret={CLUSTER_SECRET}"), "--data-dir"]).arg(service.data());
        command.args(list).args(["--router", &service.router().to_string()]).stdout(full).stderr(Stdio::piped());
        let output = command.output().expect("starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("standard output"), "{list:?}: {said}");
    }
}

/// A token with this id, issued so many seconds ago.
fn token(user: &str, id: &str, seconds_ago: u64) -> Credential {
    let now = carillon_proto::now_ms() / 1000;
    let claims = serde_json::json!({"sub": user, "jti": id, "iat": now - seconds_ago, "exp": now + 3600});
    Credential::Token(signed(&claims))
}

fn signed(claims: &serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(TOKEN_SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).expect("signs")
}

#[test]
fn a_token_of_the_owner_before_is_not_the_next_ones() {
    let service = shared();
    let address = service.address(Carrier::Tcp);
    let old = token("grace", "old", 60);
    done(service, &["user", "add", "grace", "--no-password"], "");
    service.block_on(async {
        enter(&address, "grace", "d", &old).await.expect("signs in");
        done(service, &["user", "delete", "grace"], "");
        done(service, &["user", "add", "grace", "--no-password"], "");
        assert_eq!(code_of(enter(&address, "grace", "d", &old).await), Code::Unauthenticated);
        let without_time = Credential::Token({
            signed(&serde_json::json!({"sub": "grace", "exp": carillon_proto::now_ms() / 1000 + 60}))
        });
        assert_eq!(code_of(enter(&address, "grace", "d", &without_time).await), Code::Unauthenticated);
        // One of the second in which the account was made may have been made before it.
        let shown = done(service, &["user", "list", "--json", "--limit", "5000"], "");
        let users = shown.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let made = users.into_iter().find(|user| user["user"] == "grace").expect("listed");
        let made_s = made["created_ms"].as_u64().expect("a time") / 1000;
        let of_that_second = Credential::Token(signed(&serde_json::json!({
            "sub": "grace", "iat": made_s, "exp": made_s + 3600
        })));
        match enter(&address, "grace", "d", &of_that_second).await {
            Err(SignInError::Bye(bye)) => {
                assert_eq!(bye.code(), Code::Unauthenticated);
                assert!(bye.reason.contains("before this account was made"), "{}", bye.reason);
            }
            Err(other) => panic!("refused otherwise: {other}"),
            Ok(_) => panic!("signed in"),
        }
        with_new_token(service, "grace").await;
    });
}

#[test]
fn revoked_tokens_are_refused_and_end_what_they_opened() {
    let service = shared();
    let address = service.address(Carrier::Grpc);
    done(service, &["user", "add", "heidi", "--password-stdin"], "a long secret\n");
    service.block_on(async {
        let mut stolen = enter(&address, "heidi", "a", &token("heidi", "stolen", 5)).await.expect("signs in");
        let mut other = enter(&address, "heidi", "b", &token("heidi", "other", 5)).await.expect("signs in");
        let password = Credential::Password("a long secret".into());
        let mut by_password = enter(&address, "heidi", "c", &password).await.expect("signs in");
        let said = done(service, &["token", "revoke", "heidi", "--id", "stolen"], "");
        assert!(said.contains("1 session ended"), "{said}");
        assert_eq!(stolen.bye().await, (Code::Unauthenticated, false));
        assert_eq!(code_of(enter(&address, "heidi", "a", &token("heidi", "stolen", 0)).await), Code::Unauthenticated);
        other.send("heidi", "1", "still here").await.expect("accepted");
        done(service, &["token", "revoke", "heidi", "--before", "now"], "");
        assert_eq!(other.bye().await, (Code::Unauthenticated, false));
        by_password.send("heidi", "2", "still here").await.expect("accepted");
        assert_eq!(code_of(enter(&address, "heidi", "b", &token("heidi", "older", 5)).await), Code::Unauthenticated);
        // From the next second on.
        let until = std::time::Instant::now() + PATIENCE;
        while enter(&address, "heidi", "b", &token("heidi", "new", 0)).await.is_err() {
            assert!(std::time::Instant::now() < until, "new tokens are refused for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let shown = done(service, &["user", "show", "heidi"], "");
        assert!(shown.contains("token stolen until") && shown.contains("refused if issued before"), "{shown}");
    });
    assert!(failed(service, &["token", "revoke", "nobody", "--before", "now"]).contains("no user"));
}

#[test]
fn an_operator_sees_and_ends_sessions() {
    let service = shared();
    let address = service.address(Carrier::WebSocketProto);
    done(service, &["user", "add", "ivan", "--no-password"], "");
    let sessions = |args: &[&str]| -> Vec<serde_json::Value> {
        let list = done(service, &[&["session", "list", "--json"], args].concat(), "");
        list.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    service.block_on(async {
        let mut phone = enter(&address, "ivan", "phone", &token("ivan", "t1", 0)).await.expect("signs in");
        let mut laptop = enter(&address, "ivan", "laptop", &token("ivan", "t2", 0)).await.expect("signs in");
        let his = sessions(&["--user", "ivan"]);
        assert_eq!(his.len(), 2, "{his:?}");
        assert_eq!((&his[0]["device"], &his[0]["handle"]), (&"laptop".into(), &laptop.handle.clone().into()));
        assert_eq!((&his[1]["protocol"], &his[1]["token_id"]), (&"websocket".into(), &"t1".into()));
        assert!(sessions(&[]).iter().any(|session| session["handle"] == *phone.handle));
        let said = done(service, &["session", "end", &phone.handle], "");
        assert!(said.contains("ivan") && said.contains("1 session ended"), "{said}");
        assert_eq!(phone.bye().await, (Code::Unauthenticated, false));
        laptop.send("ivan", "1", "still here").await.expect("accepted");
        assert!(failed(service, &["session", "end", &phone.handle]).contains("no session"));
        // He may come back: his credentials hold.
        let mut phone = enter(&address, "ivan", "phone", &token("ivan", "t1", 0)).await.expect("signs in");
        done(service, &["session", "end", "--user", "ivan"], "");
        assert_eq!(phone.bye().await, (Code::Unauthenticated, false));
        assert_eq!(laptop.bye().await, (Code::Unauthenticated, false));
        assert_eq!(sessions(&["--user", "ivan"]), Vec::<serde_json::Value>::new());
    });
    let users = done(service, &["user", "list", "--json", "--limit", "5000"], "");
    let users: Vec<serde_json::Value> = users.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ivan = users.iter().find(|user| user["user"] == "ivan").expect("listed");
    assert_eq!((&ivan["password"], &ivan["deleted_ms"]), (&false.into(), &serde_json::Value::Null));
    let names: Vec<_> = users.iter().map(|user| user["user"].as_str().expect("a name").to_owned()).collect();
    assert!(names.is_sorted(), "{names:?}");
    done(service, &["user", "delete", "ivan"], "");
    assert!(!done(service, &["user", "list"], "").contains("ivan"));
    assert!(done(service, &["user", "list", "--deleted"], "").contains("ivan"));
    assert!(done(service, &["user", "show", "ivan"], "").contains("deleted"));
    assert!(failed(service, &["user", "show", "nobody"]).contains("no user"));
}

#[test]
fn a_deletion_puts_out_who_is_connected_to_any_gateway() {
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let admin = |cluster: &Cluster, args: &[&str], stdin: &str| {
        let routers = &cluster.router_addresses()[..];
        // Through each router in turn: the one that is asked need not own the user.
        for (number, router) in routers.iter().enumerate() {
            let mut args: Vec<&str> = args.to_vec();
            let name = format!("{}{number}", args[2]);
            args[2] = &name;
            let output = command(&args, &cluster.data("router-0"), router, stdin);
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    };
    admin(&cluster, &["user", "add", "judy", "--password-stdin"], "the first one\n");
    runtime.block_on(async {
        let password = Credential::Password("the first one".into());
        let mut connected = Vec::new();
        for user in ["judy0", "judy1"] {
            for address in &cluster.addresses {
                let device = format!("d{}", connected.len());
                connected.push(enter(address, user, &device, &password).await.expect("signs in"));
            }
        }
        admin(&cluster, &["user", "add", "judy", "--replace", "--password-stdin"], "the second one\n");
        for device in &mut connected {
            assert_eq!(device.bye().await, (Code::Unauthenticated, false), "{}", device.user);
        }
        let password = Credential::Password("the second one".into());
        let mut connected = Vec::new();
        for user in ["judy0", "judy1"] {
            for address in &cluster.addresses {
                let device = format!("d{}", connected.len());
                connected.push(enter(address, user, &device, &password).await.expect("signs in"));
            }
        }
        admin(&cluster, &["user", "delete", "judy"], "");
        for device in &mut connected {
            assert_eq!(device.bye().await, (Code::Unauthenticated, false), "{}", device.user);
        }
    });
    for node in cluster.nodes() {
        node.kill();
    }
}

#[test]
fn a_message_that_comes_again_goes_to_nobody_when_the_name_has_another_owner() {
    let service = shared();
    for user in ["olivia", "quentin"] {
        done(service, &["user", "add", user, "--no-password"], "");
    }
    service.block_on(async {
        let mut olivia = with_token(service, "olivia").await;
        olivia.send("quentin", "1", "private").await.expect("accepted");
        done(service, &["user", "delete", "quentin"], "");
        done(service, &["user", "add", "quentin", "--no-password"], "");
        // As a client does that has not heard the answer.
        olivia.send("quentin", "1", "private").await.expect("accepted already");
        assert_eq!(olivia.send("quentin", "1", "something else").await, Err(Code::Invalid));
        olivia.send("quentin", "2", "hello").await.expect("accepted");
        let mut quentin = with_new_token(service, "quentin").await;
        let page = quentin.history().await;
        let ids: Vec<_> = page.entries.into_iter().map(|entry| entry.envelope.expect("set").client_id).collect();
        assert_eq!(ids, ["2"]);
        assert_eq!(olivia.history().await.entries.len(), 2);
    });
}

#[test]
fn nothing_is_accepted_from_a_deleted_users_session_on_a_gateway_that_stood_still() {
    const SENDS: usize = 60;
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let router = cluster.router_addresses()[0].clone();
    let admin = |args: &[&str], stdin: &str| {
        let output = command(args, &cluster.data("router-0"), &router, stdin);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    runtime.block_on(async {
        admin(&["user", "add", "mallory", "--password-stdin"], "the first one\n");
        let password = |text: &str| Credential::Password(text.into());
        let alice = Credential::Token(cluster.token("alice"));
        let mut alice = enter(&cluster.addresses[1], "alice", "d", &alice).await.expect("signs in");
        let mut before =
            enter(&cluster.addresses[0], "mallory", "d", &password("the first one")).await.expect("signs in");
        cluster.gateways[0].signal("STOP");
        for number in 0..SENDS {
            let content = Content { body: Some(content::Body::Text(Text { body: "late".to_owned() })) };
            let to = Some(Recipient { to: Some(recipient::To::User("alice".to_owned())) });
            let send = Send { client_id: number.to_string(), to, content: Some(content), after: String::new() };
            assert!(before.say(Body::Send(send)).await, "what is sent waits for the gateway");
        }
        admin(&["user", "delete", "mallory"], "");
        admin(&["user", "add", "mallory", "--password-stdin"], "the second one\n");
        cluster.gateways[0].signal("CONT");
        loop {
            match before.frame().await.expect("a Bye") {
                server_frame::Body::Accepted(accepted) => panic!("accepted: {accepted:?}"),
                server_frame::Body::Bye(bye) => break assert_eq!(bye.code(), Code::Unauthenticated),
                _ => {}
            }
        }
        // Behind all that, on the same way to the same inbox.
        let mut after =
            enter(&cluster.addresses[0], "mallory", "d", &password("the second one")).await.expect("signs in");
        after.send("alice", "hello", "hello").await.expect("accepted");
        let page = alice.history().await;
        let ids: Vec<_> = page.entries.into_iter().map(|entry| entry.envelope.expect("set").client_id).collect();
        assert_eq!(ids, ["hello"], "sent by the name's owner before");
    });
    for node in cluster.nodes() {
        node.kill();
    }
}

#[test]
fn a_user_has_only_so_many_devices() {
    let service = Service::start("router.max_devices_per_user = 2");
    service.block_on(async {
        let token = Credential::Token(service.token("alice"));
        let address = service.address(Carrier::Tcp);
        let first = enter(&address, "alice", "one", &token).await.expect("signs in");
        let _second = enter(&address, "alice", "two", &token).await.expect("signs in");
        assert_eq!(code_of(enter(&address, "alice", "three", &token).await), Code::Overloaded);
        let _again = enter(&address, "alice", "two", &token).await.expect("a device that is signed in already");
        drop(first);
        // Until the gateway has seen the end of it.
        let deadline = std::time::Instant::now() + PATIENCE;
        while enter(&address, "alice", "three", &token).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "waited for the place of a device that has left");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}
