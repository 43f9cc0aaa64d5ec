//! Keys and values in bytes, and back.

use carillon_proto::{
    MediaId, ShardId,
    pb::store::{RecordHeader, TimelineKey, timeline_key::Kind},
};
use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded(
        a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), d in any::<u32>(),
        kind in 1..=2u8, sixteen in any::<[u8; 16]>(),
        text in "[a-z0-9é.]{1,128}(@[a-z0-9.-]{1,253})?", bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let key = TimelineKey { kind: i32::from(kind), owner: text.clone().into() };
        prop_assert_eq!(timeline_of(&timeline(&key)).expect("decodes"), key);
        prop_assert_eq!(seq_of(&record(a, b)).expect("decodes"), b);
        prop_assert_eq!(record_of(&record(a, b)).expect("decodes"), (a, b));
        prop_assert!(all_records().contains(&record(a, b)) && !all_records().contains(&duplicate(a, &sixteen)));
        prop_assert_eq!(garbage_of(&garbage(a)).expect("decodes"), a);
        prop_assert_eq!(user_of(&account(&text)).expect("decodes"), text.clone());
        prop_assert_eq!(user_of(&ending(&text)).expect("decodes"), text.clone());
        let [records, duplicates, its_cursors, in_groups, memberships, members, its_group, conversations, changes, annotations, later, count, cursor_counts, without_content] =
            all_of(a);
        prop_assert!(record(a, b).starts_with(&records) && !record(b, a).starts_with(&records) || a == b);
        prop_assert!(duplicate(a, &sixteen).starts_with(&duplicates) && cursor(a, &text).starts_with(&its_cursors));
        let row = member(a, &text);
        prop_assert!(row.starts_with(&members) && row < after_members(a));
        prop_assert_eq!(member_of(&row).expect("decodes"), (a, &*text));
        prop_assert_eq!(group_of(&its_group).expect("decodes"), a);
        let in_group = TimelineKey { kind: 2, owner: text.clone().into() };
        prop_assert_eq!(membership_count_of(&count).expect("decodes"), a);
        let count = group_cursor_count(a, &text);
        prop_assert!(count.starts_with(&cursor_counts));
        prop_assert_eq!(group_cursor_count_of(&count).expect("decodes"), (a, &*text));
        let row = membership(a, &in_group);
        prop_assert!(row.starts_with(&memberships) && memberships_of(a).contains(&row));
        prop_assert_eq!(membership_of(&row).expect("decodes"), (a, in_group));
        let with = TimelineKey { kind: i32::from(kind), owner: text.clone().into() };
        let row = conversation(a, &with);
        prop_assert!(row.starts_with(&conversations) && conversations_of(a, with.kind()).contains(&row));
        prop_assert!(all_conversations().contains(&row) && !all_conversations().contains(&membership(a, &with)));
        prop_assert_eq!(conversation_of(&row).expect("decodes"), (a, with.clone()));
        prop_assert_eq!(changed_conversation_of(&changed_conversation(&with)).expect("decodes"), with);
        let row = conversation_change(a, b);
        prop_assert!(row.starts_with(&changes) && conversations_version(a).starts_with(&changes));
        prop_assert!(!changes_after(a, b).contains(&row) && !changes_after(a, b).contains(&conversations_version(a)));
        prop_assert!(b == 0 || changes_after(a, b - 1).contains(&row));
        prop_assert_eq!(conversation_change_of(&row).expect("decodes"), Some(b));
        prop_assert_eq!(conversation_change_of(&conversations_version(a)).expect("decodes"), None);
        let rows = [
            (annotated(a, b), AnnotationKey::OfMessage { seq: b }),
            (reactions(a, b, &text), AnnotationKey::Reactions { seq: b, user: &text }),
            (votes(a, b, &text), AnnotationKey::Votes { seq: b, user: &text }),
            (pins(a, &text), AnnotationKey::Pins { peer: &text }),
        ];
        for (row, parsed) in rows {
            prop_assert!(row.starts_with(&annotations));
            prop_assert_eq!(annotation_of(&row).expect("decodes"), parsed);
            let is_within = annotations_between(a, b, b.saturating_add(1)).contains(&row);
            prop_assert_eq!(is_within, parsed.seq() == b && b != u64::MAX);
        }
        let row = scheduled(a, b);
        prop_assert!(row.starts_with(&later) && scheduled_list(a).starts_with(&later));
        prop_assert!(!scheduled_after(a, b).contains(&row) && !scheduled_after(a, 0).contains(&scheduled_list(a)));
        prop_assert!(b == 0 || scheduled_after(a, b - 1).contains(&row));
        prop_assert_eq!(scheduled_of(&row).expect("decodes"), (a, Some(b)));
        prop_assert_eq!(scheduled_of(&scheduled_list(a)).expect("decodes"), (a, None));
        prop_assert!(all_due().contains(&due(a, b, c)) && (a == c || (due(a, b, c) < due(c, b, a)) == (a < c)));
        prop_assert_eq!(due_of(&due(a, b, c)).expect("decodes"), (a, b, c));
        let file = MediaId::from_bytes(&sixteen).expect("an id");
        prop_assert_eq!(media_hold_of(&media_hold(&file)).expect("decodes"), file);
        prop_assert!(all_released_media().contains(&media_released(a, &file)));
        prop_assert_eq!(media_released_of(&media_released(a, &file)).expect("decodes"), (a, file));
        prop_assert!(expiring_until(a).contains(&expiring(a, b, c)) && !expiring_until(a >> 1).contains(&expiring(a, b, c)) || a == 0);
        prop_assert_eq!(expiring_of(&expiring(a, b, c)).expect("decodes"), (a, b, c));
        let timeline_key = TimelineKey { kind: i32::from(kind), owner: text.clone().into() };
        let value = expiring_in(&timeline(&timeline_key));
        prop_assert_eq!(expiring_in_of(&value).expect("decodes"), timeline_key);
        let row = emptied(a, &text);
        prop_assert!(row.starts_with(&without_content));
        prop_assert_eq!(emptied_of(&row).expect("decodes"), (a, &*text));
        for (row, rows) in [(outbox(a, d), outbox_rows()), (dead_letter(a, d), dead_letters())] {
            prop_assert!(rows.contains(&row));
            prop_assert_eq!(outbox_of(&row).expect("decodes"), (a, d));
        }
        prop_assert!(!outbox_rows().contains(&dead_letter(a, d)));
        prop_assert_eq!(lease_of(&lease(a)).expect("decodes"), a);
        prop_assert_eq!(domain_of(&domain(&text)).expect("decodes"), text.clone());
        prop_assert_eq!(domain_of(&domain_accounts(&text)).expect("decodes"), text.clone());
        prop_assert!(domain_user("a.b", &text).starts_with(domain_users("a.b")));
        prop_assert_eq!(domain_user_of(&domain_user("a.b", &text)).expect("decodes"), text.clone());
        prop_assert_eq!(storage_node_of(&storage_node(a)).expect("decodes"), a);
        prop_assert_eq!(level_of(&level_value(Level(d))).expect("decodes"), Level(d));
        let shard = ShardId { kind: carillon_proto::ShardKind::Timeline, index: d as u16 };
        prop_assert_eq!(placement_of(&placement(shard)).expect("decodes"), shard);
        prop_assert_eq!(number_of(&number_value(a)).expect("decodes"), a);
        prop_assert_eq!(numbers_of(&numbers_value([a, b, c])).expect("decodes"), [a, b, c]);
        prop_assert_eq!(timeline_numbers(&timeline_value([a, b, c, a], b, 0)).expect("decodes"), ([a, b, c, a], [b, 0]));
        prop_assert_eq!(timeline_numbers(&timeline_value([a, b, c, a], 0, c)).expect("decodes"), ([a, b, c, a], [0, c]));
        let owner = text.clone().into();
        let lease = Lease { kind, ttl_ms: d, ends: a, nonce: sixteen, address: text };
        prop_assert_eq!(Lease::decode(&lease.encode()).expect("decodes"), lease);
        let clock_ms = a >> 24;
        let message = Some(Box::default());
        for header in [RecordHeader::default(), RecordHeader { counted: b, uncounted: kind == 1, message, expires_ms: c, recalled: kind == 2 }] {
            let encoded = Stored { clock_ms, duplicate: sixteen, header: header.clone(), envelope: &bytes }.encode();
            let stored = Stored::decode(&encoded).expect("decodes");
            prop_assert_eq!((stored.clock_ms, stored.duplicate, stored.header), (clock_ms, sixteen, header));
            prop_assert_eq!(stored.envelope, bytes.as_slice());
        }
        let moved = Cursor { seq: a, moved_ms: b };
        prop_assert_eq!(Cursor::decode(&moved.encode()).expect("decodes"), moved);
        let key = TimelineKey { kind: i32::from(kind), owner };
        let moved = GroupCursor { epoch: a, seq: b, moved_ms: c };
        prop_assert_eq!(GroupCursor::decode(&moved.encode()).expect("decodes"), moved);
        let in_group = group_cursor(a, "phone/1", &key);
        prop_assert!(in_group.starts_with(&in_groups) && group_cursors_of(a, "phone/1").contains(&in_group));
        prop_assert!(!group_cursors_of(a, "phone").contains(&in_group));
        prop_assert!((group_cursors()..=after_group_cursors()).contains(&in_group));
        prop_assert_eq!(group_cursor_of(&in_group).expect("decodes"), (a, "phone/1", key));
        let phone = cursor(a, "phone");
        prop_assert_eq!(cursor_of(&phone).expect("decodes"), (a, "phone"));
        prop_assert!((cursors()..=after_cursors()).contains(&phone));
        prop_assert!(!(cursors()..=after_cursors()).contains(&RowBytes::from(NEXT_NUMBER)));
    }

    #[test]
    fn records_sort_by_timeline_then_position(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
        for shift in [0, 8, 30, 60] {
            let (a, b) = ((a.0 >> shift, a.1), (b.0 >> shift, b.1));
            prop_assert_eq!(record(a.0, a.1).cmp(&record(b.0, b.1)), a.cmp(&b));
        }
        prop_assert_eq!(lease(a.0).cmp(&lease(b.0)), a.0.cmp(&b.0));
    }

    #[test]
    fn keys_of_format_1_become_those_of_format_2(number in any::<u64>(), shift in 0..64u32, seq in any::<u64>()) {
        let number = number >> shift;
        let record_1 = key(RECORD_1, &[&number.to_be_bytes(), &seq.to_be_bytes()]);
        prop_assert_eq!(upgraded(&record_1), Some(record(number, seq)));
        let duplicate_1 = key(DUPLICATE_1, &[&number.to_be_bytes(), &[7; 16]]);
        prop_assert_eq!(upgraded(&duplicate_1), Some(duplicate(number, &[7; 16])));
        for outdated_key in [record_1, duplicate_1] {
            prop_assert!(outdated().contains(&outdated_key));
        }
        for key in [record(number, seq), duplicate(number, &[7; 16]), cursor(number, "d"), NEXT_NUMBER.into()] {
            prop_assert_eq!(upgraded(&key), None);
            prop_assert!(!outdated().contains(&key));
        }
    }

    #[test]
    fn the_sessions_of_a_user_are_those_with_its_prefix(
        a in "[a-c]{1,3}(@[a-c]{1,2})?", b in "[a-c]{1,3}(@[a-c]{1,2})?", device in "[a-c/]{1,3}",
    ) {
        prop_assert_eq!(session(&a, &device).starts_with(sessions(&b)), a == b);
    }

    #[test]
    fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = (timeline_of(&bytes), seq_of(&bytes), lease_of(&bytes), number_of(&bytes));
        let _ = (cursor_of(&bytes).is_ok(), Cursor::decode(&bytes));
        let _ = (group_cursor_of(&bytes).is_ok(), GroupCursor::decode(&bytes));
        let _ = (user_of(&bytes), garbage_of(&bytes));
        let _ = (domain_of(&bytes), domain_user_of(&bytes), storage_node_of(&bytes), placement_of(&bytes), level_of(&bytes));
        let _ = (numbers_of::<4>(&bytes), Lease::decode(&bytes), Stored::decode(&bytes).is_ok());
        let _ = (timeline_numbers(&bytes), outbox_of(&bytes), conversation_of(&bytes), conversation_change_of(&bytes));
        let _ = (annotation_of(&bytes).is_ok(), media_hold_of(&bytes), media_released_of(&bytes));
        let _ = (expiring_of(&bytes), expiring_in_of(&bytes), group_cursor_count_of(&bytes).is_ok());
        let _ = emptied_of(&bytes).is_ok();
    }
}

#[test]
fn what_has_a_time_since_1970_or_none_counts_from_the_begin_of_the_clock() {
    let march_2026 = 1_774_000_000_000u64;
    let stored =
        Stored { clock_ms: march_2026, duplicate: [7; 16], header: RecordHeader::default(), envelope: b"e" }.encode();
    assert_eq!(Stored::decode(&stored).expect("decodes").clock_ms, 0);
    assert_eq!(Cursor::decode(&number_value(5)).expect("decodes"), Cursor { seq: 5, moved_ms: 0 });
}

#[test]
fn what_is_kept_for_coming_rows_is_free() {
    // docs/adr/0016-room-in-the-formats.md
    let kept = [0x0e, 0x18];
    let single =
        [APPLIED, REGISTRY, LEVEL, CLUSTER_LEVEL, CLUSTER_GROWTH, NEXT_NUMBER, CLOCK, ERASED].map(|key| key[0]);
    let rows = [ACCOUNT, SESSION, LEASE, ENDING, STORAGE_NODE, PLACEMENT, TIMELINE, RECORD_1, DUPLICATE_1, CURSOR];
    let used: Vec<_> = single
        .into_iter()
        .chain(rows)
        .chain([GARBAGE, ENDED_SENDER, GROUP_CURSOR, ERASURE, ERASING_SENDER, ERASED_SENDER, RING_SLOT])
        .chain([GROUP, MEMBER, MEMBERSHIP, ANNOTATION, OUTBOX, DEAD_LETTER, CONVERSATION, CONVERSATION_CHANGE])
        .chain([MEMBERSHIP_COUNT, GROUP_CURSOR_COUNT, EXPIRING, DOMAIN_GROUP, EMPTIED])
        .chain([SCHEDULED, DUE, MEDIA, MEDIA_SUM, MEDIA_RELEASED, MEDIA_HOLD])
        .chain([CONTACT, CONTACT_LIST, UNTOLD, CONTACTS_END, PRIVACY, DOMAIN, DOMAIN_ACCOUNTS, DOMAIN_USER])
        .chain(RECORD..=DUPLICATE + 7)
        .collect();
    let taken: Vec<u8> = kept.into_iter().filter(|first| used.contains(first)).collect();
    assert!(taken.is_empty(), "{taken:x?}");
}

#[test]
fn a_record_of_a_later_layout_is_not_taken_for_one_of_this() {
    let header = RecordHeader::default();
    let mut record = Stored { clock_ms: 1, duplicate: [7; 16], header, envelope: b"e" }.encode().to_vec();
    assert!(Stored::decode(&record).is_ok());
    record[0] = 2;
    assert!(Stored::decode(&record).is_err());
}

#[test]
fn layouts_never_change() {
    let inbox = TimelineKey { kind: Kind::Inbox.into(), owner: "al".into() };
    assert_eq!(*timeline(&inbox), [0x10, 1, b'a', b'l']);
    assert_eq!(*record(1, 2), [0x20, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(*record(0x100, 2), [0x21, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(record(u64::MAX, 2)[..9], [0x27, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(duplicate(1, &[7; 16])[..3], [0x28, 1, 7]);
    assert_eq!(duplicate(0xff_ffff, &[7; 16]).len(), 20);
    assert_eq!(*cursor(1, "d"), [0x13, 0, 0, 0, 0, 0, 0, 0, 1, b'd']);
    let group = TimelineKey { kind: Kind::Group.into(), owner: "g".into() };
    assert_eq!(*group_cursor(1, "d", &group), [0x19, 0, 0, 0, 0, 0, 0, 0, 1, b'd', 0, 2, b'g']);
    assert_eq!(GroupCursor { epoch: 1, seq: 2, moved_ms: 3 }.encode(), numbers_value([1, 2, 3]));
    // As format 2 had it, and what came after.
    assert_eq!(timeline_value([1, 2, 3, 4], 0, 0), numbers_value([1, 2, 3, 4]));
    assert_eq!(timeline_value([1, 2, 3, 4], 5, 0), numbers_value([1, 2, 3, 4, 5]));
    assert_eq!(timeline_value([1, 2, 3, 4], 0, 6), numbers_value([1, 2, 3, 4, 0, 6]));
    assert_eq!(*conversation(1, &inbox), [0x1b, 0, 0, 0, 0, 0, 0, 0, 1, 1, b'a', b'l']);
    assert_eq!(*conversation_change(1, 2), [0x1a, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    let header = RecordHeader { counted: 2, uncounted: true, ..RecordHeader::default() };
    let record = Stored { clock_ms: 0x0102, duplicate: [7; 16], header, envelope: b"e" }.encode();
    assert_eq!(record[..8], [1, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(record[24..], [6, 0xc0, 2, 2, 0xc8, 2, 1, b'e']);
    assert_eq!(*annotated(1, 2), [0x31, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(*reactions(1, 2, "al"), [0x31, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 1, b'a', b'l']);
    assert_eq!(*votes(1, 2, "al"), [0x31, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 2, b'a', b'l']);
    assert_eq!(*mentioned(1, "al"), [0x31, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 4, b'a', b'l']);
    assert_eq!(*pins(1, "al"), [0x31, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3, b'a', b'l']);
    assert_eq!(*outbox(1, 2), [0x32, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(*dead_letter(1, 2), [0x33, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(*scheduled(1, 2), [0x3c, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(due(3, 1, 2)[..9], [0x3d, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(due(3, 1, 2)[9..], scheduled(1, 2)[1..]);
    let file = MediaId::new(0x0203, [7; 14]);
    assert_eq!(media_hold(&file)[..4], [0x37, 2, 3, 7]);
    assert_eq!(media_released(1, &file)[..12], [0x36, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 7]);
    assert_eq!(expiring(3, 1, 2)[..9], [0x3e, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(expiring(3, 1, 2)[9..], scheduled(1, 2)[1..]);
    assert_eq!(*expiring_in(&timeline(&inbox)), [1, b'a', b'l']);
    assert_eq!(*emptied(1, "al"), [0x47, 0, 0, 0, 0, 0, 0, 0, 1, b'a', b'l']);
    assert_eq!(*garbage(1), [0x16, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(*ending("al"), [5, b'a', b'l']);
    assert_eq!(*account("al"), [1, b'a', b'l']);
    assert_eq!(*erasure("al"), [0x1e, b'a', b'l']);
    assert_eq!(*erasing_sender(b"al"), [0x1f, b'a', b'l']);
    assert_eq!(*erased_sender(b"al"), [0x38, b'a', b'l']);
    assert_eq!(*session("al", "d"), [2, b'a', b'l', 0, b'd']);
    assert_eq!(*lease(1), [3, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(*storage_node(1), [7, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(*placement(ShardId::REGISTRY), [8, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!((&*domain(""), &*domain("a.b")), (&[0x42][..], &[0x42, b'a', b'.', b'b'][..]));
    assert_eq!(*domain_accounts("a.b"), [0x43, b'a', b'.', b'b']);
    assert_eq!(*domain_user("a.b", "c@a.b"), [0x44, b'a', b'.', b'b', 0, b'c', b'@', b'a', b'.', b'b']);
    assert_eq!(*level_value(Level(1)), [0, 0, 0, 1]);
}
