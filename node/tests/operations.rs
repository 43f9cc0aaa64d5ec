//! Cases that operators meet: signals, changed files, bad configurations, environment variables, closed streams.

mod support;

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use carillon_client::{Client, ClientConfig, Credential, Event, Events, State, Trust};
use carillon_proto::{
    peer::{PeerSecurity, PeerTls, Tier},
    tasks::Tasks,
};
use support::{
    certificates::{Files, NAME},
    command::{all_in_one, carillon_with, text},
    node::{own_address, until},
    service::{CLUSTER_SECRET, Carrier, Service},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client is tried whose sign-in may have to fail: one that can't reach the service tries for ever.
const TRIED: Duration = Duration::from_secs(5);

/// A signed-in client that notices when its connection is lost.
struct Connected {
    client: Client,
    events: Events,
    tasks: Tasks,
}

impl Connected {
    async fn open(
        service: &Service,
        carrier: Carrier,
        user: &str,
        configure: impl FnOnce(&mut ClientConfig),
    ) -> Option<Self> {
        Self::open_within(TRIED, service, carrier, user, configure).await
    }

    /// Signs in, however busy the machine is.
    async fn enter(service: &Service, carrier: Carrier, user: &str, configure: impl FnOnce(&mut ClientConfig)) -> Self {
        Self::open_within(PATIENCE, service, carrier, user, configure).await.expect("signs in")
    }

    async fn open_within(
        patience: Duration,
        service: &Service,
        carrier: Carrier,
        user: &str,
        configure: impl FnOnce(&mut ClientConfig),
    ) -> Option<Self> {
        let tasks = Tasks::new();
        let token = Credential::Token(service.token(user));
        let mut config = ClientConfig::new(vec![service.address(carrier)], user, "d", token);
        configure(&mut config);
        let (client, events) = Client::open(config, &tasks).expect("opens");
        match client.connected(patience).await {
            Ok(_) => Some(Self { client, events, tasks }),
            Err(_) => {
                tasks.finish(Duration::from_secs(5)).await;
                None
            }
        }
    }

    /// Checks that a message to oneself is accepted, and that the connection was never lost.
    async fn goes_on(&mut self, user: &str) {
        self.client.send(Client::user(user), Client::text("note")).await.expect("accepted");
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(50), self.events.next()).await {
            if let Event::State(State::Disconnected { why }) = event {
                panic!("the connection was lost: {why}");
            }
        }
    }

    async fn close(self) {
        self.client.close().await;
        self.tasks.finish(Duration::from_secs(5)).await;
    }
}

#[test]
fn a_hangup_changes_the_level_of_logging_and_nobody_notices() {
    let service = Service::start("log.level = \"info\"");
    service.block_on(async {
        let mut alice = Connected::enter(&service, Carrier::Tcp, "alice", |_| {}).await;
        service.node.change_config(|text| {
            let text = text.replace("log.level = \"info\"", "log.level = \"info,carillon_gateway=debug\"");
            text.replace("gateway.failed_sign_ins_burst = 1000", "gateway.failed_sign_ins_burst = 999")
        });
        service.node.signal("HUP");
        until("the level is taken up", PATIENCE, || {
            service.node.log().contains("level=\"info,carillon_gateway=debug\"")
        });
        until("what needs a restart is told", PATIENCE, || {
            let log = service.node.log();
            log.contains("gateway.failed_sign_ins_burst") && log.contains("need a restart")
        });
        alice.goes_on("alice").await;

        service.node.change_config(|text| text.replace("log.level = \"info,", "log.level = \"loud,"));
        service.node.signal("HUP");
        until("the bad one is told", PATIENCE, || service.node.log().contains("nothing was changed: log.level"));
        alice.goes_on("alice").await;
        alice.close().await;
    });
}

/// Files as Kubernetes provides a secret: a link to a folder, which is replaced as a whole.
struct Volume {
    folder: PathBuf,
    versions: u32,
}

impl Volume {
    fn new(folder: &Path, files: &Files) -> Self {
        let mut volume = Self { folder: folder.to_owned(), versions: 0 };
        volume.show(files);
        volume
    }

    fn show(&mut self, files: &Files) {
        self.versions += 1;
        let version = format!("version-{}", self.versions);
        fs::create_dir(self.folder.join(&version)).expect("folder");
        files.write(&self.folder.join(&version));
        let new = self.folder.join("..data_tmp");
        symlink(&version, &new).expect("link");
        fs::rename(&new, self.folder.join("..data")).expect("renamed");
    }

    fn path(&self, name: &str) -> String {
        self.folder.join("..data").join(name).display().to_string()
    }
}

#[test]
fn rotated_certificates_are_met_by_new_connections_and_old_ones_go_on() {
    let (first, second) = (Files::new(), Files::new());
    let folder = tempfile::tempdir().expect("folder");
    let mut volume = Volume::new(folder.path(), &first);
    let (ca, certificate, key) = (volume.path("ca.pem"), volume.path("certificate.pem"), volume.path("key.pem"));
    let service = Service::start(&format!(
        "gateway.tls = {{ certificate = {certificate:?}, key = {key:?} }}\n\
         cluster.tls = {{ ca = {ca:?}, certificate = {certificate:?}, key = {key:?}, server_name = {NAME:?} }}"
    ));
    let trust = |carrier: Carrier, ca: &str| {
        let (address, trust) = (service.secure_address(carrier), Trust::ca(ca));
        |config: &mut ClientConfig| {
            config.addresses = vec![address];
            config.connect.trust = trust;
            config.connect.server_name = Some(NAME.to_owned());
        }
    };
    let enter = async |carrier: Carrier, user: &str, ca: &str| {
        Connected::enter(&service, carrier, user, trust(carrier, ca)).await
    };
    let is_node = async |files: &Files| {
        let tls = PeerTls {
            ca: files.ca.clone(),
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            server_name: Some(NAME.to_owned()),
        };
        let security = PeerSecurity::from_secret(Tier::Operator, CLUSTER_SECRET, Some(tls)).expect("valid");
        support::calls::status(&service, &security).await.is_ok()
    };
    service.block_on(async {
        let mut old = Vec::new();
        for carrier in [Carrier::Tcp, Carrier::WebSocketJson, Carrier::Grpc] {
            old.push((carrier, enter(carrier, carrier.name(), &first.ca).await));
        }
        assert!(is_node(&first).await && !is_node(&second).await);

        volume.show(&second);
        until("the new ones are taken up", PATIENCE, || service.node.log().contains("files have changed"));
        for carrier in [Carrier::Tcp, Carrier::WebSocketJson, Carrier::Grpc] {
            enter(carrier, "new", &second.ca).await.close().await;
            let old = Connected::open(&service, carrier, "new", trust(carrier, &first.ca)).await;
            assert!(old.is_none(), "{}: the old one is met", carrier.name());
        }
        assert!(is_node(&second).await && !is_node(&first).await);
        for (carrier, mut client) in old {
            client.goes_on(carrier.name()).await;
            client.close().await;
        }

        // Half of a pair is not taken up, and the old pair stays in use.
        let key = fs::read_to_string(volume.path("key.pem")).expect("key");
        fs::write(volume.path("key.pem"), &first.key).expect("written");
        until("the bad pair is told", PATIENCE, || service.node.log().contains("is not the key of the certificate"));
        enter(Carrier::Tcp, "new", &second.ca).await.close().await;
        assert!(!service.node.log().contains(&key[40..80]), "no key is ever shown");
    });
    let ends = service.node.metric("carillon_node_certificate_ends_timestamp_seconds");
    assert!(ends > 1_000_000_000.0, "{ends}");
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_secret_is_replaced_without_a_restart() {
    const NEW: &str = "another-secret-of-the-tests";
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("secret");
    fs::write(&file, format!("{CLUSTER_SECRET}\n")).expect("written");
    let service = Service::start_with_secret(&format!("cluster.secret_file = {file:?}"));
    let opens = async |secret: &str| {
        let security = PeerSecurity::from_secret(Tier::Operator, secret, None).expect("valid");
        support::calls::status(&service, &security).await.is_ok()
    };
    service.block_on(async {
        let mut alice = Connected::enter(&service, Carrier::Tcp, "alice", |_| {}).await;
        assert!(opens(CLUSTER_SECRET).await && !opens(NEW).await);
        fs::write(&file, format!("{NEW}\n{CLUSTER_SECRET}\n")).expect("written");
        service.node.signal("HUP");
        eventually("both are taken", async || opens(NEW).await && opens(CLUSTER_SECRET).await).await;
        fs::write(&file, format!("{NEW}\n")).expect("written");
        service.node.signal("HUP");
        eventually("the old one is gone", async || !opens(CLUSTER_SECRET).await).await;
        eventually("the new one is taken", async || opens(NEW).await).await;
        alice.goes_on("alice").await;
        alice.close().await;
    });
}

#[test]
fn a_key_for_tokens_is_replaced_without_a_restart() {
    const OLD: &str = "the first secret that signs tokens of this test";
    const NEW: &str = "the second secret that signs tokens of this test";
    let key = |secret: &str| format!("{{ algorithm = \"HS256\", secret = {secret:?} }}");
    let service = Service::start("");
    let keys = |keys: &str| {
        service.node.change_config(|text| {
            let other = |line: &str| !line.trim_start().starts_with("gateway.jwt.keys");
            let rest: String = text.lines().filter(|line| other(line)).map(|line| format!("{line}\n")).collect();
            format!("{rest}gateway.jwt.keys = [{keys}]\n")
        });
        service.node.signal("HUP");
    };
    let enters = async |user: &str, secret: &str| {
        let token = Credential::Token(carillon_loadtest::token::sign(secret, user));
        Connected::open(&service, Carrier::Tcp, user, |config| config.credential = token).await
    };
    let signs_in = async |secret: &str| match enters("bob", secret).await {
        Some(connected) => {
            connected.close().await;
            true
        }
        None => false,
    };
    service.block_on(async {
        keys(&key(OLD));
        eventually("the first one is taken up", async || signs_in(OLD).await).await;
        let old = Credential::Token(carillon_loadtest::token::sign(OLD, "alice"));
        let mut before = Connected::enter(&service, Carrier::Tcp, "alice", |config| config.credential = old).await;
        assert!(!signs_in(NEW).await);
        keys(&format!("{}, {}", key(OLD), key(NEW)));
        eventually("both are taken", async || signs_in(NEW).await).await;
        before.goes_on("alice").await;
        before.close().await;
        eventually("the old one is taken still", async || signs_in(OLD).await).await;
        keys(&key(NEW));
        eventually("the old one is gone", async || !signs_in(OLD).await).await;
        eventually("the new one is taken", async || signs_in(NEW).await).await;
    });
}

#[test]
fn a_gateway_serves_who_comes_until_it_is_out_of_the_endpoints() {
    // On a busy machine, who comes needs longer.
    let is_served = [4, 12, 36].into_iter().any(serves_who_comes_within);
    assert!(is_served, "nobody was served");
}

/// False if the gateway has not served, within this time after it was told to stop, a client that came then.
fn serves_who_comes_within(seconds: u64) -> bool {
    let drain = seconds * 1000;
    let mut service =
        Service::start(&format!("gateway.drain_delay_ms = {drain}\nshutdown_deadline_ms = {}", drain + 60_000));
    service.node.signal("TERM");
    until("it is not ready", PATIENCE, || !service.node.is_ready());
    let is_served = service.block_on(async {
        let within = Duration::from_secs(seconds);
        let late = Connected::open_within(within, &service, Carrier::Tcp, "late", |_| {}).await;
        let Some(mut late) = late else { return false };
        let sent = late.client.send(Client::user("late"), Client::text("note")).await.is_ok();
        // This client is told to go, as the others are.
        let told = async {
            while let Some(event) = late.events.next().await {
                if matches!(event, Event::State(State::Disconnected { .. })) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("told");
        late.tasks.finish(Duration::from_secs(5)).await;
        sent
    });
    assert!(service.node.wait_end(), "{}", service.node.log());
    is_served
}

#[test]
fn foreign_and_empty_variables_do_no_harm_and_a_near_miss_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let check = |environment: &[(&str, &str)]| carillon_with(&["all", "--check-config"], environment, folder.path());
    for name in ["CARILLON_HOME", "CARILLON_SERVICE_HOST", "CARILLON_VERSION"] {
        let output = check(&[(name, "x")]);
        assert!(output.status.success() && output.stderr.is_empty(), "{name}: {}", text(&output.stderr));
    }
    for name in ["CARILLON_CONFIG", "CARILLON_URL", "CARILLON_TOKEN", "CARILLON_LOG__LEVEL", "CARILLON_ADMIN__LISTEN"] {
        let output = check(&[(name, "")]);
        assert!(output.status.success() && output.stderr.is_empty(), "{name}: {}", text(&output.stderr));
    }
    let output = check(&[("CARILLON_LOG_LEVEL", "debug")]);
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("CARILLON_LOG_LEVEL sets nothing: did you mean CARILLON_LOG__LEVEL?"));
    let output = check(&[("CARILLON_LOG__LEVEL", "loud")]);
    assert!(!output.status.success() && text(&output.stderr).contains("log.level"));
}

#[test]
fn no_secret_is_shown_by_an_error() {
    let folder = tempfile::tempdir().expect("folder");
    for arguments in [
        &["--set", "cluster.secret=hunter2"][..],
        &["--set", "cluster.secret:hunter2"],
        &["--set", "cluster.secrt=hunter2hunter2hunter2"],
        &["--set", "gateway.jwt.keys=[\"hunter2\"]"],
        &["--set", "gateway.jwt.keys=[{algorithm=\"HS256\",secret=\"hunter2\"}]"],
    ] {
        let output = carillon_with(&[&["all", "--check-config"], arguments].concat(), &[], folder.path());
        let told = text(&output.stderr) + &text(&output.stdout);
        assert!(!output.status.success() && !told.contains("hunter2"), "{arguments:?}: {told}");
    }
}

#[test]
fn no_start_or_stop_warns_and_one_after_a_kill_says_so() {
    const KILLED: &str = "the node was killed the last time";
    let mut service = Service::start("");
    // On a busy machine these are true.
    let is_slow = |line: &&str| {
        ["this node can't keep up", "not ready role=", "waiting for "].iter().any(|word| line.contains(word))
    };
    let warns = |log: &str| {
        let mut lines = log.lines().filter(|line| !is_slow(line));
        lines.any(|line| line.contains(" WARN ") || line.contains(" ERROR "))
    };
    let told = |log: &str| log.matches(KILLED).count();
    assert!(!warns(&service.node.log()) && told(&service.node.log()) == 0, "{}", service.node.log());
    service.node.kill();
    service.node.start_again();
    service.node.wait_ready();
    assert!(!warns(&service.node.log()) && told(&service.node.log()) == 1, "{}", service.node.log());
    service.node.terminate();
    service.node.start_again();
    service.node.wait_ready();
    assert!(!warns(&service.node.log()) && told(&service.node.log()) == 1, "{}", service.node.log());
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it")
}

#[test]
fn a_command_whose_output_nobody_reads_or_can_take_does_not_panic() {
    let folder = tempfile::tempdir().expect("folder");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        command
    };
    for arguments in [&["all", "--print-config"][..], &["--help"], &["--version"], &["all", "--check-config"]] {
        // As with `| true`: the reader has gone before anything is written.
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let output = command(arguments).stdout(writer).output().expect("starts");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{arguments:?}");

        let output = command(arguments).stdout(full()).output().expect("starts");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));

        // Neither stream can be written: only the exit code is left.
        let status = command(arguments).stdout(full()).stderr(full()).status().expect("starts");
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
    let status = command(&["status", "--router", "127.0.0.1:9"]).stderr(full()).status().expect("starts");
    assert_eq!(status.code(), Some(1));
    let shell = |line: &str| {
        let line = format!("exec {} {line}", env!("CARGO_BIN_EXE_carillon"));
        Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().expect("starts")
    };
    for closed in ["all --check-config >&-", "all --check-config <&- >&- 2>&-", "--help >&-"] {
        assert_eq!(shell(closed).status.code(), Some(0), "{closed}");
    }
}

#[test]
fn a_service_goes_on_when_its_streams_are_full_or_nobody_reads_them() {
    // A pipe has room for 64 KiB, which log level `trace` fills at once.
    let (unread, pipe) = std::io::pipe().expect("pipe");
    for (stdout, stderr) in
        [(Stdio::from(full()), Stdio::from(full())), (Stdio::from(pipe.try_clone().expect("pipe")), pipe.into())]
    {
        let folder = tempfile::tempdir().expect("folder");
        let ip = own_address();
        let mut command = all_in_one(ip, folder.path());
        let mut child = command
            .args(["--log-level", "trace"])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("starts");
        let admin = (ip, 7400).into();
        until("it is ready", PATIENCE, || {
            support::node::get(admin, "/readyz").is_some_and(|answer| answer.contains(" 200 "))
        });
        let stopped = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
        assert!(stopped.success());
        let mut status = None;
        until("it has stopped", PATIENCE, || {
            status = child.try_wait().expect("status");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
    drop(unread);
}
