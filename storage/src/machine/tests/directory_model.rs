use std::collections::BTreeMap;

use carillon_proto::{
    ShardId,
    pb::store::{
        Account, AdvanceLeaseClock, DeleteAccount, DeleteSession, DeregisterNode, DirectoryCommand, Done, Node,
        NodeKind, PutAccount, PutSession, RegisterNode, Registered, RenewLease, ScramCredentials, Session, SessionPut,
        User, directory_command::Op, put_account::Mode, rejected::Reason, store_error::Why,
    },
};
use proptest::prelude::*;

use super::*;
use crate::machine::{DirectoryMachine, DirectoryReader, Outcome};

const SHARD: ShardId = ShardId::REGISTRY;
const MINUTE_MS: u64 = 60_000;
const USERS: [&str; 3] = ["a", "ab", "b"];

#[derive(Default)]
struct Model {
    users: BTreeMap<String, (Account, BTreeMap<String, Session>)>,
    /// Registration, lease, when it ends.
    nodes: Vec<(RegisterNode, u64, u64)>,
    clock: u64,
    version: u64,
    ring_version: u64,
}

/// An outcome without its texts.
#[derive(Debug, PartialEq)]
enum Answer {
    Rejected(Reason),
    Other(Outcome),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Error(error) => match error.why {
                Some(Why::Rejected(rejected)) => Self::Rejected(rejected.reason()),
                other => panic!("a machine answers {other:?}"),
            },
            other => Self::Other(other),
        }
    }
}

impl Model {
    fn apply(&mut self, at: u64, command: &DirectoryCommand) -> Answer {
        match command.op.as_ref().expect("an operation") {
            Op::PutAccount(op) => {
                let account = op.account.clone().expect("an account");
                match (op.mode(), self.users.get_mut(&account.user)) {
                    (Mode::Create, Some((existing, _))) if *existing != account => {
                        return Answer::Rejected(Reason::Exists);
                    }
                    (Mode::Create | Mode::Ensure, Some(_)) => {}
                    (Mode::Replace, Some((existing, _))) => existing.scram = account.scram,
                    (_, None) => {
                        self.users.insert(account.user.clone(), (account, BTreeMap::new()));
                    }
                }
            }
            Op::DeleteAccount(op) => {
                self.users.remove(&op.user);
            }
            Op::PutSession(op) => {
                let session = op.session.clone().expect("a session");
                let Some((_, sessions)) = self.users.get_mut(&session.user) else {
                    return Answer::Rejected(Reason::NotFound);
                };
                let age = |session: &Session| (session.since_ms, session.lease, session.connection);
                let existing = sessions.get(&session.device).cloned();
                let newer = existing.as_ref().is_none_or(|existing| {
                    age(existing) <= age(&session) || !op.announced && existing.since_ms > session.since_ms + MINUTE_MS
                });
                if newer {
                    sessions.insert(session.device.clone(), session.clone());
                }
                let other = existing.filter(|e| (e.lease, e.connection) != (session.lease, session.connection));
                let put = if newer {
                    SessionPut { replaced: other, kept: None }
                } else {
                    SessionPut { replaced: None, kept: other }
                };
                return Answer::Other(Outcome::SessionPut(put));
            }
            Op::DeleteSession(op) => {
                if let Some((_, sessions)) = self.users.get_mut(&op.user) {
                    sessions.retain(|device, s| {
                        *device != op.device || (s.lease, s.connection) != (op.lease, op.connection)
                    });
                }
            }
            Op::RegisterNode(op) => {
                let mut same =
                    self.nodes.iter().filter(|(node, _, _)| (node.kind, &node.nonce) == (op.kind, &op.nonce));
                if let Some((_, lease, _)) = same.find(|(node, _, _)| node.address == op.address) {
                    return Answer::Other(Outcome::Registered(Registered { lease: *lease }));
                }
                self.remove(at, |(node, _, _)| {
                    !op.address.is_empty() && (node.kind, &node.address) == (op.kind, &op.address)
                });
                self.nodes.push((op.clone(), at, self.clock + u64::from(op.ttl_ms)));
                self.changed(at, op.kind());
                return Answer::Other(Outcome::Registered(Registered { lease: at }));
            }
            Op::RenewLease(op) => {
                let clock = self.clock;
                let Some((node, _, ends)) = self.nodes.iter_mut().find(|(_, lease, _)| *lease == op.lease) else {
                    return Answer::Rejected(Reason::NotFound);
                };
                *ends = clock + u64::from(node.ttl_ms);
            }
            Op::DeregisterNode(op) => self.remove(at, |(_, lease, _)| *lease == op.lease),
            Op::AdvanceLeaseClock(op) => {
                self.clock += u64::from(op.elapsed_ms);
                let clock = self.clock;
                self.remove(at, |(_, _, ends)| *ends <= clock);
            }
        }
        Answer::Other(Outcome::Done(Done {}))
    }

    fn remove(&mut self, at: u64, which: impl Fn(&(RegisterNode, u64, u64)) -> bool) {
        let (gone, left) = std::mem::take(&mut self.nodes).into_iter().partition(which);
        self.nodes = left;
        for (node, _, _) in gone {
            self.changed(at, node.kind());
        }
    }

    fn changed(&mut self, at: u64, kind: NodeKind) {
        self.version = at;
        if kind == NodeKind::Router {
            self.ring_version = at;
        }
    }
}

fn check_reads(reader: &DirectoryReader, model: &Model) {
    for user in USERS {
        let read = reader.user(user).expect("reads");
        let expected = model.users.get(user).map_or_else(User::default, |(account, sessions)| User {
            account: Some(account.clone()),
            sessions: sessions.values().cloned().collect(),
        });
        assert_eq!(read, expected);
    }
    let registry = reader.registry();
    let registry = registry.borrow();
    assert_eq!((registry.version, registry.ring_version), (model.version, model.ring_version));
    let node = |(node, lease, _): &(RegisterNode, u64, u64)| Node {
        lease: *lease,
        kind: node.kind,
        address: node.address.clone(),
    };
    assert_eq!(registry.nodes, model.nodes.iter().map(node).collect::<Vec<_>>());
}

/// Close to each other, or about as far apart as sign-ins can be.
fn since_ms() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, MINUTE_MS - 1..MINUTE_MS + 4]
}

fn session() -> impl Strategy<Value = Session> {
    (0..3usize, 0..3usize, 1..4u64, 0..3u64, since_ms()).prop_map(|(user, device, lease, connection, since_ms)| {
        Session {
            user: USERS[user].to_owned(),
            device: ["d", "de", "e"][device].to_owned(),
            lease,
            connection,
            protocol: 1,
            since_ms,
        }
    })
}

fn account() -> impl Strategy<Value = Account> {
    (0..3usize, proptest::option::of(0..3u8), 0..3u64).prop_map(|(user, salt, created_ms)| Account {
        user: USERS[user].to_owned(),
        scram: salt.map(|salt| ScramCredentials {
            salt: vec![salt; 16].into(),
            iterations: 4096,
            stored_key: vec![1; 32].into(),
            server_key: vec![2; 32].into(),
        }),
        created_ms,
    })
}

fn node() -> impl Strategy<Value = RegisterNode> {
    (1..3i32, 0..3usize, 1..50u32, 0..5u8).prop_map(|(kind, address, ttl_ms, nonce)| RegisterNode {
        kind,
        address: ["", "a:1", "b:1"][address].to_owned(),
        ttl_ms,
        nonce: vec![nonce; 16].into(),
    })
}

/// Leases of the first few entries, where registrations are likely.
fn lease() -> impl Strategy<Value = u64> {
    (1..12u64, 0..4u64).prop_map(|(index, place)| index * 64 + place)
}

fn command() -> impl Strategy<Value = DirectoryCommand> {
    let mode = prop_oneof![Just(Mode::Create), Just(Mode::Ensure), Just(Mode::Replace)];
    prop_oneof![
        4 => (account(), mode)
            .prop_map(|(account, mode)| Op::PutAccount(PutAccount { account: Some(account), mode: mode.into() })),
        1 => (0..3usize).prop_map(|user| Op::DeleteAccount(DeleteAccount { user: USERS[user].to_owned() })),
        8 => (session(), any::<bool>())
            .prop_map(|(session, announced)| Op::PutSession(PutSession { session: Some(session), announced })),
        4 => session().prop_map(|Session { user, device, lease, connection, .. }| {
            Op::DeleteSession(DeleteSession { user, device, lease, connection })
        }),
        4 => node().prop_map(Op::RegisterNode),
        3 => lease().prop_map(|lease| Op::RenewLease(RenewLease { lease })),
        2 => lease().prop_map(|lease| Op::DeregisterNode(DeregisterNode { lease })),
        2 => (0..20u32).prop_map(|elapsed_ms| Op::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms })),
    ]
    .prop_map(|op| DirectoryCommand { op: Some(op) })
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<Vec<DirectoryCommand>>),
    Reopen,
    SnapshotAndRestore,
}

fn step() -> impl Strategy<Value = Step> {
    let entries = proptest::collection::vec(proptest::collection::vec(command(), 0..8), 1..4);
    prop_oneof![8 => entries.prop_map(Step::Apply), 1 => Just(Step::Reopen), 1 => Just(Step::SnapshotAndRestore)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_shard_does_what_its_model_does(steps in proptest::collection::vec(step(), 1..25)) {
        let dir = tempfile::tempdir().expect("folder");
        let mut generation = 0;
        let mut engines = open(&dir.path().join("0"));
        let (mut machine, mut reader) = engines.directory(SHARD).expect("shard");
        let (mut model, mut index) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Apply(commands) => {
                    let first = index + 1;
                    let entries: Vec<_> =
                        commands.iter().map(|commands| { index += 1; entry(index, commands) }).collect();
                    let outcomes = machine.apply(&entries, &index.to_be_bytes()).expect("applies");
                    for ((outcomes, commands), index) in outcomes.into_iter().zip(&commands).zip(first..) {
                        prop_assert_eq!(outcomes.len(), commands.len());
                        for ((outcome, command), place) in outcomes.into_iter().zip(commands).zip(0..) {
                            prop_assert_eq!(Answer::from(outcome), model.apply(index * 64 + place, command));
                        }
                    }
                }
                Step::Reopen => {
                    drop((machine, reader, engines));
                    engines = open(&dir.path().join(generation.to_string()));
                    (machine, reader) = engines.directory(SHARD).expect("shard");
                }
                Step::SnapshotAndRestore => {
                    generation += 1;
                    let other = open(&dir.path().join(generation.to_string()));
                    let (to, to_reader) = other.directory(SHARD).expect("shard");
                    let copied = copy(&mut machine, to);
                    (machine, reader, engines) = (copied, to_reader, other);
                }
            }
            prop_assert_eq!(applied(&machine), index);
            check_reads(&reader, &model);
        }
    }

    #[test]
    fn batch_boundaries_make_no_difference(
        commands in proptest::collection::vec(proptest::collection::vec(command(), 0..8), 1..30),
    ) {
        let dir = tempfile::tempdir().expect("folder");
        let engines = [open(&dir.path().join("a")), open(&dir.path().join("b"))];
        let mut machines = engines.each_ref().map(|engines| engines.directory(SHARD).expect("shard").0);
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

#[test]
fn a_watcher_hears_of_a_change_and_not_of_a_renewal() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut machine, reader): (DirectoryMachine, DirectoryReader) = open(dir.path()).directory(SHARD).expect("shard");
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
