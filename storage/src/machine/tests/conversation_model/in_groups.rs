//! Unread messages of a group.

use super::*;

const MEMBERS: [&str; 3] = ["a", "b", "c"];
const GROUP_EPOCH: u64 = 5;

fn person(user: &str) -> Person {
    Person { user: user.to_owned(), incarnation: 1 }
}

/// The log of a group: the writer of the message at each position.
#[derive(Default)]
struct GroupLog {
    log: Vec<Option<usize>>,
    first: u64,
}

impl GroupLog {
    fn append(&mut self, wrote: Option<usize>, sender: usize) -> Append {
        self.log.push(wrote);
        Append {
            timeline: Some(group("g")),
            duplicate_key: vec![self.log.len() as u8; 16].into(),
            envelope: Envelope { content: Some(Content::default()), ..Envelope::default() }.encode_to_vec().into(),
            new_epoch: GROUP_EPOCH,
            sender: MEMBERS[sender].into(),
            sender_incarnation: 1,
            ..Append::default()
        }
    }

    fn founded(&mut self) -> TimelineCommand {
        let members = MEMBERS[1..].iter().map(|user| person(user)).collect();
        let settings = Some(GroupSettings { earlier_history: true, ..GroupSettings::default() });
        let create = CreateGroup { settings, members, owner: None };
        let append = Some(self.append(None, 0));
        command(Op::ChangeGroup(ChangeGroup {
            append,
            by_operator: false,
            change: Some(Change::Create(create)),
            most_members: 0,
        }))
    }

    fn act(&mut self, who: usize, what: u8) -> TimelineCommand {
        match what {
            0 => {
                let name = Some(format!("{}", self.log.len()));
                let set = carillon_proto::pb::store::SetGroup { name, ..Default::default() };
                let append = Some(self.append(None, 0));
                command(Op::ChangeGroup(ChangeGroup {
                    append,
                    by_operator: false,
                    change: Some(Change::Set(set)),
                    most_members: 0,
                }))
            }
            1 => {
                let before_seq = self.log.len() as u64 * 2 / 3;
                self.first = self.first.max(before_seq);
                command(Op::Trim(Trim { timeline: Some(group("g")), before_seq, limit: 256, epoch: 0 }))
            }
            // All that there is.
            2 => {
                let before_seq = self.log.len() as u64 + 1;
                self.first = before_seq;
                command(Op::Trim(Trim { timeline: Some(group("g")), before_seq, limit: 256, epoch: 0 }))
            }
            _ => command(Op::Append(self.append(Some(who), who))),
        }
    }

    fn unread(&self, read: &ReadHead, mark: u64) -> u64 {
        let of = read.unread_of.as_ref().and_then(|of| of.member.as_ref()).expect("a member");
        let member = MEMBERS.iter().position(|user| *user == of.user).expect("one of them");
        let own = self.log.iter().rposition(|wrote| *wrote == Some(member)).map_or(0, |at| at as u64 + 1);
        let read = mark.max(own).max(self.first.saturating_sub(1));
        self.log.iter().zip(1..).filter(|(wrote, seq)| *seq > read && wrote.is_some()).count() as u64
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unread_messages_of_a_group_are_those_of_others_behind_the_mark(
        acts in proptest::collection::vec((0..3usize, 0..8u8), 1..40), marks in proptest::collection::vec(0..50u64, 3),
    ) {
        let mut shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let mut group_log = GroupLog::default();
        let mut index = 0;
        apply(&mut shard, &mut index, vec![vec![group_log.founded()]]);
        for (n, (who, what)) in acts.into_iter().enumerate() {
            let command = group_log.act(who, what);
            apply(&mut shard, &mut index, vec![vec![command]]);
            if n % 5 == 4 {
                shard = if n % 2 == 0 { shard.reopened() } else { shard.restored_from_its_snapshot() };
            }
            for (member, mark) in MEMBERS.iter().zip(&marks) {
                for epoch in [GROUP_EPOCH, 99] {
                    let member = Some(person(member));
                    let unread_of = Some(UnreadOf { member, epoch, seq: *mark });
                    let read = ReadHead { timeline: Some(group("g")), unread_of, ..ReadHead::default() };
                    let mark = if epoch == GROUP_EPOCH { *mark } else { 0 };
                    let head = shard.reader.head(&read).expect("reads");
                    prop_assert_eq!(head.unread, group_log.unread(&read, mark), "{:?}", read);
                }
            }
        }
        let nobody = UnreadOf { member: Some(person("nobody")), epoch: GROUP_EPOCH, seq: 0 };
        let read = ReadHead { timeline: Some(group("g")), unread_of: Some(nobody), ..ReadHead::default() };
        prop_assert!(shard.reader.head(&read).is_err(), "who is not in the group learns nothing");
    }
}
