#![no_main]
//! Names and ids. The first byte selects the kind.

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, GroupId, Ring, ShardId, TimelineId, UserId,
    pb::store::{Node, NodeKind, RegistryView, Shard, TimelineKey},
    trace,
};

libfuzzer_sys::fuzz_target!(|given: (u8, u32, String)| {
    let (kind, number, text) = given;
    match kind % 5 {
        // What was normalised once is normal: whoever is told a normal form can use it.
        0 => {
            if let Ok(user) = UserId::normalised(&text) {
                assert_eq!(UserId::new(user.as_str()).as_ref(), Ok(&user), "{text:?}");
            }
            if let Ok(user) = UserId::new(&text) {
                assert_eq!(user.as_str(), text);
                let inbox = TimelineId::Inbox(user);
                assert_eq!(TimelineId::from_key(&inbox.to_key()), Ok(Some(inbox.clone())));
                assert_eq!(TimelineId::from_client(&inbox.to_client()), Ok(Some(inbox)));
            }
        }
        1 => {
            let key = TimelineKey { kind: number as i32, owner: text.clone().into() };
            if let Ok(Some(timeline)) = TimelineId::from_key(&key) {
                assert_eq!(TimelineId::from_key(&timeline.to_key()), Ok(Some(timeline)));
            }
            if let Ok(group) = GroupId::new(&text) {
                assert_eq!(GroupId::new(group.as_str()).as_ref(), Ok(&group), "{text:?}");
            }
        }
        2 => {
            if let (Ok(device), Ok(client)) = (DeviceId::new(&text), ClientId::new(&text)) {
                assert_eq!((device.as_str(), client.as_str()), (text.as_str(), text.as_str()));
                DuplicateKey::new(&UserId::new("alice").expect("valid"), &device, &client);
            }
        }
        3 => {
            let shard = Shard { kind: kind.into(), index: number };
            if let Some(shard) = ShardId::from_pb(&shard) {
                assert_eq!(ShardId::from_pb(&shard.to_pb()), Some(shard));
                assert_eq!(ShardId::from_group(shard.group()), Some(shard));
            }
            ShardId::from_group(u64::from(number) << 16 | u64::from(kind));
            trace::continue_from(&tracing::Span::none(), &text);
        }
        _ => {
            let node = |(n, address): (usize, &str)| Node {
                lease: n as u64,
                kind: NodeKind::Router.into(),
                address: address.to_owned(),
                slot: None,
            };
            let nodes: Vec<_> = text.split(',').take(8).enumerate().map(node).collect();
            let ring = Ring::from_view(&RegistryView { nodes, ..RegistryView::default() });
            let owner = ring.owner("alice").map(|owner| owner.address.as_str());
            assert!(text.split(',').take(8).any(|address| Some(address) == owner));
        }
    }
});
