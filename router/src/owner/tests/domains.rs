//! What the operator has decided for domains.

use carillon_proto::pb::{
    link::{CreateMedia, EnsureAccount, change_group::Change},
    store::{
        AccountCount, ChangeMembers, CreateGroup, Domain, GroupSettings, Membership, MembershipsRead, Person, Role,
        change_members, member::Standing, memberships_read,
    },
};

use super::play::*;

const ACME: &str = "acme.example";

fn domain(change: impl FnOnce(&mut Domain)) -> Domain {
    let mut domain = Domain { name: ACME.to_owned(), ..Domain::default() };
    change(&mut domain);
    domain
}

fn ensure(user: &str) -> Op {
    Op::EnsureAccount(EnsureAccount { user: user.to_owned(), revive: false })
}

fn counted(accounts: u64) -> StoreAnswer {
    StoreAnswer::AccountCount(AccountCount { accounts })
}

#[test]
fn a_token_makes_an_account_as_long_as_all_shards_together_have_room_for_it() {
    let mut play = Play::new();
    play.decides(vec![domain(|domain| domain.max_users = 10)]);
    let effects = play.request(ensure("ann@acme.example"));
    let own = play.owner.topology.shards.directory_of(&UserId::new("ann@acme.example").expect("valid"));
    let asked: Vec<(u64, ShardId)> = effects
        .iter()
        .map(|did| match did {
            Did::CountAccounts(token, shard, name) if name == ACME => (*token, *shard),
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(asked.len(), 3, "the fourth one is the user's");
    assert!(asked.iter().all(|(_, shard)| *shard != own), "{asked:?}");
    for (token, _) in &asked[1..] {
        assert_eq!(play.answer(*token, counted(3)), []);
    }
    let effects = play.answer(asked[0].0, counted(2));
    let [Did::PutAccount(token, put_account::Mode::Ensure)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(play.puts[0].most_accounts, Some(2));
    let full = "domain acme.example has as many users as it may have";
    let effects = play.fails(token, StoreFailure::NoRoom { detail: full.to_owned() });
    let [did] = &effects[..] else { panic!("{effects:?}") };
    let refusal = refusal(did);
    assert_eq!((refusal.code(), refusal.retry, &*refusal.reason), (client::Code::Forbidden, false, full));
    // Others have more than there may be.
    let effects = play.request(ensure("bob@acme.example"));
    let tokens: Vec<u64> = effects
        .iter()
        .map(|did| if let Did::CountAccounts(token, ..) = did { *token } else { panic!("unexpected {did:?}") })
        .collect();
    for token in tokens {
        play.answer(token, counted(9));
    }
    assert_eq!(play.puts[1].most_accounts, Some(0));
    assert!(play.owner.registering.is_empty());
}

#[test]
fn what_is_not_counted_makes_no_account() {
    let mut play = Play::new();
    play.decides(vec![domain(|domain| domain.max_users = 10)]);
    let effects = play.request(ensure("ann@acme.example"));
    let tokens: Vec<u64> = effects
        .iter()
        .map(|did| if let Did::CountAccounts(token, ..) = did { *token } else { panic!("unexpected {did:?}") })
        .collect();
    assert_eq!(play.fails(tokens[0], StoreFailure::Expired { shard: ShardId::REGISTRY }), []);
    assert_eq!(play.answer(tokens[1], counted(1)), []);
    let effects = play.answer(tokens[2], counted(1));
    let [did] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((refusal(did).code(), refusal(did).retry), (client::Code::Unavailable, true));
    assert!(play.puts.is_empty() && play.owner.registering.is_empty());
}

#[test]
fn a_closed_domain_lets_in_who_has_an_account_and_others_have_no_limit() {
    let mut play = Play::new();
    play.decides(vec![domain(|domain| domain.closed = true)]);
    let users = ["ann@acme.example", "ann", "ann@b.example"];
    for user in users {
        let effects = play.request(ensure(user));
        let [Did::PutAccount(token, put_account::Mode::Ensure)] = effects[..] else { panic!("{effects:?}") };
        assert_eq!(
            play.answer(token, StoreAnswer::Done(Done {})),
            [Did::Answer(play.next_id, Answer::Done(link::Done {}))]
        );
    }
    assert_eq!(play.puts.iter().map(|put| put.most_accounts).collect::<Vec<_>>(), [Some(0), None, None]);
}

fn change(group: &str, change: Change) -> Op {
    change_group("alice@acme.example", group, change)
}

fn create() -> Op {
    change(
        "club@acme.example",
        Change::Create(CreateGroup { settings: Some(GroupSettings::default()), ..CreateGroup::default() }),
    )
}

fn row(number: u32, role: Role, standing: Standing) -> memberships_read::Row {
    let group = TimelineId::Group(GroupId::new(&format!("g{number}@acme.example")).expect("valid")).to_key();
    let membership = Membership { standing: standing.into(), role: role.into(), ..Membership::default() };
    memberships_read::Row { group: Some(group), membership: Some(membership), ..Default::default() }
}

#[test]
fn who_has_made_as_many_groups_as_the_domain_allows_makes_no_more_but_repeats_are_answered() {
    let mut play = Play::new();
    play.decides(vec![domain(|domain| (domain.max_groups_of_user, domain.max_group_members) = (2, 7))]);
    let read = |play: &mut Play, rows: Vec<memberships_read::Row>, complete: bool, effects: Vec<Did>| {
        let [Did::ReadMemberships(token, _)] = &effects[..] else { panic!("{effects:?}") };
        play.answer(*token, StoreAnswer::MembershipsRead(MembershipsRead { memberships: rows, complete }))
    };
    let made = |number| row(number, Role::Owner, Standing::Member);
    // One of its own, one of others, and one that it was invited to.
    let rows = vec![made(1), row(2, Role::Member, Standing::Member), row(3, Role::Owner, Standing::Invited)];
    let effects = play.request(create());
    let effects = read(&mut play, rows.clone(), true, effects);
    let [Did::ChangeGroup(token, asked)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((asked.most_members, asked.append.clone().expect("set").only_repeat), (7, false));
    play.fails(*token, StoreFailure::Expired { shard: ShardId::REGISTRY });
    // The second one of its own is on a later page.
    let effects = play.request(create());
    let effects = read(&mut play, rows, false, effects);
    let [Did::ReadMemberships(_, second)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(second.after.as_ref().and_then(|after| after.owner_str().ok()), Some("g3@acme.example"));
    let effects = read(&mut play, vec![made(4)], true, effects);
    let [Did::ChangeGroup(token, asked)] = &effects[..] else { panic!("{effects:?}") };
    assert!(asked.append.clone().expect("set").only_repeat, "only a repeat is answered");
    let effects = play.fails(*token, StoreFailure::NotFound { detail: "not in the timeline".into() });
    let [did] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((refusal(did).code(), refusal(did).retry), (client::Code::Forbidden, false));
    assert!(refusal(did).reason.contains("lets a user have 2"), "{}", refusal(did).reason);
    assert!(play.owner.changing.is_empty());
}

#[test]
fn where_users_make_no_groups_they_still_change_those_that_there_are() {
    let mut play = Play::new();
    play.decides(vec![domain(|domain| domain.no_new_groups = true)]);
    let effects = play.request(create());
    let [Did::ChangeGroup(token, asked)] = &effects[..] else { panic!("{effects:?}") };
    assert!(asked.append.clone().expect("set").only_repeat);
    let effects = play.fails(*token, StoreFailure::NotFound { detail: "not in the timeline".into() });
    let [did] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(refusal(did).code(), client::Code::Forbidden);
    let leave = ChangeMembers {
        change: change_members::Change::Leave.into(),
        users: vec![Person { user: "alice@acme.example".into(), incarnation: 0 }],
        ..ChangeMembers::default()
    };
    let effects = play.request(change("club@acme.example", Change::Members(leave)));
    let [Did::ChangeGroup(_, asked)] = &effects[..] else { panic!("{effects:?}") };
    assert!(!asked.append.clone().expect("set").only_repeat);
}

#[test]
fn files_are_counted_by_the_lower_of_both_limits() {
    let mut play = Play::new();
    play.decides(vec![domain(|domain| domain.max_media_bytes = 1000)]);
    let create = |user: &str, most_bytes| {
        Op::CreateMedia(Box::new(CreateMedia {
            user: user.to_owned(),
            tail: vec![1; 14].into(),
            size_bytes: 1,
            most_bytes,
            most_files: 9,
            ..CreateMedia::default()
        }))
    };
    let mut most = |user: &str, most_bytes| {
        let effects = play.request(create(user, most_bytes));
        let [Did::Media(_, _, op)] = &effects[..] else { panic!("{effects:?}") };
        let timeline_command::Op::CreateMedia(create) = &**op else { panic!("{op:?}") };
        create.most_bytes
    };
    assert_eq!([most("ann@acme.example", 5000), most("ann@acme.example", 500), most("ann", 5000)], [1000, 500, 5000]);
}
