//! All rows, for whoever reads them without a machine: backups.

use std::io;

use carillon_proto::{
    ShardKind,
    pb::store::{
        Account, Annotated, Contact, ContactList, Conversation, Domain, Emptied, Group, MediaHold, MediaRow, MediaSum,
        Member, Membership, Mentioned, OutboxRow, Pins, Placement, Privacy, ReportEvidence, ReportRow, ReportSum,
        ReportsOfUser, ScheduledList, ScheduledRow, Session, StorageNode, UserAnnotation,
    },
};
use prost::Message;

use super::{
    ACCOUNT, ANNOTATION, AnnotationKey, CLOCK, CLUSTER_GROWTH, CLUSTER_LEVEL, CONTACT, CONTACT_LIST, CONTACTS_END,
    CONVERSATION, CONVERSATION_CHANGE, CURSOR, ContactsEnd, ConversationNumbers, Cursor, DEAD_LETTER, DOMAIN,
    DOMAIN_ACCOUNTS, DOMAIN_GROUP, DOMAIN_USER, DUE, DUPLICATE, EMPTIED, ENDED_SENDER, ENDING, ERASED, ERASED_SENDER,
    ERASING_SENDER, ERASURE, EXPIRING, Erasure, GARBAGE, GROUP, GROUP_CURSOR, GROUP_CURSOR_COUNT, GroupCursor, LEASE,
    LEVEL, Lease, MEDIA, MEDIA_HOLD, MEDIA_RELEASED, MEDIA_SUM, MEMBER, MEMBERSHIP, MEMBERSHIP_COUNT, NEXT_NUMBER,
    OUTBOX, PLACEMENT, PRIVACY, RECORD, REGISTRY, REPORT, RING_SLOT, ReportKey, SCHEDULED, SESSION, STORAGE_NODE,
    Stored, TIMELINE, UNTOLD, annotation_of, broken, changed_conversation_of, contact_of, conversation_change_of,
    conversation_of, cursor_of, domain_group_of, domain_of, domain_user_of, due_of, emptied_of, ended_sender_of,
    erased_sender_of, expiring_in_of, expiring_of, garbage_of, group_cursor_count_of, group_cursor_of, group_of,
    lease_of, level_of, media_hold_of, media_of, media_released_of, media_sum_of, member_of, membership_count_of,
    membership_of, number_of, numbers_of, outbox_of, placement_of, privacy_of, report_of, ring_slot_of, scheduled_of,
    seq_of, storage_node_of, timeline_numbers, timeline_of, user_of,
};

/// The last first byte of `DUPLICATE`.
const DUPLICATE_END: u8 = DUPLICATE + 7;

/// Decodes a row. `InvalidData` if it can't be decoded, `Unsupported` if this release does not know its first byte.
pub(crate) fn check(kind: ShardKind, key: &[u8], value: &[u8]) -> io::Result<()> {
    if key == LEVEL {
        return level_of(value).map(drop);
    }
    if key == ERASED {
        return number_of(value).map(drop);
    }
    let first = *key.first().ok_or_else(|| broken("empty key"))?;
    match kind {
        ShardKind::Directory => check_directory(first, key, value),
        ShardKind::Timeline => check_timeline(first, key, value),
    }
}

fn check_directory(first: u8, key: &[u8], value: &[u8]) -> io::Result<()> {
    if key == REGISTRY {
        return numbers_of::<3>(value).map(drop);
    }
    if key == CLUSTER_LEVEL {
        return level_of(value).map(drop);
    }
    if key == CLUSTER_GROWTH {
        return numbers_of::<2>(value).map(drop);
    }
    match first {
        ACCOUNT => user_of(key).and_then(|_| message::<Account>(value)),
        SESSION => message::<Session>(value),
        CONTACT => contact_of(key).and_then(|_| message::<Contact>(value)),
        CONTACT_LIST => contact_of(key).and_then(|_| message::<ContactList>(value)),
        UNTOLD if value.is_empty() => contact_of(key).map(drop),
        UNTOLD => Err(broken("row of what is to be told")),
        CONTACTS_END => contact_of(key).and_then(|_| ContactsEnd::decode(value).map(drop)),
        PRIVACY => privacy_of(key).and_then(|_| message::<Privacy>(value)),
        LEASE => lease_of(key).and_then(|_| Lease::decode(value).map(drop)),
        ENDING => user_of(key).and_then(|_| number_of(value).map(drop)),
        ERASURE => user_of(key).and_then(|_| Erasure::decode(value).map(drop)),
        RING_SLOT => ring_slot_of(key).and_then(|_| number_of(value).map(drop)),
        DOMAIN => domain_of(key).and_then(|_| message::<Domain>(value)),
        DOMAIN_USER if value.is_empty() => domain_user_of(key).map(drop),
        DOMAIN_USER => Err(broken("row of a user of a domain")),
        DOMAIN_ACCOUNTS => domain_of(key).and_then(|_| number_of(value).map(drop)),
        STORAGE_NODE => storage_node_of(key).and_then(|_| message::<StorageNode>(value)),
        PLACEMENT => placement_of(key).and_then(|_| message::<Placement>(value)),
        _ => Err(unknown(first)),
    }
}

fn check_timeline(first: u8, key: &[u8], value: &[u8]) -> io::Result<()> {
    if key == NEXT_NUMBER || key == CLOCK {
        return number_of(value).map(drop);
    }
    match first {
        TIMELINE => timeline_of(key).and_then(|_| timeline_numbers(value).map(drop)),
        CURSOR => cursor_of(key).and_then(|_| Cursor::decode(value).map(drop)),
        GARBAGE => garbage_of(key).map(drop),
        ENDED_SENDER => ended_sender_of(key).and_then(|_| numbers_of::<2>(value).map(drop)),
        ERASING_SENDER | ERASED_SENDER => erased_sender_of(key).and_then(|_| number_of(value).map(drop)),
        GROUP_CURSOR => group_cursor_of(key).and_then(|_| GroupCursor::decode(value).map(drop)),
        DOMAIN_GROUP => domain_group_of(key).and_then(|_| number_of(value).map(drop)),
        GROUP => group_of(key).and_then(|_| message::<Group>(value)),
        MEMBER => member_of(key).and_then(|_| message::<Member>(value)),
        MEMBERSHIP => membership_of(key).and_then(|_| message::<Membership>(value)),
        MEMBERSHIP_COUNT => membership_count_of(key).and_then(|_| number_of(value).map(drop)),
        GROUP_CURSOR_COUNT => group_cursor_count_of(key).and_then(|_| number_of(value).map(drop)),
        ANNOTATION => match annotation_of(key)? {
            AnnotationKey::OfMessage { .. } => message::<Annotated>(value),
            AnnotationKey::Reactions { .. } | AnnotationKey::Votes { .. } => message::<UserAnnotation>(value),
            AnnotationKey::Pins { .. } => message::<Pins>(value),
            AnnotationKey::Mentioned { .. } => message::<Mentioned>(value),
        },
        CONVERSATION => conversation_of(key).and_then(|_| message::<Conversation>(value)),
        CONVERSATION_CHANGE => match conversation_change_of(key)? {
            Some(_) => changed_conversation_of(value).map(drop),
            None => ConversationNumbers::decode(value).map(drop),
        },
        MEDIA => media_of(key).and_then(|_| message::<MediaRow>(value)),
        MEDIA_SUM => media_sum_of(key).and_then(|_| message::<MediaSum>(value)),
        MEDIA_HOLD => media_hold_of(key).and_then(|_| message::<MediaHold>(value)),
        MEDIA_RELEASED if value.is_empty() => media_released_of(key).map(drop),
        MEDIA_RELEASED => Err(broken("row of a released file")),
        SCHEDULED => match scheduled_of(key)? {
            (_, None) => message::<ScheduledList>(value),
            (_, Some(_)) => message::<ScheduledRow>(value),
        },
        DUE if value.is_empty() => due_of(key).map(drop),
        DUE => Err(broken("row of a time of a scheduled message")),
        REPORT => match report_of(key)? {
            ReportKey::Sum => message::<ReportSum>(value),
            ReportKey::Open(_) | ReportKey::Resolved(_) => message::<ReportRow>(value),
            ReportKey::Evidence(_) => message::<ReportEvidence>(value),
            ReportKey::OfUser(_) => message::<ReportsOfUser>(value),
        },
        EMPTIED => emptied_of(key).and_then(|_| message::<Emptied>(value)),
        EXPIRING => expiring_of(key).and_then(|_| expiring_in_of(value).map(drop)),
        OUTBOX | DEAD_LETTER => outbox_of(key).and_then(|_| message::<OutboxRow>(value)),
        RECORD..DUPLICATE => seq_of(key).and_then(|_| Stored::decode(value).map(drop)),
        DUPLICATE..=DUPLICATE_END if key.len() == usize::from(first - DUPLICATE) + 18 => number_of(value).map(drop),
        DUPLICATE..=DUPLICATE_END => Err(broken("duplicate key")),
        _ => Err(unknown(first)),
    }
}

/// True for a row that a cluster made of a copy must not have, as it speaks of the nodes and connections of the cluster
/// that was copied.
pub(crate) fn is_of_nodes(key: &[u8]) -> bool {
    [REGISTRY, CLUSTER_GROWTH].contains(&key)
        || matches!(key.first(), Some(&(LEASE | RING_SLOT | SESSION | STORAGE_NODE | PLACEMENT)))
}

fn message<M: Message + Default>(value: &[u8]) -> io::Result<()> {
    M::decode(value).map(drop).map_err(|_| broken("row of a directory"))
}

fn unknown(first: u8) -> io::Error {
    let why = format!("rows with the first byte {first:#04x} are unknown to this release: run the one that wrote them");
    io::Error::new(io::ErrorKind::Unsupported, why)
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        MediaId, ShardId,
        pb::store::{RecordHeader, ReportPlace, TimelineKey, timeline_key::Kind},
    };

    use super::*;
    use crate::machine::keys::{
        account, annotated, changed_conversation, contact, contact_list, contacts_end, conversation,
        conversation_change, conversations_version, cursor, dead_letter, domain, domain_accounts, domain_group,
        domain_user, due, duplicate, emptied, ended_sender, ending, erased_sender, erasing_sender, erasure, expiring,
        expiring_in, garbage, group, group_cursor_count, lease, media, media_hold, media_released, media_sum, member,
        membership, membership_count, mentioned, number_value, numbers_value, outbox, pins, placement, privacy,
        reactions, record, report, report_evidence, report_sum, reports_of, ring_slot, scheduled, scheduled_list,
        session, storage_node, timeline, timeline_value, untold, votes,
    };

    #[test]
    fn rows_are_known_in_their_kind_of_shard_alone() {
        let inbox = TimelineKey { kind: Kind::Inbox.into(), owner: "alice".into() };
        let number = number_value(7).to_vec();
        let stored = Stored { clock_ms: 1, duplicate: [2; 16], header: RecordHeader::default(), envelope: b"x" };
        let header = RecordHeader {
            counted: 300,
            uncounted: true,
            message: Some(Box::default()),
            expires_ms: 7,
            recalled: true,
        };
        let with_header = Stored { header, clock_ms: 1, duplicate: [2; 16], envelope: b"x" };
        let lease_row = Lease { kind: 1, ttl_ms: 1, ends: 1, nonce: [0; 16], address: String::new() };
        let in_directory = [
            (account("alice").to_vec(), Account::default().encode_to_vec()),
            (session("alice", "d").to_vec(), Session::default().encode_to_vec()),
            (lease(64).to_vec(), lease_row.encode()),
            (ring_slot(2).to_vec(), number.clone()),
            (ending("alice").to_vec(), number.clone()),
            (contact("alice", 7, "bob").to_vec(), Contact::default().encode_to_vec()),
            (contact_list("alice", 7).to_vec(), ContactList::default().encode_to_vec()),
            (untold("alice", 7, "bob").to_vec(), Vec::new()),
            (contacts_end("alice", 7).to_vec(), ContactsEnd::Swept.encode().to_vec()),
            (privacy("alice", 7).to_vec(), Privacy::default().encode_to_vec()),
            (erasure("alice").to_vec(), numbers_value([1, 2, 0]).to_vec()),
            (domain("").to_vec(), Domain::default().encode_to_vec()),
            (domain_accounts("acme.example").to_vec(), number.clone()),
            (domain_user("acme.example", "ann@acme.example").to_vec(), Vec::new()),
            (storage_node(1).to_vec(), StorageNode::default().encode_to_vec()),
            (placement(ShardId::REGISTRY).to_vec(), Placement::default().encode_to_vec()),
            (REGISTRY.to_vec(), numbers_value([1, 2, 3]).to_vec()),
            (CLUSTER_GROWTH.to_vec(), numbers_value([4, 1]).to_vec()),
        ];
        let in_timeline = [
            (timeline(&inbox).to_vec(), timeline_value([1, 2, 3, 4], 0, 0).to_vec()),
            (cursor(1, "d").to_vec(), numbers_value([1, 2]).to_vec()),
            (NEXT_NUMBER.to_vec(), number.clone()),
            (garbage(3).to_vec(), Vec::new()),
            (domain_group("club@acme.example").to_vec(), number.clone()),
            (group(3).to_vec(), Group::default().encode_to_vec()),
            (member(3, "alice").to_vec(), Member::default().encode_to_vec()),
            (membership(3, &inbox).to_vec(), Membership::default().encode_to_vec()),
            (conversation(3, &inbox).to_vec(), Conversation::default().encode_to_vec()),
            (conversations_version(3).to_vec(), number.clone()),
            (conversation_change(3, 7).to_vec(), changed_conversation(&inbox).to_vec()),
            (record(70_000, 4).to_vec(), with_header.encode().to_vec()),
            (annotated(3, 1).to_vec(), Annotated::default().encode_to_vec()),
            (reactions(3, 1, "alice").to_vec(), UserAnnotation::default().encode_to_vec()),
            (votes(3, 1, "alice").to_vec(), UserAnnotation::default().encode_to_vec()),
            (pins(3, "bob").to_vec(), Pins::default().encode_to_vec()),
            (mentioned(3, "bob").to_vec(), Mentioned::default().encode_to_vec()),
            (outbox(3, 1).to_vec(), OutboxRow::default().encode_to_vec()),
            (dead_letter(3, 1).to_vec(), OutboxRow::default().encode_to_vec()),
            (media(&MediaId::new(3, [1; 14])).to_vec(), MediaRow::default().encode_to_vec()),
            (membership_count(3).to_vec(), number.clone()),
            (group_cursor_count(3, "phone").to_vec(), number.clone()),
            (media_sum(b"alice").to_vec(), MediaSum::default().encode_to_vec()),
            (media_hold(&MediaId::new(3, [1; 14])).to_vec(), MediaHold::default().encode_to_vec()),
            (media_released(5, &MediaId::new(3, [1; 14])).to_vec(), Vec::new()),
            (scheduled_list(3).to_vec(), ScheduledList::default().encode_to_vec()),
            (scheduled(3, 1).to_vec(), ScheduledRow::default().encode_to_vec()),
            (due(7, 3, 1).to_vec(), Vec::new()),
            (report_sum().to_vec(), ReportSum::default().encode_to_vec()),
            (report(ReportPlace::default(), false).to_vec(), ReportRow::default().encode_to_vec()),
            (report(ReportPlace::default(), true).to_vec(), ReportRow::default().encode_to_vec()),
            (report_evidence(ReportPlace::default()).to_vec(), ReportEvidence::default().encode_to_vec()),
            (reports_of(b"alice").to_vec(), ReportsOfUser::default().encode_to_vec()),
            (expiring(7, 3, 1).to_vec(), expiring_in(&timeline(&inbox)).to_vec()),
            (emptied(3, "bob").to_vec(), Emptied::default().encode_to_vec()),
            (erasing_sender(b"alice").to_vec(), number.clone()),
            (erased_sender(b"alice").to_vec(), number.clone()),
            (ended_sender(b"alice").to_vec(), numbers_value([1, 2]).to_vec()),
            (record(70_000, 3).to_vec(), stored.encode().to_vec()),
            (duplicate(70_000, &[3; 16]).to_vec(), number.clone()),
        ];
        let kinds = [(ShardKind::Directory, &in_directory[..]), (ShardKind::Timeline, &in_timeline)];
        for (kind, rows) in kinds {
            for (key, value) in rows {
                check(kind, key, value).unwrap_or_else(|error| panic!("{key:?}: {error}"));
                let other = if kind == ShardKind::Directory { ShardKind::Timeline } else { ShardKind::Directory };
                assert!(check(other, key, value).is_err(), "{key:?} in {other:?}");
            }
        }
        for (key, value) in &in_timeline[..3] {
            let cut = check(ShardKind::Timeline, key, &value[1..]).expect_err("a byte is missing");
            assert_eq!(cut.kind(), io::ErrorKind::InvalidData);
        }
        let later = check(ShardKind::Timeline, &[0x41], &[]).expect_err("of a later release");
        assert_eq!(later.kind(), io::ErrorKind::Unsupported);
        assert!(
            is_of_nodes(&lease(64))
                && is_of_nodes(&ring_slot(0))
                && is_of_nodes(&session("a", "d"))
                && !is_of_nodes(&account("a"))
                && !is_of_nodes(&domain("a"))
        );
    }
}
