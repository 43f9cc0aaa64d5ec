//! Changes of groups that inboxes are told of after the user who has made them was erased.

use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::{
        client::{Envelope, GroupChange, GroupDeleted, MembersChange, group_change::What, members_change::Kind},
        store::{
            Append, EndSender, EraseSender, Membership, MembershipsRead, ReadMemberships, ReadTimeline, SenderErased,
            SetLevel, SetMembership, TimelineCommand, TimelineKey, member::Standing, timeline_command::Op,
            timeline_key,
        },
    },
};

use super::*;
use crate::machine::{Outcome, TimelineMachine, TimelineReader};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
/// Sessions of lower generations are those of the account that was erased.
const GENERATION: u64 = 5;

struct World {
    shard: OpenShard<TimelineMachine, TimelineReader>,
    index: u64,
}

impl World {
    fn new() -> Self {
        let level = TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) };
        Self { shard: OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &level), index: 0 }
    }

    fn apply(&mut self, op: Op) -> Outcome {
        self.index += 1;
        let command = TimelineCommand { op: Some(op) };
        let outcomes = self.shard.machine.apply(&[entry(self.index, &[command])], &self.index.to_be_bytes());
        outcomes.expect("applies").remove(0).remove(0)
    }

    /// The inbox of `bob` is told of the group `g`. The result is the envelope that the inbox has then.
    fn told(&mut self, envelope: &Envelope, sender_generation: u64) -> Envelope {
        let seq = self.index + 1;
        let append = Append {
            timeline: inbox(),
            duplicate_key: vec![seq as u8; 16].into(),
            envelope: envelope.encode_to_vec().into(),
            new_epoch: 7,
            sender_generation,
            ..Append::default()
        };
        let group = Some(TimelineKey { kind: timeline_key::Kind::Group.into(), owner: "g".into() });
        let membership = Some(Membership { seq, standing: Standing::Member.into(), ..Membership::default() });
        let outcome = self.apply(Op::SetMembership(SetMembership { append: Some(append), group, membership }));
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
        let read = ReadMemberships { timeline: inbox(), ..ReadMemberships::default() };
        let MembershipsRead { memberships, .. } = self.shard.reader.memberships(&read).expect("reads");
        assert!(matches!(&memberships[..], [row] if row.membership == membership), "{memberships:?}");
        let read = self.shard.reader.read(&ReadTimeline { timeline: inbox(), ..ReadTimeline::default() });
        let last = read.expect("reads").entries.pop().expect("there is one");
        Envelope::decode(last.envelope).expect("decodes")
    }
}

fn inbox() -> Option<TimelineKey> {
    Some(TimelineKey { kind: timeline_key::Kind::Inbox.into(), owner: "bob".into() })
}

fn change_by(sender: &str, what: What) -> Envelope {
    Envelope {
        id: "01".into(),
        sender: sender.into(),
        sender_device: "her phone".into(),
        client_id: "c".into(),
        time_ms: 7,
        change: Some(Box::new(GroupChange { what: Some(what) })),
        ..Envelope::default()
    }
}

#[test]
fn what_a_group_tells_later_has_nothing_of_a_user_who_was_erased() {
    let by = |sender: &str| change_by(sender, What::Deleted(GroupDeleted {}));
    let olga = by("olga");
    let left_of_olga = olga.clone().without_content();
    let erase = || EraseSender { sender: "olga".into(), generation: GENERATION };
    for is_done in [false, true] {
        let mut world = World::new();
        world.apply(Op::EraseSender(erase()));
        if is_done {
            world.apply(Op::SenderErased(SenderErased { sender: "olga".into(), generation: GENERATION }));
        }
        assert_eq!(world.told(&olga, GENERATION - 1), left_of_olga, "done: {is_done}");
        assert_eq!(world.told(&olga, GENERATION), olga, "of the next owner of the name");
        assert_eq!(world.told(&by("anna"), GENERATION - 1), by("anna"));
        // The service says that the account has ended.
        let members = MembersChange {
            kind: Kind::Left.into(),
            users: vec!["olga".into()],
            account_ended: true,
            ..MembersChange::default()
        };
        let ended = change_by("olga", What::Members(members));
        assert_eq!(world.told(&ended, 0), ended);
    }
}

#[test]
fn what_a_user_has_changed_before_its_sessions_ended_is_told() {
    let mut world = World::new();
    world.apply(Op::EndSender(EndSender { sender: "olga".into(), generation: GENERATION }));
    let change = change_by("olga", What::Deleted(GroupDeleted {}));
    assert_eq!(world.told(&change, GENERATION - 1), change);
}
