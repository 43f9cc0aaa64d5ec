//! Commands of users as scripts give them: options, output for programs, words of refusals, exit codes.

mod support;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use support::service::{Carrier, Service};

struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Told {
    /// Standard output, if the command was carried out.
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }

    fn objects(self) -> Vec<Value> {
        self.done().lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }
}

fn command(service: &Service, user: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(args).env("CARILLON_TOKEN", service.token(user));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `carillon`, which finds the service by the environment.
fn run(service: &Service, user: &str, args: &[&str]) -> Told {
    let mut command = command(service, user, args);
    told(command.env("CARILLON_URL", service.address(Carrier::Tcp).to_string()).spawn().expect("starts"))
}

fn told(child: Child) -> Told {
    let output = child.wait_with_output().expect("ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Told { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Makes accounts: a token's first sign-in makes that of its user.
fn enter(service: &Service, users: &[&str]) {
    for user in users {
        run(service, user, &["send", user, user, "a note"]).done();
    }
}

#[test]
fn options_of_users_stand_before_a_subcommand_or_behind_it() {
    let service = Service::shared();
    enter(service, &["uma"]);
    let url = service.address(Carrier::Tcp).to_string();
    for args in [
        &["group", "--as", "uma", "--url", &url, "list", "--json"][..],
        &["group", "list", "--json", "--as", "uma", "--url", &url],
        &["group", "--as", "uma", "list", "--device", "other", "--url", &url],
        &["contact", "list", "--as", "uma", "--url", &url],
        &["conversation", "--url", &url, "list", "--as", "uma"],
        &["scheduled", "--as", "uma", "list", "--url", &url],
        &["privacy", "show", "--as", "uma", "--url", &url],
        &["message", "list", "--as", "uma", "--url", &url, "--ids"],
        &["message", "--ids", "--json", "--as", "uma", "--url", &url, "list"],
    ] {
        let done = told(command(service, "uma", args).spawn().expect("starts"));
        assert_eq!(done.code, Some(0), "{args:?}: {}", done.err);
    }
    let nobody = run(service, "uma", &["group", "list"]);
    assert!(nobody.code == Some(2) && nobody.err.contains("--as USER is missing"), "{}", nobody.err);
}

#[test]
fn a_refusal_is_said_once_in_words_and_by_the_exit_code() {
    let service = Service::shared();
    enter(service, &["vera", "viktor"]);
    let refused = |user: &str, args: &[&str], code: i32, words: &str| {
        let told = run(service, user, args);
        assert_eq!((told.code, told.err.trim_end()), (Some(code), words), "{args:?}");
    };
    refused(
        "vera",
        &["send", "vera", "nobody-of-them", "hi"],
        4,
        "carillon: message to nobody-of-them was refused: there is no user \"nobody-of-them\"",
    );
    run(service, "vera", &["group", "--as", "vera", "create", "vgroup", "--member", "viktor"]).done();
    let hidden = "there is no such group, or it is not open to this user";
    refused("vera", &["group", "--as", "vera", "show", "none"], 4, &format!("carillon: refused: {hidden}"));
    refused(
        "vera",
        &["group", "--as", "vera", "send", "none", "hi"],
        4,
        &format!("carillon: message to group none was refused: {hidden}"),
    );
    refused(
        "vera",
        &["conversation", "--as", "vera", "decline", "stranger"],
        4,
        "carillon: refused: there is no such conversation",
    );

    let nowhere = "carillon: /nowhere/at/all: No such file or directory (os error 2)";
    refused("vera", &["send", "vera", "viktor", "--file", "/nowhere/at/all"], 1, nowhere);

    run(service, "vera", &["group", "--as", "vera", "mute", "vgroup", "1h", "viktor"]).done();
    let muted = run(service, "viktor", &["group", "--as", "viktor", "send", "vgroup", "hi"]);
    let words = "carillon: message to group vgroup was refused: this user is muted in the group until 20";
    assert!(muted.code == Some(4) && muted.err.starts_with(words), "{}", muted.err);
    run(service, "vera", &["group", "--as", "vera", "mute", "vgroup", "0", "viktor"]).done();
    run(service, "vera", &["group", "--as", "vera", "set", "vgroup", "--slow-mode", "10m"]).done();
    let shown = run(service, "vera", &["group", "--as", "vera", "show", "vgroup"]).done();
    assert!(shown.contains("slow mode        one message in 10 minutes"), "{shown}");
    let slow = ["group", "--as", "vera", "set", "vgroup", "--slow-mode", "25h"];
    refused("vera", &slow, 4, "carillon: refused: rejected by the store: slow mode of 1 day 1 hour, not up to 1 day");
    run(service, "viktor", &["group", "--as", "viktor", "send", "vgroup", "first"]).done();
    let slow = run(service, "viktor", &["group", "--as", "viktor", "send", "vgroup", "second"]);
    let words = "message to group vgroup was refused: slow mode: one message in 10 minutes; it may be tried again in";
    assert!(slow.code == Some(1) && slow.err.contains(words), "{}", slow.err);

    let past = ["scheduled", "--as", "vera", "add", "--to", "viktor", "late", "--at", "2020-01-01T00:00:00Z"];
    let past = run(service, "vera", &past);
    let words = "carillon: refused: the message would be sent at 2020-01-01T00:00:00Z, which must be from 20";
    assert!(past.code == Some(4) && past.err.starts_with(words), "{}", past.err);
    let wrong = told(
        command(
            service,
            "vera",
            &["listen", "vera", "--token", "no", "--url", &service.address(Carrier::Tcp).to_string()],
        )
        .spawn()
        .expect("starts"),
    );
    assert_eq!(wrong.code, Some(4), "{}", wrong.err);
}

#[test]
fn what_is_not_given_of_a_contact_stays() {
    let service = Service::shared();
    enter(service, &["wanda", "willy"]);
    let set = |args: &[&str]| run(service, "wanda", &[&["contact", "--as", "wanda", "set", "willy"], args].concat());
    let listed = || {
        let listed = run(service, "wanda", &["contact", "--as", "wanda", "list", "--json"]).objects();
        let mut labels: Vec<_> = listed[0]["labels"].as_array().expect("a list").iter().map(Value::to_string).collect();
        labels.sort();
        (listed[0]["name"].to_string(), labels.join(" "))
    };
    set(&["--name", "Will", "--label", "family"]).done();
    set(&["--label", "work", "--label", "chess"]).done();
    let told = |name: &str, labels: &str| (format!("{name:?}"), labels.to_owned());
    assert_eq!(listed(), told("Will", r#""chess" "work""#));
    set(&["--name", "Willy"]).done();
    assert_eq!(listed(), told("Willy", r#""chess" "work""#));
    set(&["--no-label"]).done();
    assert_eq!(listed(), told("Willy", ""));
    assert_eq!(set(&[]).code, Some(2));
}

#[test]
fn a_script_talks_in_a_group_and_reads_everything_as_objects() {
    let service = Service::shared();
    enter(service, &["xaver", "xenia"]);
    let as_xaver = |args: &[&str]| run(service, "xaver", args);
    as_xaver(&["group", "--as", "xaver", "create", "xgroup", "--member", "xenia"]).done();
    let mut chat = command(service, "xaver", &["chat", "xaver", "--group", "xgroup", "--lines", "--json"]);
    chat.env("CARILLON_URL", service.address(Carrier::Tcp).to_string()).stdin(Stdio::piped());
    let mut chat = chat.spawn().expect("starts");
    chat.stdin.take().expect("piped").write_all("one\n\ntwo\n".as_bytes()).expect("written");
    let answered = told(chat).objects();
    let accepted: Vec<_> = answered.iter().filter(|object| object["accepted"].is_string()).collect();
    assert_eq!(accepted.len(), 2, "{answered:?}");
    assert_eq!((&accepted[0]["timeline"], &accepted[0]["position"]), (&json!("group/xgroup"), &json!(2)));

    let list = |more: &[&str]| as_xaver(&[&["message", "--as", "xaver", "--json", "list"], more].concat()).objects();
    let texts = |list: Vec<Value>| list.iter().map(|message| message["text"].clone()).collect::<Vec<_>>();
    let all = list(&["--group", "xgroup"]);
    assert_eq!(
        (&all[1]["from"], &all[1]["group"], &all[1]["position"]),
        (&json!("xaver"), &json!("xgroup"), &json!(2))
    );
    assert_eq!(all[1]["id"], accepted[0]["accepted"]);
    assert_eq!(texts(list(&["--group", "xgroup", "--limit", "1"])), ["two"]);
    assert_eq!(texts(list(&["--group", "xgroup", "--limit", "1", "--before", "3"])), ["one"]);
    let id = accepted[0]["accepted"].as_str().expect("an id");
    as_xaver(&["message", "--as", "xaver", "edit", id, "uno", "--group", "xgroup"]).done();
    as_xaver(&["message", "--as", "xaver", "pin", id, "--group", "xgroup"]).done();
    assert_eq!(texts(list(&["--group", "xgroup", "--limit", "2"])), ["uno", "two"], "edits and pins are no messages");
    let pinned = as_xaver(&["message", "--as", "xaver", "pinned", "--group", "xgroup", "--json"]).objects();
    assert_eq!((&pinned[0]["text"], &pinned[0]["state"]["pinned"]), (&json!("uno"), &json!(true)));

    as_xaver(&["send", "xaver", "xenia", "direct", "--json"]).objects();
    assert_eq!(texts(list(&["--with", "xenia"])), ["direct"]);
    let group = as_xaver(&["group", "--as", "xaver", "show", "xgroup", "--json"]).objects();
    assert_eq!((&group[0]["members"], &group[0]["own"]["role"]), (&json!(2), &json!("owner")));
    let marks = as_xaver(&["conversation", "--as", "xaver", "marks", "--group", "xgroup", "--json"]).objects();
    let users: Vec<_> = marks.iter().map(|mark| mark["user"].as_str().expect("a name")).collect();
    assert_eq!(users, ["xaver", "xenia"]);
    as_xaver(&["conversation", "--as", "xaver", "set", "xenia", "--mute", "always"]).done();
    let listed = as_xaver(&["conversation", "--as", "xaver", "list"]).done();
    assert!(listed.contains("muted for ever"), "{listed}");
}

#[test]
fn wrong_arguments_and_refusals_by_the_command_itself_have_their_exit_codes() {
    let service = Service::shared();
    enter(service, &["olga", "otto"]);
    let code = |args: &[&str], code: i32, words: &str| {
        let told = run(service, "olga", args);
        assert!(told.code == Some(code) && told.err.contains(words), "{args:?}: {:?} {}", told.code, told.err);
    };
    let of = |args: &[&'static str]| [&args[..1], &["--as", "olga"], &args[1..]].concat();
    for (args, words) in [
        (of(&["scheduled", "add", "--to", "otto", "later"]), "--at or --in"),
        (of(&["scheduled", "set", "7"]), "--text, --at or --in"),
        (of(&["group", "set", "ogroup"]), "no setting is given"),
        (of(&["conversation", "set", "otto"]), "--pinned"),
        (of(&["conversation", "set", "otto", "--group", "ogroup", "--pinned", "true"]), "one conversation"),
        (of(&["conversation", "read"]), "--all"),
        (of(&["contact", "set", "otto"]), "--name"),
        (of(&["message", "list", "--with", "otto", "--group", "ogroup"]), "either a group"),
        (of(&["message", "pinned"]), "either a group"),
        (vec!["chat", "olga"], "carillon chat USER WITH"),
        (vec!["domain", "set", "acme.example"], "--max-users"),
        (vec!["send", "olga", "otto", "psst", "--expires", "1s"], "5s to 366d"),
        (vec!["status", "--config", "nowhere.toml"], "nowhere.toml"),
    ] {
        code(&args, 2, words);
    }
    let never = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let sent = run(service, "olga", &["send", "olga", "otto", "for good", "--json"]).objects().remove(0);
    let erased = sent["accepted"].as_str().expect("an id").to_owned();
    run(service, "olga", &["message", "--as", "olga", "recall", &erased, "--erase"]).done();
    for id in [never, &erased] {
        for what in [&["edit", id, "other words"][..], &["pin", id], &["forward", id, "--to", "otto"]] {
            code(&[&["message", "--as", "olga"], what].concat(), 4, id);
        }
    }
    code(&["send", "olga", "otto", "yes", "--reply-to", never], 4, never);
    code(&["media", "get", "9999", "--as", "olga"], 4, "there is no message at this position");
    code(&["conversation", "--as", "olga", "read", "nobody-here"], 4, "there is no conversation");
    let listed = run(service, "otto", &["message", "--as", "otto", "list", "--json"]).objects();
    let left = listed.iter().find(|message| message["id"] == *erased).expect("what is left of it");
    assert_eq!((&left["text"], &left["erased"]), (&Value::Null, &json!(true)));
}

#[test]
fn lines_are_given_up_when_the_input_has_ended_and_the_service_is_away() {
    let service = Service::shared();
    let args = ["chat", "nina", "nils", "--lines", "--timeout", "1", "--url", "tcp://127.0.0.1:1"];
    let mut chat = command(service, "nina", &args).stdin(Stdio::piped()).spawn().expect("starts");
    // The end of the input comes with its drop.
    chat.stdin.take().expect("piped").write_all(b"one\ntwo\nthree\n").expect("typed");
    let told = told(chat);
    assert!(told.code == Some(1) && told.err.contains("3 of 3 lines were not accepted"), "{}", told.err);
    assert_eq!(told.err.matches("no answer in time").count(), 1, "{}", told.err);
}

/// Listens as a device of the user's, for programs.
fn listen(service: &Service, user: &str) -> Child {
    let mut listen = command(service, user, &["listen", user, "--device", "radio", "--json"]);
    listen.env("CARILLON_URL", service.address(Carrier::Tcp).to_string()).spawn().expect("starts")
}

/// The messages that it prints.
fn heard(listening: &mut Child) -> impl Iterator<Item = Value> + use<> {
    let lines = BufReader::new(listening.stdout.take().expect("piped")).lines().map_while(Result::ok);
    lines.map(|line| serde_json::from_str(&line).expect("an object"))
}

#[test]
fn a_change_of_the_own_membership_is_printed_once() {
    let service = Service::shared();
    enter(service, &["rosa", "rita"]);
    let mut listening = listen(service, "rosa");
    let mut messages = heard(&mut listening);
    run(service, "rita", &["send", "rita", "rosa", "are you there?"]).done();
    messages.find(|message| message["text"] == "are you there?").expect("it comes");
    run(service, "rita", &["group", "--as", "rita", "create", "rgroup"]).done();
    run(service, "rita", &["group", "--as", "rita", "add", "rgroup", "rosa"]).done();
    run(service, "rita", &["group", "--as", "rita", "send", "rgroup", "welcome"]).done();
    // The last one in the inbox comes when both deliveries of the change are over.
    let in_group: Vec<_> = messages.by_ref().take_while(|message| message["text"] != "welcome").collect();
    run(service, "rita", &["send", "rita", "rosa", "the end"]).done();
    let in_inbox: Vec<_> = messages.take_while(|message| message["text"] != "the end").collect();
    let changes: Vec<_> =
        in_group.iter().chain(&in_inbox).filter(|message| message["envelope"]["change"].is_object()).collect();
    assert_eq!(changes.len(), 1, "{changes:#?}");
    assert_eq!(changes[0]["envelope"]["change"]["members"]["users"], json!(["rosa"]));
    listening.kill().expect("ends");
    listening.wait().expect("ended");
}

#[test]
fn a_wrong_path_is_told_at_once() {
    let service = Service::shared();
    let url = format!("ws://{}/chat", service.ws());
    let told = told(command(service, "nora", &["send", "nora", "nora", "hi", "--url", &url]).spawn().expect("starts"));
    assert_eq!(told.code, Some(4), "{}", told.err);
    assert_eq!(told.err, format!("carillon: there is no WebSocket at {url}: the answer is HTTP 404, not found\n"));
}

#[test]
fn whoever_listens_hears_objects_and_why_it_ends() {
    let service = Service::shared();
    enter(service, &["yara", "yoko"]);
    let mut first = listen(service, "yara");
    run(service, "yoko", &["send", "yoko", "yara", "good morning"]).done();
    let mut messages = heard(&mut first);
    let heard = messages.find(|message| message["from"] == "yoko").expect("it comes");
    assert_eq!((&heard["text"], &heard["timeline"]), (&json!("good morning"), &json!("inbox/yara")));
    let mut second = listen(service, "yara");
    let first = told(first);
    let why = "this device has signed in elsewhere";
    assert!(first.code == Some(4) && first.err.ends_with(&format!("carillon: {why}\n")), "{}", first.err);
    second.kill().expect("ends");
    second.wait().expect("ended");
}
