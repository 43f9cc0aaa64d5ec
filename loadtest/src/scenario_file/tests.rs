use super::*;

fn parse(text: &str) -> Result<ScenarioFile, ScenarioError> {
    ScenarioFile::parse("a.toml", text, &[])
}

/// A valid scenario, with these lines in the place of others.
fn wrong(text: &str) -> String {
    parse(&format!("name = \"a\"\n{text}")).expect_err("it is wrong").to_string()
}

#[test]
fn every_preset_is_valid_and_bears_its_name() {
    for (name, text) in PRESETS {
        let scenario = ScenarioFile::read(name, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((scenario.name.as_str(), text_of(name).expect("text").as_str()), (name, text));
        assert!(!scenario.about.is_empty());
        assert_eq!(parse(&scenario.to_toml()).expect("as it was written"), scenario);
    }
}

#[test]
fn a_key_that_nobody_knows_is_told_with_its_line() {
    for text in [
        "[direct]\nusers = 3\nuser = 4\n",
        "[direct]\nusers = 3\n[levels]\n",
        "[direct]\nusers = 3\n[direct.ramp]\nfrom = 1\nto = 2\nover = \"3s\"\n",
        "[direct]\nusers = 3\n[time]\nseconds = 3\n",
    ] {
        let said = wrong(text);
        assert!(said.contains("unknown field") && said.contains("line"), "{said}");
    }
}

#[test]
fn rounds_have_no_unknown_keys_either() {
    for part in ["offline]\nabsent = 4\nmessages = 9", "reconnect]\nconnections = 9"] {
        let said = wrong(&format!("[{part}\nevry = \"5m\"\n"));
        assert!(said.contains("unknown field"), "{said}");
    }
}

#[test]
fn what_contradicts_itself_is_told_before_anything_is_connected() {
    let direct = "[direct]\nusers = 10\n";
    let groups = "[groups]\nusers = 5\ngroups = 2\nmembers = 3\n";
    let presence = "[presence]\nusers = 5\n";
    let marks = "[marks]\nrate = 5\n";
    let capacity = "[direct]\nusers = 10\n[level]\nacceptance_p99_ms = 50\n[capacity]\n";
    for (text, says) in [
        (String::new(), "it has no load"),
        ("[direct]\nusers = 1\n".to_owned(), "direct.users is 1, and must be from 2"),
        (format!("{direct}rate = 501\n"), "more than gateways let them send: 50 a second"),
        (format!("{direct}rate = 0\n"), "direct.rate is 0, and must be above 0"),
        (format!("{direct}rate = 5\nramp = {{ from = 1, to = 2 }}\n"), "a rate and a ramp"),
        (format!("{direct}ramp = {{ from = -1, to = 2 }}\n"), "direct.ramp.from is -1"),
        (format!("{direct}slow_readers = 11\n"), "direct.slow_readers is 11"),
        (format!("{direct}bytes = 10000001\n"), "direct.bytes is 10000001, and must be from 0"),
        ("[offline]\nabsent = 5\nmessages = 0\n".to_owned(), "offline.messages is 0"),
        (format!("{direct}[time]\nmeasured = \"0s\"\n"), "time.measured is 0"),
        (format!("{direct}[time]\nmeasured = \"soon\"\n"), "\"soon\" is no length of time"),
        (format!("{direct}[target]\naddresses = []\n"), "target.addresses is empty"),
        (format!("{direct}[target]\naddresses = [\"http://a\"]\n"), "unknown scheme"),
        (format!("{direct}[sign_in]\ntoken_lifetime = \"9s\"\n"), "sign_in.token_lifetime is 9s"),
        (format!("{direct}[sign_in]\ntoken_key_id = \"a\"\n"), "needs sign_in.token_key_file"),
        (format!("{direct}[sign_in]\nby = \"password\"\ntoken_key_file = \"a\"\n"), "is for tokens"),
        (format!("{direct}[sign_in]\nby = \"password\"\nrouters = []\n"), "sign_in.routers is empty"),
        (format!("{direct}[sign_in]\nby = \"smile\"\n"), "unknown variant `smile`"),
        (format!("{direct}[level]\nlost = 1\n"), "level.lost is not 0"),
        (format!("{direct}[level]\nserver_cpu_us = 100\n"), "needs target.server_pids or target.admin"),
        (format!("{direct}rate = 100\n[level]\nrate = 200\n"), "level.rate is 200, and direct.rate only 100"),
        (
            "[idle]\nconnections = 5\n[level]\nacceptance_p99_ms = 5\n".to_owned(),
            "needs [direct], [groups], [presence], [marks] or [offline]",
        ),
        (
            "[groups]\nusers = 5\ngroups = 1\nmembers = 6\n".to_owned(),
            "groups.members is 6, and there are 5 groups.users",
        ),
        (format!("{groups}senders = 4\n"), "groups.senders is 4, and groups.members 3"),
        (format!("{groups}absent = 99998\n"), "a group has 100000 members at most"),
        (
            format!("{groups}rate = 101\n"),
            "101 messages a second of 2 groups.senders are more than gateways let them send",
        ),
        (format!("{groups}change_every = \"0s\"\n"), "groups.change_every is 0"),
        ("[groups]\nusers = 5\ngroups = 1\nmembers = 1\nchange_every = \"1s\"\n".to_owned(), "the owner stays"),
        (format!("{presence}contacts = 2\n"), "missing field `rate`"),
        (format!("{presence}contacts = 3\nrate = 1\n"), "presence.contacts is 3, and must be even"),
        (format!("{presence}contacts = 6\nrate = 1\n"), "presence.contacts is 6, and there are 5 presence.users"),
        ("[presence]\nusers = 2000\ncontacts = 1002\nrate = 1\n".to_owned(), "must be at most 1000"),
        (format!("{presence}contacts = 2\nrate = 6\n"), "more than a service tells: 1 a second for each"),
        (format!("{presence}contacts = 2\nrate = 0\n"), "presence.rate is 0, and must be above 0"),
        (format!("{presence}contacts = 2\nrate = 1\nrestart_every = \"0s\"\n"), "presence.restart_every is 0"),
        (
            format!("{presence}contacts = 2\nrate = 1\nrestart_every = \"1s\"\n[time]\npatience = \"3s\"\n"),
            "time.patience is 3s, and presence.restart_every needs 10s",
        ),
        (marks.to_owned(), "neither marks.pairs nor marks.groups"),
        (format!("{marks}groups = 1\nmembers = 1\n"), "marks.members is 1, and must be from 2"),
        (format!("{marks}groups = 1\nmembers = 258\n"), "marks.members is 258, and must be at most 257"),
        (format!("{marks}pairs = 2\nnot_reading = 5\n"), "marks.not_reading is 5, and there are 4 users"),
        ("[marks]\npairs = 1\nrate = 101\n".to_owned(), "101 messages a second of 2 marks.users are more"),
        (format!("{marks}pairs = 1\ntyping = true\n"), "unknown field `typing`"),
        (format!("{capacity}from = 501\n"), "capacity.from is 501, and 500 is the most"),
        (format!("{capacity}most = 501\n"), "more than gateways let them send"),
        (format!("{capacity}precision = 0\n"), "capacity.precision is 0"),
        (format!("{capacity}window = \"500ms\"\n"), "fewer than 100 messages"),
        (format!("{direct}rate = 5\n[level]\nacceptance_p99_ms = 50\n[capacity]\n"), "[capacity] looks for the rate"),
        (format!("{capacity}\n[idle]\nconnections = 5\n"), "[capacity] needs [direct], and nothing beside it"),
        (format!("{direct}[capacity]\n"), "[capacity] needs level.acceptance_p99_ms"),
        (format!("{capacity}\n{presence}contacts = 2\nrate = 1\n"), "[capacity] needs [direct], and nothing beside it"),
        ("[idle]\nconnections = 5\n[chaos]\n".to_owned(), "[chaos] needs [direct], [groups], [presence] or [marks]"),
        (format!("{direct}[chaos]\n"), "chaos.faults is empty"),
        (format!("{direct}[chaos]\nfaults = [\"kill bill\"]\n"), "\"bill\" is no target"),
        (format!("{direct}[chaos]\nfaults = [\"remove controller\"]\n"), "removes 1 storage nodes and adds 0"),
        (
            "[reconnect]\nconnections = 5\nafter = \"1m\"\n".to_owned(),
            "reconnect.after is 1m, and the measured time ends",
        ),
        ("[offline]\nabsent = 5\nmessages = 5\nevery = \"0s\"\n".to_owned(), "offline.every is 0"),
    ] {
        let said = wrong(&text);
        assert!(said.contains(says), "{text}: {said}");
    }
}

#[test]
fn values_are_replaced_by_their_keys() {
    let set = ["direct.users=20", "target.addresses=[\"ws://a/ws\"]", "time.measured=3s", "level.rate=7.5"];
    let scenario = ScenarioFile::read("smoke", &set.map(str::to_owned)).expect("valid");
    assert_eq!(scenario.direct.as_ref().map(|direct| direct.users), Some(20));
    assert_eq!(scenario.target.addresses, ["ws://a/ws"]);
    assert_eq!((scenario.time.measured, scenario.level.rate), (Length::of_ms(3000), Some(7.5)));
    for (given, says) in [
        ("direct.user=2", "unknown field `user`"),
        ("direct", "it has no ="),
        ("direct..users=2", "a part of the key is empty"),
        ("name.first=2", "name is no table"),
        ("direct.users=many", "invalid type: string \"many\""),
        ("direct.rate=501", "more than gateways let them send"),
    ] {
        let said = ScenarioFile::read("smoke", &[given.to_owned()]).expect_err("wrong").to_string();
        assert!(said.contains(says), "{given}: {said}");
    }
}

#[test]
fn what_is_neither_file_nor_preset_is_told_with_the_presets() {
    let said = ScenarioFile::read("smok", &[]).expect_err("there is none").to_string();
    assert!(said.contains("\"smok\"") && said.contains("smoke, ci, capacity, soak, chaos, groups"), "{said}");
}
