//! Up to where others may know that the user has read.

use carillon_proto::pb::store::{Audience, marks_read};

use super::*;

/// A user with messages of bob and of a group, who reads them.
struct Reader {
    shard: OpenShard<TimelineMachine, TimelineReader>,
    model: Model,
    index: u64,
}

impl Reader {
    fn new() -> Self {
        let shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &set_level());
        let mut this = Self { shard, model: Model::default(), index: 0 };
        this.act(&Act::Membership { group: 1, stands: true });
        (0..6).for_each(|_| this.act(&Act::Message { peer: 0, own: false, incarnation: 3 }));
        this
    }

    fn act(&mut self, act: &Act) {
        let command = self.model.act(act).expect("a command");
        apply(&mut self.shard, &mut self.index, vec![vec![command]]);
    }

    /// Reads up to this position in both conversations, while marks are shown to these. Returns whether bob may be told now.
    fn reads(&mut self, seq: u64, epoch: u64, shown_to: Audience) -> bool {
        let marks = [(inbox("bob"), EPOCH), (group("g"), epoch)];
        let marks = marks.map(|(with, epoch)| Mark { conversation: Some(with), epoch, seq }).to_vec();
        let moves =
            MoveMarks { timeline: Some(inbox(OWNER)), marks, shown_to: shown_to.into(), ..MoveMarks::default() };
        self.index += 1;
        let commands = [entry(self.index, &[command(Op::MoveMarks(moves))])];
        match &self.shard.machine.apply(&commands, &self.index.to_be_bytes()).expect("applies")[0][0] {
            Outcome::ConversationsMoved(moved) => moved.rows.iter().any(|row| !row.read_id.is_empty()),
            other => panic!("{other:?}"),
        }
    }

    fn mark(&self, conversation: TimelineKey, by_contact: bool) -> marks_read::Mark {
        let (timeline, conversation) = (Some(inbox(OWNER)), Some(conversation));
        let reads = vec![Read { timeline, conversation, peer_incarnation: 3, by_contact }];
        self.shard.reader.marks(&ReadMarks { reads }).expect("reads").marks.remove(0)
    }

    /// The marks that a contact and somebody else are told: the number in the id of bob's message, and the position in the group.
    fn shown(&self) -> [(u64, u64); 2] {
        [true, false].map(|by_contact| {
            let number = self.mark(inbox("bob"), by_contact).read_id.trim_start_matches('m').parse();
            (number.unwrap_or(0), self.mark(group("g"), by_contact).read_seq)
        })
    }
}

#[test]
fn what_is_read_while_marks_are_hidden_is_not_shown_later() {
    let mut reader = Reader::new();
    // Bob's messages m1 to m6 stand behind the membership.
    assert!(reader.reads(2, EPOCH, Audience::Everyone));
    assert_eq!(reader.shown(), [(1, 2); 2]);
    assert!(!reader.reads(3, EPOCH, Audience::Nobody), "nobody is told now either");
    assert_eq!(reader.shown(), [(1, 2); 2]);
    assert!(!reader.reads(3, EPOCH, Audience::Everyone), "it was read before");
    assert_eq!(reader.shown(), [(1, 2); 2]);
    assert!(reader.reads(4, EPOCH, Audience::Contacts));
    assert_eq!(reader.shown(), [(3, 4), (1, 2)]);
    assert!(!reader.reads(5, EPOCH, Audience::Nobody));
    assert_eq!(reader.shown(), [(3, 4), (1, 2)]);
    let mut reader = Reader { shard: reader.shard.reopened(), ..reader };
    assert!(reader.reads(6, EPOCH, Audience::Everyone), "what is read from now on is shown");
    assert_eq!(reader.shown(), [(5, 6); 2]);
    assert!(!reader.reads(7, 9, Audience::Nobody));
    let marks = [true, false].map(|by_contact| reader.mark(group("g"), by_contact));
    assert_eq!(marks.map(|mark| (mark.read_epoch, mark.read_seq)), [(0, 0); 2], "nothing is known of the new epoch");
}
