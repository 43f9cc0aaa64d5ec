//! Pages of readers, compared with the model.

use std::collections::BTreeMap;

use carillon_proto::pb::{
    client::Envelope,
    link::RawMessageState,
    store::{Head, Person, ReadConversations, ReadHead, ReadTimeline, UnreadOf},
};
use prost::Message as _;

use super::{
    model::Timeline,
    play::{EPOCH, GROUP, Play, SHARD, USERS, key, set_level},
};
use crate::machine::{
    Machine as _,
    tests::{at_level, entry, media_collection::check_holds, open, records},
};

impl Play {
    /// Messages of this peer that the user has not read.
    pub(super) fn unread(&self, who: &str, peer: &str) -> u64 {
        let op = ReadConversations { timeline: Some(key(who)), ..ReadConversations::default() };
        let rows = self.shard.reader.conversations(&op).expect("reads").rows;
        let row = rows.into_iter().find(|row| row.conversation == Some(key(peer)));
        row.expect("a conversation").unread
    }

    pub(super) fn unread_in_group(&self, who: &str) -> u64 {
        self.counted(who, 1, 0).unread
    }

    /// With what this member has not read behind a mark.
    pub(super) fn counted(&self, who: &str, incarnation: u64, mark: u64) -> Head {
        let member = Some(Person { user: who.to_owned(), incarnation });
        let unread_of = Some(UnreadOf { member, epoch: EPOCH, seq: mark });
        let op = ReadHead { timeline: Some(key(GROUP)), unread_of, ..ReadHead::default() };
        self.shard.reader.head(&op).expect("reads")
    }

    fn check_mentions(&self, group: &Timeline) {
        for (user, member) in self.members.iter().take(9) {
            for mark in [0, group.last() / 2, group.last()] {
                let found = self.counted(user, member.incarnation, mark).mentions as usize;
                assert_eq!(found, group.mentions(user, *member, mark), "mentions of {user} behind {mark}");
            }
        }
    }

    fn check_pins(&self, name: &str, timeline: &Timeline, op: &ReadTimeline, from: u64) {
        let conversations: &[&str] = if timeline.owner.is_some() { &USERS } else { &[""] };
        for with in conversations {
            let op = ReadTimeline { pinned_with: Some((*with).to_owned()), ..op.clone() };
            let read = self.shard.reader.read(&op).expect("reads");
            let found: Vec<_> = read.entries.iter().map(|entry| entry.seq).collect();
            let mut expected = timeline.pinned_with(with);
            expected.retain(|seq| *seq >= from);
            assert_eq!(found, expected, "pinned in {name} with {with}");
        }
    }

    pub(super) fn head_of(&self, name: &str) -> Head {
        self.shard.reader.head(&ReadHead { timeline: Some(key(name)), ..ReadHead::default() }).expect("reads")
    }

    pub(super) fn annotation_rows(&mut self) -> usize {
        records(&mut self.shard.machine).iter().filter(|(key, _)| key.first() == Some(&0x31)).count()
    }

    pub(super) fn check_media_holds(&mut self) {
        check_holds(&records(&mut self.shard.machine));
    }

    pub(super) fn check(&self) {
        for (name, timeline) in &self.timelines {
            match &timeline.owner {
                Some(owner) => self.check_timeline(name, timeline, None, Some((owner, 0)), timeline.first),
                None if self.group_exists() => {
                    self.check_timeline(name, timeline, None, None, timeline.first);
                    self.check_mentions(timeline);
                    for (user, member) in self.seen_members().iter().take(9) {
                        let from = timeline.first.max(member.since);
                        let person = Person { user: user.clone(), incarnation: member.incarnation };
                        self.check_timeline(name, timeline, Some(person), Some((user, member.incarnation)), from);
                    }
                }
                None => {}
            }
        }
    }

    fn check_timeline(
        &self,
        name: &str,
        timeline: &Timeline,
        reader: Option<Person>,
        of: Option<(&str, u64)>,
        from: u64,
    ) {
        let op = ReadTimeline {
            timeline: Some(key(name)),
            reader: reader.clone(),
            states: true,
            max_bytes: u32::MAX,
            ..ReadTimeline::default()
        };
        let read = self.shard.reader.read(&op).expect("reads");
        let found: Vec<_> = read
            .entries
            .iter()
            .map(|entry| {
                let mut state = RawMessageState::decode(&*entry.state).expect("decodes");
                state.reactions.sort_by(|a, b| a.emoji.cmp(&b.emoji));
                (entry.seq, Envelope::decode(&*entry.envelope).expect("decodes"), state)
            })
            .collect();
        let expected: Vec<_> =
            (from..=timeline.last()).map(|seq| (seq, timeline.shown(seq), timeline.state(seq, of))).collect();
        assert_eq!(found, expected, "{name} for {of:?}");
        self.check_pins(name, timeline, &op, from);
        for (seq, _, state) in expected {
            if state.recall.is_empty() {
                let op = ReadTimeline { edits_of: seq, ..op.clone() };
                let read = self.shard.reader.read(&op).expect("reads");
                let decode = |bytes: &[u8]| Envelope::decode(bytes).expect("decodes");
                let found: Vec<_> = read.entries.iter().map(|entry| (entry.seq, decode(&entry.envelope))).collect();
                assert_eq!(found, timeline.history(seq), "edits of {seq} in {name}");
            }
        }
    }

    /// Of messages that both still have, both users see the same.
    pub(super) fn check_that_both_inboxes_agree(&self) {
        if self.timelines.values().any(|timeline| timeline.first > 1) {
            return;
        }
        for (one, other) in [("a", "b"), ("a", "c"), ("b", "c")] {
            let [one, other] = [one, other].map(|name| {
                let timeline = &self.timelines[name];
                let states = (1..=timeline.last()).map(|seq| {
                    let envelope = &timeline.at(seq).expect("kept").envelope;
                    (envelope.id.clone(), RawMessageState { own_reactions: Vec::new(), ..timeline.state(seq, None) })
                });
                states.collect::<BTreeMap<_, _>>()
            });
            for (id, state) in &one {
                assert!(other.get(id).is_none_or(|other| other == state), "{id}");
            }
        }
    }

    pub(super) fn check_that_batches_make_no_difference(&mut self) {
        let dir = tempfile::tempdir().expect("folder");
        let engines = open(dir.path());
        let mut all = at_level(engines.timeline(SHARD).expect("shard").0, &set_level());
        let entries: Vec<_> =
            self.commands.iter().zip(1..).map(|(command, index)| entry(index, std::slice::from_ref(command))).collect();
        all.apply(&entries, &[0; 8]).expect("applies");
        assert_eq!(records(&mut all), records(&mut self.shard.machine));
    }
}
