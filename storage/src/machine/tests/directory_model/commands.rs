//! Commands to a directory shard, at random.

use carillon_proto::{
    Level,
    pb::store::{
        Account, AccountErased, AddRingSlot, AdvanceLeaseClock, DeleteAccount, DeleteSession, DeregisterNode,
        DirectoryCommand, DropRingSlot, EndSessions, EraseAccount, InboxEnded, PutAccount, PutSession, RegisterNode,
        RenewLease, RevokeTokens, ScramCredentials, Session, SetLevel, directory_command::Op, put_account::Mode,
    },
};
use proptest::prelude::*;

use super::{MINUTE_MS, TOKENS, USERS};

pub(super) fn set_level() -> DirectoryCommand {
    DirectoryCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) }
}

/// Close to each other, or about as far apart as sign-ins can be.
pub(super) fn since_ms() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, MINUTE_MS - 1..MINUTE_MS + 4]
}

pub(super) fn session() -> impl Strategy<Value = Session> {
    // By token, which the state machine gives the generation, or of an old account's generation.
    let token = proptest::option::of((0..3usize, 0..3u64));
    // Numbered by one of two running clients, or not.
    let numbered = prop_oneof![Just((0, 0)), (1..3u64, 1..4u32)];
    (0..3usize, 0..3usize, 1..4u64, 0..3u64, since_ms(), token, numbered).prop_map(
        |(user, device, lease, connection, since_ms, token, (instance, attempt))| Session {
            user: USERS[user].to_owned(),
            device: ["d", "de", "e"][device].to_owned(),
            lease,
            connection,
            protocol: 1,
            since_ms,
            by_token: token.is_some(),
            token_id: token.map_or(String::new(), |(id, _)| TOKENS[id].to_owned()),
            token_issued_ms: token.map_or(0, |(_, seconds)| seconds * 1000),
            instance,
            attempt,
            ..Session::default()
        },
    )
}

pub(super) fn account() -> impl Strategy<Value = Account> {
    (0..3usize, proptest::option::of(0..3u8), 0..3u64, any::<bool>()).prop_map(|(user, salt, created, reserved)| {
        Account {
            user: USERS[user].to_owned(),
            scram: salt.map(|salt| ScramCredentials {
                salt: vec![salt; 16].into(),
                iterations: 4096,
                stored_key: vec![1; 32].into(),
                server_key: vec![2; 32].into(),
            }),
            created_ms: created * 1000,
            reserved: reserved && salt.is_none() && created == 0,
            ..Account::default()
        }
    })
}

pub(super) fn node() -> impl Strategy<Value = RegisterNode> {
    (1..3i32, 0..3usize, 1..50u32, 0..5u8).prop_map(|(kind, address, ttl_ms, nonce)| RegisterNode {
        kind,
        address: ["", "a:1", "b:1"][address].to_owned(),
        ttl_ms,
        nonce: vec![nonce; 16].into(),
    })
}

/// Leases of the first few entries, where registrations are likely.
pub(super) fn lease() -> impl Strategy<Value = u64> {
    (1..12u64, 0..4u64).prop_map(|(index, place)| index * 64 + place)
}

pub(super) fn command() -> impl Strategy<Value = DirectoryCommand> {
    let mode = prop_oneof![Just(Mode::Create), Just(Mode::Ensure), Just(Mode::Replace)];
    prop_oneof![
        4 => (account(), mode, 0..5u8, any::<bool>()).prop_map(|(account, mode, old, revive)| {
            Op::PutAccount(PutAccount { account: Some(account), mode: mode.into(), numbered: old > 0, revive, most_accounts: None })
        }),
        2 => (0..3usize, 0..3u64)
            .prop_map(|(user, time_ms)| Op::DeleteAccount(DeleteAccount { user: USERS[user].to_owned(), time_ms })),
        1 => (0..3usize, 1..3u64)
            .prop_map(|(user, time_ms)| Op::EraseAccount(EraseAccount { user: USERS[user].to_owned(), time_ms })),
        3 => (0..3usize, lease())
            .prop_map(|(user, incarnation)| Op::AccountErased(AccountErased { user: USERS[user].to_owned(), incarnation })),
        1 => (0..3usize, 0..3u64, 0..3usize, 1..4u64).prop_map(|(user, before, id, time_ms)| {
            let (user, id) = (USERS[user].to_owned(), TOKENS[id].to_owned());
            Op::RevokeTokens(RevokeTokens { user, before_ms: before * 1000, id, expires_ms: 2, time_ms })
        }),
        1 => (0..3usize, 0..3u64, 0..3u64).prop_map(|(user, lease, connection)| {
            Op::EndSessions(EndSessions { user: USERS[user].to_owned(), lease, connection })
        }),
        1 => (0..3usize, lease())
            .prop_map(|(user, incarnation)| Op::InboxEnded(InboxEnded { user: USERS[user].to_owned(), incarnation })),
        8 => (session(), any::<bool>(), 0..3u32).prop_map(|(session, announced, max_sessions)| {
            Op::PutSession(PutSession { session: Some(session), announced, max_sessions })
        }),
        4 => (session(), 0..4u64).prop_map(|(session, half_minutes)| {
            let Session { user, device, lease, connection, generation, .. } = session;
            let time_ms = half_minutes * 30_000;
            Op::DeleteSession(DeleteSession { user, device, lease, connection, time_ms, generation })
        }),
        4 => node().prop_map(Op::RegisterNode),
        3 => lease().prop_map(|lease| Op::RenewLease(RenewLease { lease })),
        2 => lease().prop_map(|lease| Op::DeregisterNode(DeregisterNode { lease })),
        4 => lease().prop_map(|lease| Op::AddRingSlot(AddRingSlot { lease })),
        2 => (0..4u32).prop_map(|slot| Op::DropRingSlot(DropRingSlot { slot })),
        2 => (0..20u32).prop_map(|elapsed_ms| Op::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms })),
    ]
    .prop_map(|op| DirectoryCommand { op: Some(op) })
}
