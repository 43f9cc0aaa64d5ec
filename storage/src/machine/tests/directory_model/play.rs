//! Commands at random to a directory shard and to its model, and what a shard keeps besides.

use carillon_proto::pb::store::{
    Account, AdvanceLeaseClock, DirectoryCommand, ListAccounts, ListSessions, Node, NodeKind, PutAccount, PutSession,
    RegisterNode, Registered, RenewLease, RevokeTokens, Session, User, directory_command::Op, rejected::Reason,
};
use proptest::prelude::*;

use super::{
    Answer, Model, SHARD, Slot, USERS,
    commands::{command, set_level},
};
use crate::machine::{DirectoryMachine, DirectoryReader, Outcome, tests::*};

/// All pages together.
fn list(reader: &DirectoryReader, ending: bool) -> Vec<String> {
    let (mut all, mut after_user) = (Vec::new(), String::new());
    loop {
        let page =
            reader.accounts(&ListAccounts { after_user, limit: 1, ending, domain: String::new() }).expect("reads");
        all.extend(page.accounts.into_iter().map(|account| account.user));
        if page.next_user.is_empty() {
            return all;
        }
        after_user = page.next_user;
    }
}

fn list_sessions(reader: &DirectoryReader) -> Vec<Session> {
    let (mut all, mut list) = (Vec::new(), ListSessions { limit: 2, ..ListSessions::default() });
    loop {
        let page = reader.sessions(&list).expect("reads");
        all.extend(page.sessions);
        if page.next_user.is_empty() {
            return all;
        }
        (list.after_user, list.after_device) = (page.next_user, page.next_device);
    }
}

fn check_reads(reader: &DirectoryReader, model: &Model) {
    assert_eq!(list(reader, false), model.users.keys().cloned().collect::<Vec<_>>());
    let left = |user: &&String| model.users.contains_key(*user);
    assert_eq!(list(reader, true), model.endings.keys().filter(left).cloned().collect::<Vec<_>>());
    let sessions: Vec<_> = model.users.values().flat_map(|(_, sessions)| sessions.values().cloned()).collect();
    assert_eq!(list_sessions(reader), sessions);
    for user in USERS {
        let read = reader.user(user).expect("reads");
        let expected = model.users.get(user).map_or_else(User::default, |(account, sessions)| User {
            account: Some(account.clone()),
            sessions: sessions.values().cloned().collect(),
            ..User::default()
        });
        assert_eq!(read, User { erasure: model.erasures.get(user).cloned(), ..expected });
    }
    let registry = reader.registry();
    let registry = registry.borrow();
    assert_eq!((registry.version, registry.ring_version), (model.version, model.ring_version));
    let node = |(node, lease, _): &(RegisterNode, u64, u64)| Node {
        lease: *lease,
        kind: node.kind,
        address: node.address.clone(),
        slot: model.slots.iter().position(|slot| *slot == Slot::Held(*lease)).map(|slot| slot as u32),
    };
    assert_eq!(registry.nodes, model.nodes.iter().map(node).collect::<Vec<_>>());
    let vacant = model.slots.iter().enumerate().filter(|(_, slot)| **slot == Slot::Vacant);
    assert_eq!(registry.vacant_slots, vacant.map(|(number, _)| number as u32).collect::<Vec<_>>());
}

fn entries() -> impl Strategy<Value = Vec<Vec<DirectoryCommand>>> {
    proptest::collection::vec(proptest::collection::vec(command(), 0..8), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_shard_does_what_its_model_does(steps in proptest::collection::vec(step(entries()), 1..25)) {
        let mut shard = OpenShard::new(|engines| engines.directory(SHARD).expect("shard"), &set_level());
        let (mut model, mut index) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Apply(commands) => {
                    let first = index + 1;
                    let entries: Vec<_> =
                        commands.iter().map(|commands| { index += 1; entry(index, commands) }).collect();
                    let outcomes = shard.machine.apply(&entries, &index.to_be_bytes()).expect("applies");
                    for ((outcomes, commands), index) in outcomes.into_iter().zip(&commands).zip(first..) {
                        prop_assert_eq!(outcomes.len(), commands.len());
                        for ((outcome, command), place) in outcomes.into_iter().zip(commands).zip(0..) {
                            prop_assert_eq!(Answer::from(outcome), model.apply(index * 64 + place, command));
                        }
                    }
                }
                Step::Reopen => shard = shard.reopened(),
                Step::SnapshotAndRestore => shard = shard.restored_from_its_snapshot(),
            }
            prop_assert_eq!(applied(&shard.machine), index);
            check_reads(&shard.reader, &model);
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference(
        commands in proptest::collection::vec(proptest::collection::vec(command(), 0..8), 1..30),
    ) {
        let dir = tempfile::tempdir().expect("folder");
        let engines = [open(&dir.path().join("a")), open(&dir.path().join("b"))];
        let mut machines =
            engines.each_ref().map(|engines| at_level(engines.directory(SHARD).expect("shard").0, &set_level()));
        let entries: Vec<_> = commands.iter().zip(1..).map(|(commands, index)| entry(index, commands)).collect();
        let one_by_one: Vec<_> =
            entries.chunks(1).flat_map(|entry| machines[0].apply(entry, &[0; 8]).expect("applies")).collect();
        let by_seven: Vec<_> =
            entries.chunks(7).flat_map(|entry| machines[1].apply(entry, &[0; 8]).expect("applies")).collect();
        prop_assert_eq!(one_by_one, by_seven);
        let [a, b] = &mut machines;
        prop_assert_eq!(records(a), records(b));
    }
}

fn machine(dir: &Path) -> (DirectoryMachine, DirectoryReader) {
    let (machine, reader) = open(dir).directory(SHARD).expect("shard");
    (at_level(machine, &set_level()), reader)
}

#[test]
fn a_watcher_hears_of_a_change_and_not_of_a_renewal() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    let mut watching = reader.registry();
    watching.mark_unchanged();
    let node =
        RegisterNode { kind: NodeKind::Gateway.into(), ttl_ms: 10, nonce: vec![1; 16].into(), ..Default::default() };
    let mut apply = |index, op| {
        machine
            .apply(&[entry(index, &[DirectoryCommand { op: Some(op) }])], &[0; 8])
            .expect("applies")
            .remove(0)
            .remove(0)
    };
    assert_eq!(apply(1, Op::RegisterNode(node)), Outcome::Registered(Registered { lease: 64 }));
    assert!(watching.has_changed().expect("open"));
    assert_eq!(watching.borrow_and_update().nodes[0].lease, 64);
    apply(2, Op::RenewLease(RenewLease { lease: 64 }));
    apply(3, Op::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms: 9 }));
    assert!(!watching.has_changed().expect("open"));
    apply(4, Op::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms: 1 }));
    assert!(watching.borrow_and_update().nodes.is_empty());
}

#[test]
fn of_many_revoked_tokens_only_so_many_are_kept_and_those_that_expired_make_room() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, _reader) = machine(dir.path());
    let mut index = 0;
    let mut apply = |op| {
        index += 1;
        let command = DirectoryCommand { op: Some(op) };
        Answer::from(machine.apply(&[entry(index, &[command])], &[0; 8]).expect("applies").remove(0).remove(0))
    };
    let account = Some(Account { user: "a".into(), ..Account::default() });
    apply(Op::PutAccount(PutAccount { account, numbered: true, ..PutAccount::default() }));
    let revoke = |id: u32, time_ms| {
        let (user, id) = ("a".into(), format!("token{id}"));
        Op::RevokeTokens(RevokeTokens { user, id, expires_ms: 10, time_ms, ..RevokeTokens::default() })
    };
    for id in 0..64 {
        assert!(matches!(apply(revoke(id, 1)), Answer::Other(Outcome::AccountChanged(_))), "{id}");
    }
    assert_eq!(apply(revoke(64, 1)), Answer::Rejected(Reason::Full));
    assert!(matches!(apply(revoke(7, 1)), Answer::Other(_)), "it is revoked already");
    let Answer::Other(Outcome::AccountChanged(changed)) = apply(revoke(64, 10)) else { panic!("refused") };
    assert_eq!(changed.account.expect("an account").revoked.len(), 1);
}

#[test]
fn rows_of_sessions_whose_gateways_have_ended_are_found_in_bounded_looks() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader) = machine(dir.path());
    let account = Some(Account { user: "a".into(), ..Account::default() });
    let put = |device: u32| {
        let session = Session {
            user: "a".into(),
            device: format!("d{device}"),
            lease: 1 + u64::from(device % 2),
            ..Session::default()
        };
        Op::PutSession(PutSession { session: Some(session), ..PutSession::default() })
    };
    let account = Op::PutAccount(PutAccount { account, ..PutAccount::default() });
    let commands: Vec<_> =
        [account].into_iter().chain((0..20).map(put)).map(|op| DirectoryCommand { op: Some(op) }).collect();
    machine.apply(&[entry(1, &commands)], &[0; 8]).expect("applies");
    let (mut found, mut after) = (Vec::new(), Vec::new());
    loop {
        let (some, next) = reader.of_ended(&after, |lease| lease == 1, 3).expect("reads");
        assert!(some.len() <= 3);
        found.extend(some);
        after = next;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(found.len(), 10);
    assert!(found.iter().all(|session| session.lease == 1));
}
