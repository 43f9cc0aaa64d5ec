//! A device's picture of its conversation: how many messages are unread there, by its own count, and how far it is read.

use std::collections::VecDeque;

use carillon_client::{ConversationList, ListVersion};
use carillon_proto::{
    Position,
    pb::client::{Conversation, Conversations, Recipient},
};

/// A message of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) position: Position,
    pub(super) id: String,
}

pub(super) struct Reading {
    with: Recipient,
    /// In a group nothing before the user's own last message is unread.
    is_group: bool,
    /// Positions of the messages of others behind the mark.
    unread: VecDeque<u64>,
    read: u64,
    last: Option<Message>,
    /// Of the list that the device knows.
    version: Option<ListVersion>,
}

impl Reading {
    pub(super) fn new(with: Recipient, is_group: bool) -> Self {
        Self { with, is_group, unread: VecDeque::new(), read: 0, last: None, version: None }
    }

    /// A message of somebody else.
    pub(super) fn heard(&mut self, message: Message) {
        let seq = message.position.seq;
        // A mark of another device may come before the message.
        if seq > self.read {
            self.unread.push_back(seq);
        }
        self.last = Some(message);
    }

    /// A message of the user.
    pub(super) fn said(&mut self, seq: u64) {
        if self.is_group {
            self.forget(seq);
        }
    }

    pub(super) fn read_up_to(&mut self, seq: u64) {
        self.read = self.read.max(seq);
        self.forget(seq);
    }

    fn forget(&mut self, up_to: u64) {
        while self.unread.front().is_some_and(|seq| *seq <= up_to) {
            self.unread.pop_front();
        }
    }

    pub(super) fn unread(&self) -> u64 {
        self.unread.len() as u64
    }

    pub(super) fn version(&self) -> Option<ListVersion> {
        self.version
    }

    /// The last message of somebody else.
    pub(super) fn last(&self) -> Option<Message> {
        self.last.clone()
    }

    /// The same, if it is not read.
    pub(super) fn to_read(&self) -> Option<Message> {
        self.last().filter(|last| last.position.seq > self.read)
    }

    /// The list, or what has changed in it.
    pub(super) fn listed(&mut self, list: &ConversationList) {
        self.version = Some(list.version);
        self.read_by(&list.conversations);
    }

    /// News of the list. False if some before them were missed.
    pub(super) fn told(&mut self, news: &Conversations) -> bool {
        self.read_by(&news.conversations);
        match &mut self.version {
            Some(version) if version.is_followed_by(news) => {
                version.version = version.version.max(news.version);
                true
            }
            _ => false,
        }
    }

    /// Marks only grow, so that each of them counts, whatever was missed.
    fn read_by(&mut self, conversations: &[Conversation]) {
        if let Some(read) = row_of(conversations, &self.with).and_then(|row| row.read) {
            self.read_up_to(read.seq);
        }
    }
}

/// The row of this conversation.
pub(super) fn row_of<'a>(conversations: &'a [Conversation], with: &Recipient) -> Option<&'a Conversation> {
    conversations.iter().find(|row| row.with.as_ref() == Some(with))
}

#[cfg(test)]
mod tests {
    use carillon_client::Client;
    use carillon_proto::{Epoch, pb};

    use super::*;

    fn message(seq: u64) -> Message {
        Message { position: Position { epoch: Epoch(1), seq }, id: format!("m{seq}") }
    }

    fn news(before: u64, version: u64, read: u64) -> Conversations {
        let read = Some(pb::client::Position { epoch: 1, seq: read });
        let row = Conversation { with: Some(Client::user("bob")), read, ..Conversation::default() };
        Conversations { epoch: 1, before, version, conversations: vec![row], ..Conversations::default() }
    }

    #[test]
    fn what_is_behind_the_mark_is_unread_and_in_a_group_what_is_behind_the_own_message() {
        for (is_group, left) in [(false, 3), (true, 1)] {
            let mut reading = Reading::new(Client::user("bob"), is_group);
            (1..=4).for_each(|seq| reading.heard(message(seq)));
            reading.read_up_to(2);
            assert_eq!((reading.unread(), reading.to_read()), (2, Some(message(4))));
            reading.said(5);
            reading.heard(message(6));
            assert_eq!(reading.unread(), left);
            reading.read_up_to(7);
            reading.heard(message(7));
            assert_eq!((reading.unread(), reading.to_read()), (0, None), "the mark came first");
        }
    }

    #[test]
    fn news_that_were_missed_show_by_the_version_and_marks_count_nevertheless() {
        let mut reading = Reading::new(Client::user("bob"), false);
        (1..=9).for_each(|seq| reading.heard(message(seq)));
        assert!(!reading.told(&news(0, 1, 2)), "the list was not read yet");
        assert_eq!(reading.unread(), 7);
        let list = |version| ConversationList {
            version: ListVersion { epoch: 1, version },
            changes: false,
            conversations: news(0, version, 3).conversations,
        };
        reading.listed(&list(4));
        assert!(reading.told(&news(4, 5, 4)) && reading.told(&news(3, 4, 4)), "old ones are nothing new");
        assert!(!reading.told(&news(6, 7, 8)));
        assert_eq!((reading.unread(), reading.version().map(|version| version.version)), (1, Some(5)));
        let other = Conversation { with: Some(Client::user("eve")), ..news(0, 1, 9).conversations.remove(0) };
        reading.told(&Conversations { conversations: vec![other], ..news(5, 6, 9) });
        assert_eq!(reading.unread(), 1, "it is another conversation");
    }
}
