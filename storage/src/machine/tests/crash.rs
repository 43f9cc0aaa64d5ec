//! A process is killed while it applies, and whatever is there afterwards must be the effects of exactly the entries
//! that it says are applied.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use carillon_proto::{
    ShardId, ShardKind,
    pb::store::{
        Account, Append, DirectoryCommand, PutAccount, PutSession, Session, TimelineCommand, TimelineKey, Trim,
        directory_command, put_account::Mode, timeline_command, timeline_key::Kind,
    },
};

use super::*;

const FOLDER: &str = "CARILLON_TEST_CRASH_FOLDER";
const TIMELINE: ShardId = ShardId { kind: ShardKind::Timeline, index: 0 };

#[test]
fn a_killed_process_leaves_whole_batches() {
    if let Ok(folder) = env::var(FOLDER) {
        return apply_until_killed(Path::new(&folder));
    }
    let dir = tempfile::tempdir().expect("folder");
    let (crashed, whole) = (dir.path().join("crashed"), dir.path().join("whole"));
    let reference = open(&whole);
    let (mut directory, _) = reference.directory(ShardId::REGISTRY).expect("shard");
    let (mut timeline, _) = reference.timeline(TIMELINE).expect("shard");
    for round in 0..5u64 {
        let mut child = start(&crashed);
        // Any moment will do.
        thread::sleep(Duration::from_millis(20 + noise(round) % 200));
        child.kill().expect("kills");
        child.wait().expect("ends");

        let engines = open(&crashed);
        let (mut killed, _) = engines.directory(ShardId::REGISTRY).expect("shard");
        catch_up(&mut directory, applied(&killed), directory_commands);
        assert!(records(&mut killed) == records(&mut directory), "directory differs at {}", applied(&killed));
        let (mut killed, _) = engines.timeline(TIMELINE).expect("shard");
        catch_up(&mut timeline, applied(&killed), timeline_commands);
        assert!(records(&mut killed) == records(&mut timeline), "timeline differs at {}", applied(&killed));
    }
    assert!(applied(&directory) > 0 && applied(&timeline) > 0, "nothing was applied before the kills");
}

/// This test again, as another process, which has opened its engines when this returns.
fn start(folder: &Path) -> Child {
    let mut child = Command::new(env::current_exe().expect("this test"))
        .args(["--exact", "machine::tests::crash::a_killed_process_leaves_whole_batches", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("engines are open"));
    assert!(ready, "the process ended before it had opened its engines");
    child
}

fn apply_until_killed(folder: &Path) {
    let engines = open(folder);
    let (mut directory, _) = engines.directory(ShardId::REGISTRY).expect("shard");
    let (mut timeline, _) = engines.timeline(TIMELINE).expect("shard");
    let sync = [directory.syncer(), timeline.syncer()];
    println!("engines are open");
    for round in 1u64.. {
        let (next, after) = (applied(&directory) + 3, applied(&timeline) + 7);
        catch_up(&mut directory, next, directory_commands);
        catch_up(&mut timeline, after, timeline_commands);
        if round % 50 == 0 {
            sync.iter().for_each(|sync| sync().expect("syncs"));
        }
    }
}

/// Applies, as one batch, the entries up to this index.
fn catch_up<M: Message>(machine: &mut impl Machine, to: u64, commands: fn(u64) -> Vec<M>) {
    let from = applied(machine);
    assert!(from <= to, "entries up to {from} were applied and are lost, back to {to}");
    let entries: Vec<_> = (from + 1..=to).map(|index| entry(index, &commands(index))).collect();
    machine.apply(&entries, &to.to_be_bytes()).expect("applies");
}

fn timeline_commands(index: u64) -> Vec<TimelineCommand> {
    let command = |place| {
        let noise = noise(index * 64 + place);
        let timeline = Some(TimelineKey { kind: Kind::Inbox.into(), owner: format!("user{}", noise % 50).into() });
        let op = if noise.is_multiple_of(11) {
            timeline_command::Op::Trim(Trim { timeline, before_seq: noise % 40, limit: 20, epoch: 0 })
        } else {
            timeline_command::Op::Append(Append {
                after_key: Default::default(),
                timeline,
                duplicate_key: [(noise >> 8) % 5000; 2].iter().flat_map(|n| n.to_be_bytes()).collect(),
                time_ms: noise,
                envelope: vec![noise as u8; (noise % 700) as usize].into(),
                new_epoch: noise | 1,
                incarnation: 0,
                ..Append::default()
            })
        };
        TimelineCommand { op: Some(op) }
    };
    (0..20).map(command).collect()
}

fn directory_commands(index: u64) -> Vec<DirectoryCommand> {
    let command = |place| {
        let noise = noise(index * 64 + place);
        let user = format!("user{}", noise % 500);
        let op = if noise.is_multiple_of(5) {
            let account = Some(Account { user, created_ms: noise, ..Account::default() });
            directory_command::Op::PutAccount(PutAccount {
                account,
                mode: Mode::Ensure.into(),
                ..PutAccount::default()
            })
        } else {
            let (device, since_ms) = (format!("d{}", noise % 3), index);
            let session =
                Session { user, device, lease: 1, connection: noise, protocol: 1, since_ms, ..Session::default() };
            directory_command::Op::PutSession(PutSession { session: Some(session), ..PutSession::default() })
        };
        DirectoryCommand { op: Some(op) }
    };
    (0..20).map(command).collect()
}

/// SplitMix64: the same for the same number in every process.
fn noise(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
