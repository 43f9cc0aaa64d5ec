//! Names, ids and their places: normal forms, round trips, and which users a change of the ring may move.

use std::collections::HashSet;

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, GroupId, Ring, ShardId, ShardMap, TimelineId, UserId,
    pb::store::{Node, NodeKind, RegistryView, Shard},
};
use proptest::prelude::*;

/// Many valid names, and many that are nearly valid.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9._+-]{1,20}", "\\PC{0,12}", any::<String>()]
}

fn ring(leases: &HashSet<u8>) -> Ring {
    let node = |lease: &u8| Node {
        lease: (*lease).into(),
        kind: NodeKind::Router.into(),
        address: format!("router-{lease}:7402"),
        slot: None,
    };
    Ring::from_view(&RegistryView { nodes: leases.iter().map(node).collect(), ..RegistryView::default() })
}

proptest! {
    #[test]
    fn what_is_normal_stays_as_it_is(text in text()) {
        if let Ok(user) = UserId::new(&text) {
            prop_assert_eq!(user.as_str(), text.as_str());
            prop_assert_eq!(UserId::normalised(&text), Ok(user.clone()));
            prop_assert!((1..=128).contains(&user.as_str().len()));
            prop_assert!(!user.as_str().contains(|c: char| c.is_control() || "\"&'/:<>@ ".contains(c)));
            let group = GroupId::new(&text).expect("the same rule");
            prop_assert_eq!(group.as_str(), user.as_str());
        }
        if let Ok(normal) = UserId::normalised(&text) {
            prop_assert_eq!(UserId::new(normal.as_str()), Ok(normal.clone()));
            prop_assert_eq!(UserId::new(&text).is_ok(), normal.as_str() == text);
        }
        if let (Ok(device), Ok(client)) = (DeviceId::new(&text), ClientId::new(&text)) {
            prop_assert_eq!((device.as_str(), client.as_str()), (text.as_str(), text.as_str()));
        }
    }

    #[test]
    fn timelines_round_trip(name in "[a-z0-9.]{1,20}", group: bool) {
        let timeline = if group {
            TimelineId::Group(GroupId::new(&name).expect("valid"))
        } else {
            TimelineId::Inbox(UserId::new(&name).expect("valid"))
        };
        prop_assert_eq!(TimelineId::from_key(&timeline.to_key()), Ok(Some(timeline.clone())));
        prop_assert_eq!(TimelineId::from_client(&timeline.to_client()), Ok(Some(timeline)));
    }

    #[test]
    fn shards_round_trip(kind in 0..4i32, index: u32, group: u64, directory in 1..200u16, timelines in 1..200u16) {
        if let Some(shard) = ShardId::from_pb(&Shard { kind, index }) {
            prop_assert_eq!(shard.to_pb(), Shard { kind, index });
            prop_assert_eq!(ShardId::from_group(shard.group()), Some(shard));
        }
        if let Some(shard) = ShardId::from_group(group) {
            prop_assert_eq!(shard.group(), group);
        }
        let map = ShardMap { directory, timeline: timelines };
        let all: Vec<_> = map.all().collect();
        prop_assert_eq!(all.len(), usize::from(directory + timelines));
        let user = UserId::new(&format!("user-{group}")).expect("valid");
        prop_assert!(all.contains(&map.directory_of(&user)));
        prop_assert!(all.contains(&map.timeline_of(&TimelineId::Inbox(user))));
    }

    /// If a part of the key moves to another place, or from one id to its neighbour, the key names another message.
    #[test]
    fn duplicate_keys_tell_their_parts_apart(a in "[ab]{1,3}", b in "[ab]{1,3}", c in "[ab]{1,3}", other in "[ab]{3,9}") {
        let key = |a: &str, b: &str, c: &str| {
            let (user, device) = (UserId::new(a).expect("valid"), DeviceId::new(b).expect("valid"));
            DuplicateKey::new(&user, &device, &ClientId::new(c).expect("valid"))
        };
        let (x, y) = (other.len() / 3, other.len() * 2 / 3);
        let (d, e, f) = (&other[..x], &other[x..y], &other[y..]);
        prop_assert_eq!(key(&a, &b, &c) == key(d, e, f), (a.as_str(), b.as_str(), c.as_str()) == (d, e, f));
    }

    #[test]
    fn a_router_that_comes_moves_users_to_itself_only(leases in prop::collection::hash_set(1..30u8, 1..8), new in 30..40u8) {
        let before = ring(&leases);
        let after = ring(&leases.iter().copied().chain([new]).collect());
        for user in 0..50 {
            let user = format!("user-{user}");
            let (was, is) = (before.owner(&user).expect("some"), after.owner(&user).expect("some"));
            prop_assert!(was == is || is.lease.0 == u64::from(new), "{user} went from {was:?} to {is:?}");
        }
    }
}
