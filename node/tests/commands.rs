//! The command line as people and scripts use it, and the examples of configurations.

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use support::{
    certificates::Files,
    command::{all_in_one, carillon, text},
    node::{get, own_address, until},
    people::{done, shared},
    service::CLUSTER_SECRET,
};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn check_config_finds_what_would_not_work_and_names_it() {
    let folder = tempfile::tempdir().expect("folder");
    let (files, others) = (Files::new(), Files::new());
    let at = |name: &str| folder.path().join(name).display().to_string();
    files.write(folder.path());
    fs::create_dir(folder.path().join("others")).expect("folder");
    others.write(&folder.path().join("others"));
    fs::write(at("ended.pem"), files.ended()).expect("written");
    fs::write(at("short"), "short").expect("written");
    fs::write(at("lines"), format!("{0}\n{0}\n", "0123456789".repeat(4))).expect("written");
    let (certificate, key, ca) = (at("certificate.pem"), at("key.pem"), at("ca.pem"));
    let other_key = at("others/key.pem");
    let ended = at("ended.pem");
    let tls = |certificate: &str, key: &str| format!("[gateway.tls]\ncertificate = {certificate:?}\nkey = {key:?}");
    let jwt = |key: &str| format!("[[gateway.jwt.keys]]\n{key}");
    for (config, expected) in [
        ("log.level = \"loud\"".to_owned(), &["log.level is \"loud\"", "error, warn, info"][..]),
        ("admin.listen = \"127.0.0.1:7401\"".to_owned(), &["storage.listen 127.0.0.1:7401 and admin.listen"]),
        ("gateway.ws.listen = \"0.0.0.0:7410\"".to_owned(), &["gateway.ws.listen", "gateway.tcp.listen"]),
        ("gateway.tcp.listen = \"nowhere\"".to_owned(), &["gateway.tcp.listen"]),
        (
            "gateway.drain_spread_ms = 20000".to_owned(),
            &[
                "gateway.drain_spread_ms is 20000",
                "drain_delay_ms, which is 500",
                "shutdown_deadline_ms, which is 20000",
            ],
        ),
        ("router.drain_ms = 30000".to_owned(), &["router.drain_ms is 30000", "shutdown_deadline_ms"]),
        (
            "gateway.tcp.enabled = false\ngateway.ws.enabled = false\ngateway.grpc.enabled = false".to_owned(),
            &["gateway.tcp.enabled is false", "clients need one"],
        ),
        ("storage.listen = \"0.0.0.0:7401\"".to_owned(), &["storage.advertise", "0.0.0.0:7401"]),
        ("storage.advertise = \"[::]:7401\"".to_owned(), &["storage.advertise", "must name the host"]),
        ("router.advertise = \"host:0\"".to_owned(), &["router.advertise", "must name the port"]),
        ("gateway.routers = [\"0.0.0.0:7402\"]".to_owned(), &["gateway.routers", "must name the host"]),
        ("trace.otlp_endpoint = \"collector\"".to_owned(), &["trace.otlp_endpoint"]),
        (format!("data_dir = {:?}", at("short")), &["data_dir", "is no folder"]),
        (format!("cluster.secret_file = {:?}", at("short")), &["cluster.secret_file", "16 to 512"]),
        (format!("cluster.secret_file = {:?}", at("none")), &["cluster.secret_file", "none", "No such file"]),
        (format!("cluster.tokens.router_file = {:?}", at("none")), &["cluster.tokens.router_file", "No such file"]),
        (
            format!("cluster.tls = {{ ca = {ca:?}, certificate = {certificate:?}, key = {:?} }}", at("none")),
            &["cluster.tls.key", "No such file"],
        ),
        (
            format!("cluster.secret_file = {:?}\ncluster.tokens.storage_file = {:?}", at("none"), at("short")),
            &["2 problems", "cluster.secret_file", "cluster.tokens.storage_file"],
        ),
        (format!("cluster.tokens.gateway_file = {:?}", at("short")), &["cluster.tokens.gateway_file", "16 to 512"]),
        (tls(&certificate, &other_key), &["gateway.tls.key", "is not the key of the certificate"]),
        (tls(&key, &key), &["gateway.tls.certificate", "has no certificate"]),
        (tls(&at("none"), &key), &["gateway.tls.certificate", "can't be read"]),
        (tls(&ended, &key), &["ended.pem", "has ended"]),
        (
            format!("[cluster.tls]\nca = {ca:?}\ncertificate = {certificate:?}\nkey = {other_key:?}"),
            &["cluster.tls.key", "is not the key"],
        ),
        (jwt(&format!("algorithm = \"HS256\"\nsecret_file = {:?}", at("short"))), &["gateway.jwt.keys", "at least 32"]),
        (jwt(&format!("algorithm = \"RS256\"\npublic_key_file = {key:?}")), &["gateway.jwt.keys", "public key"]),
        (
            ["algorithm = \"HS256\"", "algorithm = \"HS256\"\nsecret = \"short\"", "algorithm = \"RS256\""]
                .map(jwt)
                .join("\n"),
            &[
                "3 problems",
                "jwt.keys has a key, the one at [0]",
                "jwt.keys[1]: the secret is 5 bytes",
                "the one at [2]",
            ],
        ),
        (
            [at("none"), at("lines")]
                .map(|path| jwt(&format!("algorithm = \"HS256\"\nsecret_file = {path:?}")))
                .join("\n"),
            &["2 problems", "gateway.jwt.keys[0]", "can't be read", "gateway.jwt.keys[1]", "must be one line"],
        ),
        (jwt("algorithm = \"HS512\""), &["gateway.jwt.keys[0].algorithm (from x.toml)", "HS256"]),
        ("log.level = \"loud\"\nrouter.drain_ms = 30000".to_owned(), &["2 problems", "log.level", "router.drain_ms"]),
        ("gateway.max_pages = 3".to_owned(), &["gateway.max_pages", "did you mean gateway.max_page?"]),
    ] {
        fs::write(at("x.toml"), &config).expect("written");
        let output = carillon(&["all", "--check-config", "--config", "x.toml"], folder.path());
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{config}\n{told}");
        for part in expected {
            assert!(told.contains(part), "{config}\nlacks {part}:\n{told}");
        }
        assert!(!told.contains("Some(") && !told.contains("panicked"), "{told}");
    }
    fs::write(at("x.toml"), tls(&certificate, &key)).expect("written");
    let output = carillon(&["all", "--check-config", "--config", "x.toml"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "configuration is valid\n");
    assert!(!folder.path().join("data").exists(), "looking changes nothing");
}

#[test]
fn check_config_tells_that_a_router_will_refuse_the_command_line() {
    let folder = tempfile::tempdir().expect("folder");
    let token = folder.path().join("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef").expect("written");
    let check = |tiers: &[&str]| {
        let tokens: String = tiers
            .iter()
            .map(|tier| format!("cluster.tokens.{tier}_file = {:?}\n", token.display().to_string()))
            .collect();
        fs::write(folder.path().join("x.toml"), tokens).expect("written");
        carillon(&["router", "--check-config", "--config", "x.toml"], folder.path())
    };
    let output = check(&["router", "gateway"]);
    let told = text(&output.stderr);
    assert!(output.status.success() && told.contains("cluster.tokens.operator_file is not set"), "{told}");
    let output = check(&["router", "gateway", "operator"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let output = check(&["router", "operator"]);
    assert!(!output.status.success() && text(&output.stderr).contains("cluster.tokens.gateway_file"));
}

#[test]
fn send_ends_within_its_timeout_also_when_the_gateway_says_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("tcp://{}", silent.local_addr().expect("address"));
    let began = Instant::now();
    let output =
        carillon(&["send", "alice", "bob", "hi", "--timeout", "2", "--token", "x", "--url", &url], folder.path());
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    let told = text(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("not signed in within 2 seconds"), "{told}");
    let output = carillon(&["send", "alice", "bob", "hi", "--timeout", "0"], folder.path());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn a_list_that_no_router_gives_has_no_head() {
    let folder = tempfile::tempdir().expect("folder");
    let secret = "cluster.secret=cluster-secret-of-the-tests";
    for list in ["user", "session"] {
        // Port 9 has no listener here.
        let output = carillon(&[list, "list", "--router", "127.0.0.1:9", "--set", secret], folder.path());
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
        assert!(text(&output.stderr).contains("no router answered"), "{}", text(&output.stderr));
    }
}

#[test]
fn what_is_to_be_tried_is_said_when_it_works() {
    let folder = tempfile::tempdir().expect("folder");
    let ip = own_address();
    let mut command = all_in_one(ip, folder.path());
    command.arg("--stop-with-stdin").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut service = command.spawn().expect("starts");
    let mut lines = BufReader::new(service.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "Try:"), "it ended before it was ready");
    let ready = get((ip, 7400).into(), "/readyz").expect("answers");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let add = lines.next().expect("the first line to try");
    let add = add.split(';').next().unwrap_or_default().trim().to_owned();
    let tried = Command::new("sh").args(["-c", &add]).current_dir(folder.path()).output().expect("starts");
    assert_eq!(text(&tried.stdout), "user alice is there\n", "{add}: {}", text(&tried.stderr));
    drop(service.stdin.take());
    let mut status = None;
    until("it has stopped", PATIENCE, || {
        status = service.try_wait().expect("status");
        status.is_some()
    });
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

/// Writes the files that the example names into a folder of the test.
fn example(name: &str, folder: &Path) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let here = folder.display().to_string();
    text.replace("/etc/carillon", &here).replace("/var/lib/carillon", &format!("{here}/data"))
}

#[test]
fn the_examples_of_configurations_are_right() {
    let folder = tempfile::tempdir().expect("folder");
    let files = Files::new();
    fs::write(folder.path().join("client.crt"), &files.certificate).expect("written");
    fs::write(folder.path().join("client.key"), &files.key).expect("written");
    let secret = "0123456789abcdef".repeat(4);
    for file in ["cluster.secret", "gateway.token", "operator.token", "token.key"] {
        fs::write(folder.path().join(file), format!("{secret}\n")).expect("written");
    }
    let write = |name: &str| {
        fs::write(folder.path().join(name), example(name, folder.path())).expect("written");
    };
    for role in ["storage", "router", "gateway", "canary"] {
        let name = format!("{role}.toml");
        write(&name);
        let output = carillon(&[role, "--check-config", "--config", &name], folder.path());
        assert!(output.status.success() && output.stderr.is_empty(), "{role}: {}", text(&output.stderr));
    }
    write("operator.toml");
    let here = "gateway.routers=127.0.0.1:9";
    let output = carillon(&["status", "--config", "operator.toml", "--set", here], folder.path());
    let told = text(&output.stderr);
    assert!(told.contains("no router answered (127.0.0.1:9"), "all it lacks is a router: {told}");
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
