//! The operator's settings of domains: administrators of one, and limits. See docs/adr/0036-domain-rules.md.

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use carillon_proto::pb::DESCRIPTORS;
use prost::Message as _;
use support::{
    people::{carillon, done, failed},
    service::{Carrier, Service},
};
use tonic::{Code, Request, codegen::http::uri::PathAndQuery};

const ACME: &str = "the-secret-of-acme-of-at-least-32-bytes";
const PARTNER: &str = "the-secret-of-partner-of-at-least-32-bytes";
const PATIENCE: Duration = Duration::from_secs(60);

fn service() -> Service {
    let domain = |name: &str, secret: &str| {
        format!("gateway.domains.{name:?}.jwt.keys = [{{ algorithm = \"HS256\", secret = {secret:?} }}]\n")
    };
    Service::start(&format!("{}{}", domain("acme.example", ACME), domain("partner.example", PARTNER)))
}

fn token(secret: &str, sub: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = serde_json::json!({"sub": sub, "iat": now, "exp": now + 3600});
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("signs")
}

/// Runs `carillon` as a user. Ok: what it printed; an error: what it complained of.
fn as_user(service: &Service, secret: &str, user: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(args).env("CARILLON_URL", service.address(Carrier::Tcp).to_string());
    said(command.env("CARILLON_TOKEN", token(secret, user)).output().expect("it runs"))
}

fn said(output: Output) -> Result<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Whoever has the file with a token of a domain, and nothing else of the cluster.
struct Administrator<'a> {
    service: &'a Service,
    folder: tempfile::TempDir,
}

impl<'a> Administrator<'a> {
    fn with(service: &'a Service, token: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("token"), token).expect("written");
        Self { service, folder }
    }

    fn carillon(&self, args: &[&str]) -> Result<String, String> {
        let file = self.folder.path().join("token");
        said(command(self.service, self.folder.path(), &file).args(args).output().expect("it runs"))
    }

    fn may_not(&self, args: &[&str], why: &str) {
        let refused = self.carillon(args).expect_err("refused");
        assert!(refused.contains(why), "{args:?}: {refused}");
    }

    /// Waits until the router has heard of the keys.
    fn is_let_in(&self, lets_in: bool) {
        let until = Instant::now() + PATIENCE;
        while self.carillon(&["domain", "list"]).is_ok() != lets_in {
            assert!(Instant::now() < until, "let in: {}", !lets_in);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn command(service: &Service, data: &Path, token: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.arg("--set").arg(format!("cluster.tokens.operator_file={}", token.display()));
    command.arg("--set").arg(format!("gateway.routers=[\"{}\"]", service.router()));
    command.arg("--data-dir").arg(data);
    command
}

const OTHERS: &str = "is no user of the domain of this token";
const OPERATOR: &str = "only the operator may do that";

#[test]
fn an_administrator_has_the_users_and_reports_of_one_domain_and_two_keys_while_one_is_replaced() {
    let service = service();
    let (acme, partner) = ("acme.example", "partner.example");
    for user in ["ann", "ann@acme.example", "bob@acme.example", "ann@partner.example"] {
        done(&service, &["user", "add", user, "--no-password"], "");
    }
    let first = done(&service, &["domain", "key", "add", acme], "");
    let admin = Administrator::with(&service, &first);
    admin.is_let_in(true);

    // Accounts.
    let listed = admin.carillon(&["user", "list"]).expect("listed");
    assert!(listed.contains("ann@acme.example") && listed.contains("bob@acme.example"), "{listed}");
    assert_eq!(listed.lines().count(), 3, "nobody else: {listed}");
    admin.carillon(&["user", "add", "eve@acme.example", "--no-password"]).expect("made");
    let shown = admin.carillon(&["user", "show", "eve@acme.example"]).expect("shown");
    assert!(shown.contains("eve@acme.example"), "{shown}");
    admin.carillon(&["session", "end", "--user", "eve@acme.example"]).expect("ended");
    admin.carillon(&["user", "delete", "eve@acme.example"]).expect("deleted");
    for other in ["ann", "ann@partner.example", "nobody@partner.example", "nobody"] {
        admin.may_not(&["user", "show", other], OTHERS);
        admin.may_not(&["user", "add", other, "--no-password"], OTHERS);
        admin.may_not(&["user", "delete", other], OTHERS);
        admin.may_not(&["session", "end", "--user", other], OTHERS);
        admin.may_not(&["session", "list", "--user", other], OTHERS);
    }

    // Reports.
    let report = |secret: &str, user: &str, of: &str, says: &str| {
        let sent = as_user(&service, secret, of, &["send", of, user, "buy this"]).expect("sent");
        let id = sent.split_whitespace().nth(1).expect("accepted, and the id");
        let args = ["message", "--as", user, "report", id, "--reason", "spam", "--text", says];
        as_user(&service, secret, user, &args).expect("reported");
    };
    report(ACME, "ann@acme.example", "bob@acme.example", "of acme");
    report(PARTNER, "ann@partner.example", "bob@partner.example", "of partner");
    let all = done(&service, &["reports", "list"], "");
    let id = |says: &str| {
        let line = all.lines().find(|line| line.contains(says)).unwrap_or_else(|| panic!("{says}: {all}"));
        line.split_whitespace().next().expect("an id").to_owned()
    };
    let (own, others) = (id("of acme"), id("of partner"));
    let listed = admin.carillon(&["reports", "list"]).expect("listed");
    assert!(listed.contains(&own) && !listed.contains(&others), "{listed}");
    admin.may_not(&["reports", "list", "--domain", partner], "the token is another domain's");
    assert!(admin.carillon(&["reports", "show", &own]).expect("shown").contains("buy this"));
    admin.may_not(&["reports", "show", &others], "no such report of the domain");
    let no_file = "0".repeat(32);
    admin.may_not(&["reports", "file", &others, &no_file], "no such report of the domain");
    admin.may_not(&["reports", "file", &own, &no_file], "the report refers to no such file");
    admin.may_not(&["reports", "resolve", &others], "no such report of the domain");
    admin.may_not(&["reports", "resolve", &others, "--remove"], "no such report of the domain");
    admin.carillon(&["reports", "resolve", &own, "--note", "warned"]).expect("resolved");
    assert!(done(&service, &["reports", "list"], "").contains(&others), "nothing has become of it");

    // Groups.
    for (secret, user) in [(ACME, "ann@acme.example"), (PARTNER, "ann@partner.example")] {
        let domain = user.split_once('@').expect("a domain").1;
        let name = format!("club@{domain}");
        let other = format!("bob@{domain}");
        let args = ["group", "--as", user, "create", &name, "--member", &other];
        as_user(&service, secret, user, &args).expect("made");
    }
    let listed = admin.carillon(&["groups", "list"]).expect("listed");
    assert!(listed.contains("club@acme.example") && listed.lines().count() == 2, "nothing else: {listed}");
    admin.may_not(&["groups", "list", "--domain", partner], "the token is another domain's");
    admin.may_not(&["groups", "list", "--default-domain"], "the token is another domain's");
    assert!(admin.carillon(&["groups", "show", "club@acme.example"]).expect("shown").contains("owners"));
    for other in ["club@partner.example", "nothing@partner.example", "club"] {
        let why = "is no group of the domain of this token";
        admin.may_not(&["groups", "show", other], why);
        admin.may_not(&["groups", "members", other], why);
        admin.may_not(&["groups", "role", other, "owner", "bob@acme.example"], why);
        admin.may_not(&["groups", "remove", other, "bob@acme.example"], why);
        admin.may_not(&["groups", "delete", other], why);
    }
    let members = admin.carillon(&["groups", "members", "club@acme.example"]).expect("listed");
    assert!(members.contains("bob@acme.example"), "{members}");
    admin.may_not(&["groups", "remove", "club@acme.example", "ann@acme.example"], "give another member the role first");
    admin.carillon(&["groups", "role", "club@acme.example", "owner", "bob@acme.example"]).expect("given");
    admin.carillon(&["groups", "remove", "club@acme.example", "ann@acme.example"]).expect("removed");
    admin.carillon(&["groups", "delete", "club@acme.example"]).expect("deleted");
    let listed = done(&service, &["groups", "list", "--domain", partner], "");
    assert!(listed.contains("club@partner.example"), "nothing has become of it: {listed}");

    // Of domains it sees its own, and decides nothing.
    done(&service, &["domain", "set", partner, "--closed", "true"], "");
    let listed = admin.carillon(&["domain", "list"]).expect("listed");
    assert!(listed.contains(acme) && !listed.contains(partner), "{listed}");
    admin.may_not(&["domain", "set", acme, "--max-users", "9"], OPERATOR);
    admin.may_not(&["domain", "key", "add", acme], OPERATOR);
    admin.may_not(&["domain", "reset", acme], OPERATOR);
    admin.may_not(&["status"], OPERATOR);
    admin.may_not(&["outbox", "list"], OPERATOR);

    // A second key, and then the first one is removed.
    let second = done(&service, &["domain", "key", "add", acme], "");
    assert_ne!(first, second);
    let successor = Administrator::with(&service, &second);
    successor.is_let_in(true);
    admin.is_let_in(true);
    let too_many = failed(&service, &["domain", "key", "add", acme]);
    assert!(too_many.contains("has 2 keys already"), "{too_many}");
    let keys = done(&service, &["domain", "key", "list", acme], "");
    let oldest = keys.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("a key").to_owned();
    assert!(!keys.contains(first.trim()), "{keys}");
    done(&service, &["domain", "key", "remove", acme, "--key", &oldest], "");
    admin.is_let_in(false);
    admin.may_not(&["user", "list"], "the token is missing, or is another cluster's");
    successor.carillon(&["user", "list"]).expect("goes on");
    // Without anything decided there is nobody either.
    done(&service, &["domain", "reset", acme], "");
    successor.is_let_in(false);
}

/// The services of a file, with their methods.
#[derive(Clone, PartialEq, prost::Message)]
struct Files {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    services: Vec<OneService>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OneService {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    methods: Vec<Method>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Method {
    #[prost(string, tag = "1")]
    name: String,
}

/// Whatever a later release adds is not for administrators of domains unless this says so.
#[test]
fn an_administrators_token_opens_each_of_its_calls_and_no_other() {
    let service = service();
    let token = done(&service, &["domain", "key", "add", "acme.example"], "").trim().to_owned();
    Administrator::with(&service, &token).is_let_in(true);
    let files = Files::decode(DESCRIPTORS).expect("decodes").files;
    let all: Vec<(bool, String)> = files
        .iter()
        .flat_map(|file| file.services.iter().map(move |service| (file, service)))
        .filter(|(file, _)| file.package != "carillon.client.v1")
        .flat_map(|(file, service)| {
            let path = move |method: &Method| format!("/{}.{}/{}", file.package, service.name, method.name);
            service.methods.iter().map(move |method| (service.name == "Admin", path(method)))
        })
        .collect();
    assert!(all.iter().filter(|(is_admin, _)| *is_admin).count() >= 23, "{all:?}");
    service.block_on(async {
        for (is_admin, path) in &all {
            for address in [service.router(), service.storage()] {
                let code = call(&address.to_string(), path, &token).await;
                // Of a request without anything in it.
                let expected: &[Code] = match (is_admin, path.rsplit('/').next().unwrap_or_default()) {
                    (true, _) if address == service.storage() => &[Code::Unimplemented],
                    (true, "ListUsers" | "ListReports" | "ListDomains" | "ListGroups") => &[Code::Ok],
                    (true, "EndSessions" | "ReadReport" | "ReadReportFile" | "ResolveReport") => {
                        &[Code::InvalidArgument]
                    }
                    (true, _) => &[Code::PermissionDenied],
                    (false, _) => &[Code::Unauthenticated, Code::Unimplemented],
                };
                assert!(expected.contains(&code), "{path} at {address}: {code:?}, not {expected:?}");
            }
        }
    });
}

/// An empty request, by this token.
async fn call(address: &str, path: &str, token: &str) -> Code {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = channel.timeout(Duration::from_secs(10)).connect().await.expect("connects");
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("ready");
    let mut request = Request::new(());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = grpc.unary(request, path.parse::<PathAndQuery>().expect("a path"), codec).await;
    match answer {
        // The answer is of no matter here.
        Err(status) if status.code() == Code::Internal && status.message().contains("failed to decode") => Code::Ok,
        Err(status) => status.code(),
        Ok(_) => Code::Ok,
    }
}

/// Tries until the service has heard what was decided.
fn until<T>(what: &str, mut tried: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = tried() {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_domain_narrows_what_its_users_may_do_and_nobody_elses() {
    let service = service();
    let acme = "acme.example";
    let as_ann = |args: &[&str]| as_user(&service, ACME, "ann@acme.example", args);
    let ann = ["send", "ann@acme.example", "ann@acme.example"];
    as_ann(&[&ann[..], &["hello"]].concat()).expect("signs in, which makes the account");
    as_user(&service, PARTNER, "ann@partner.example", &["send", "ann@partner.example", "ann@partner.example", "hi"])
        .expect("signs in");

    // Messages. Each refusal names its limit.
    done(&service, &["domain", "set", acme, "--max-message-bytes", "40"], "");
    let long = "x".repeat(60);
    let refused = until("a long message is refused", || as_ann(&[&ann[..], &[&long]].concat()).err());
    assert!(refused.contains("at most 40 are allowed"), "{refused}");
    as_ann(&[&ann[..], &["short"]].concat()).expect("sent");
    let others = ["send", "ann@partner.example", "ann@partner.example", &long];
    as_user(&service, PARTNER, "ann@partner.example", &others).expect("another domain");
    done(&service, &["domain", "set", acme, "--max-message-bytes", "0"], "");
    until("it is sent again", || as_ann(&[&ann[..], &[&long]].concat()).ok());

    // Groups, and their members.
    let group = |args: &[&str]| as_ann(&[&["group", "--as", "ann@acme.example"], args].concat());
    for user in ["bob@acme.example", "eve@acme.example"] {
        done(&service, &["user", "add", user, "--no-password"], "");
    }
    done(&service, &["domain", "set", acme, "--max-group-members", "2", "--max-groups-of-user", "2"], "");
    until("a large group is refused", || {
        let made = group(&["create", "--member", "bob@acme.example", "--member", "eve@acme.example"]);
        made.err().filter(|refused| refused.contains("lets groups have 2 members"))
    });
    // Accounts that were made before the service had heard of the limit count.
    let made = done(&service, &["domain", "list", "--json"], "");
    assert!(made.contains("\"max-groups-of-user\":2"), "{made}");
    let listed = group(&["list"]).expect("listed");
    for name in listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()) {
        group(&["delete", name]).expect("deleted");
    }
    until("the deleted ones are gone", || group(&["list"]).ok().filter(|listed| listed.lines().count() == 1));
    for name in ["one@acme.example", "two@acme.example"] {
        group(&["create", name, "--member", "bob@acme.example"]).expect("made");
    }
    let refused = group(&["create", "three@acme.example"]).expect_err("refused");
    assert!(refused.contains("its domain lets a user have 2"), "{refused}");
    let refused = group(&["add", "one@acme.example", "eve@acme.example"]).expect_err("refused");
    assert!(refused.contains("lets groups have 2 members"), "{refused}");
    group(&["remove", "one@acme.example", "bob@acme.example"]).expect("removed");
    group(&["add", "one@acme.example", "eve@acme.example"]).expect("there is room");
    group(&["delete", "two@acme.example"]).expect("deleted");
    until("there is one group less", || group(&["create", "three@acme.example"]).ok());
    done(&service, &["domain", "set", acme, "--no-new-groups", "true", "--max-groups-of-user", "0"], "");
    until("no group is made", || {
        let made = group(&["create"]);
        made.err().filter(|refused| refused.contains("users of this domain make no groups"))
    });

    // Accounts: ann, bob and eve.
    done(&service, &["domain", "set", acme, "--max-users", "4"], "");
    let listed = until("they are counted", || {
        let listed = done(&service, &["domain", "list", "--json"], "");
        listed.contains("\"max-users\":4").then_some(listed)
    });
    assert!(listed.contains("\"users\":3"), "{listed}");
    done(&service, &["user", "add", "dan@acme.example", "--no-password"], "");
    let full = failed(&service, &["user", "add", "fay@acme.example", "--no-password"]);
    assert!(full.contains("has as many users as it may have"), "{full}");
    let send = |user: &str| as_user(&service, ACME, user, &["send", user, user, "hi"]);
    let full = send("gil@acme.example").expect_err("refused");
    assert!(full.contains("has as many users as it may have"), "{full}");
    send("dan@acme.example").expect("is there already");
    done(&service, &["user", "delete", "dan@acme.example"], "");
    send("gil@acme.example").expect("there is room");
    done(&service, &["domain", "set", acme, "--max-users", "0", "--closed", "true"], "");
    let closed = until("it is closed", || {
        let user = format!("h{}@acme.example", now_ns());
        send(&user).err()
    });
    assert!(closed.contains("domain acme.example takes no new users"), "{closed}");
    done(&service, &["user", "add", "ina@acme.example", "--no-password"], "");
    send("ina@acme.example").expect("the operator has made the account");
    as_user(&service, PARTNER, "new@partner.example", &["send", "new@partner.example", "new@partner.example", "hi"])
        .expect("another domain");
    for (name, is_noted) in [("acme.exmaple", true), (acme, false)] {
        let output = carillon(&service, &["domain", "set", name, "--max-users", "0"], "");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success() && said.contains("neither users nor keys") == is_noted, "{name}: {said}");
    }
    let wrong = failed(&service, &["domain", "set", acme, "--message-age", "59s"]);
    assert!(wrong.contains("at least 1 minute"), "{wrong}");
    let wrong = failed(&service, &["domain", "set", acme, "--message-age", "99999999d"]);
    assert!(wrong.contains("at most 36600 days"), "{wrong}");
    let wrong = failed(&service, &["domain", "set", "--default-domain", "--max-users", "5"]);
    assert!(wrong.contains("not counted"), "{wrong}");
}

fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos()
}
