//! Who recalls a message takes it from all readers.

use carillon_proto::pb::{
    client::{Envelope, content::Body},
    store::{
        Append, MessageRequest, ReadConversations, ReadTimeline, append::Admission, header::Kind, timeline_command::Op,
    },
};
use prost::Message as _;

use super::{
    acts::Act,
    play::{Play, key},
};
use crate::machine::Outcome;

impl Play {
    /// A message about another one in the inbox of a user who lets its sender in only so far. The model does not know of it.
    fn refers_unwanted(&mut self, who: &str, to: &str, message: usize, kind: Kind, admission: Admission) -> Outcome {
        self.act(Act::CopiesArrive);
        let append = self.about(who, to, message, kind);
        let (timeline, peer) = (Some(key(to)), Default::default());
        self.apply(Op::Append(Append { timeline, peer, admission: admission.into(), ..append }))
    }

    /// The texts of all messages of a timeline, as readers get them; with or without those that were recalled.
    fn texts(&self, name: &str, with_recalled: bool) -> Vec<String> {
        let op = ReadTimeline { timeline: Some(key(name)), with_recalled, ..ReadTimeline::default() };
        let entries = self.shard.reader.read(&op).expect("reads").entries;
        let text = |envelope: Envelope| match envelope.content.and_then(|content| content.body) {
            Some(Body::Text(text)) => text.body,
            _ => String::new(),
        };
        let texts = entries.into_iter().map(|entry| text(Envelope::decode(entry.envelope).expect("decodes")));
        texts.filter(|text| !text.is_empty()).collect()
    }

    fn request(&self, who: &str, peer: &str) -> MessageRequest {
        let op = ReadConversations { timeline: Some(key(who)), declined: true, ..ReadConversations::default() };
        let rows = self.shard.reader.conversations(&op).expect("reads").rows;
        let row = rows.into_iter().find(|row| row.conversation == Some(key(peer))).expect("a conversation");
        row.row.expect("a row").request()
    }
}

#[test]
fn nobody_is_given_what_a_recalled_message_and_its_edits_said() {
    let mut play = Play::new();
    play.makes_group_of(1);
    for to in ["b", "@g"] {
        let before = play.texts(to, false).len();
        let message = play.says("a", to);
        assert_eq!(play.refers("a", to, message, Kind::Edit, &[]), None);
        assert_eq!(play.texts(to, false).len(), before + 2);
        assert_eq!(play.refers("a", to, message, Kind::Recall, &[]), None);
        // That of the recall itself.
        assert_eq!(play.texts(to, false).len(), before + 1);
        assert_eq!(play.texts(to, true).len(), before + 3, "the store still has it for reports");
    }
    play.check();
}

#[test]
fn who_is_not_let_in_any_more_takes_back_what_was_said_and_nothing_else() {
    let is_in = |outcome: &Outcome| matches!(outcome, Outcome::Appended(appended) if !appended.withheld);
    for (admission, is_refused) in [
        (Admission::Withheld, false),
        (Admission::Refused, true),
        (Admission::WriteBack, true),
        (Admission::Request, false),
    ] {
        let mut play = Play::new();
        let (first, second) = (play.says("a", "b"), play.says("a", "b"));
        let other = play.says("b", "a");
        assert_eq!(play.unread("b", "a"), 2);
        for (message, kind) in [(first, Kind::Edit), (first, Kind::Reaction), (other, Kind::Recall), (first, Kind::Pin)]
        {
            let outcome = play.refers_unwanted("a", "b", message, kind, admission);
            // A stranger's messages are let in as a request.
            let expected = admission == Admission::Request && kind != Kind::Recall;
            assert_eq!(is_in(&outcome), expected, "{admission:?} {kind:?}: {outcome:?}");
            assert!(is_in(&outcome) || matches!(outcome, Outcome::Error(_)) == is_refused || kind == Kind::Recall);
        }
        let texts = play.texts("b", false);
        let outcome = play.refers_unwanted("a", "b", first, Kind::Recall, admission);
        assert!(is_in(&outcome), "{admission:?}: {outcome:?}");
        assert_eq!(play.texts("b", false).len() + 1, texts.len());
        assert_eq!(
            play.unread("b", "a"),
            1,
            "there is nothing to be read in the one, and the recall is nothing to be read"
        );
        assert_eq!(play.request("b", "a"), MessageRequest::Unspecified);
        let outcome = play.refers_unwanted("a", "b", first, Kind::Recall, admission);
        assert!(!is_in(&outcome), "it is recalled already");
        let outcome = play.refers_unwanted("a", "b", second, Kind::Recall, admission);
        assert!(is_in(&outcome));
        assert_eq!(play.unread("b", "a"), 0);
    }
}

#[test]
fn recalled_messages_of_a_group_are_not_unread() {
    let mut play = Play::new();
    play.makes_group_of(2);
    let messages: Vec<_> = (0..3).map(|_| play.says("a", "@g")).collect();
    assert_eq!(play.unread_in_group("m0"), 3);
    assert_eq!(play.refers("a", "@g", messages[1], Kind::Recall, &[]), None);
    assert_eq!([play.unread_in_group("m0"), play.unread_in_group("m1")], [2, 2]);
    assert_eq!(play.counted("m0", 1, play.position(messages[0])).unread, 1);
    assert_eq!(play.counted("m0", 1, play.position(messages[1])).unread, 1);
    assert_eq!(play.counted("m0", 1, play.position(messages[2])).unread, 0);
}
