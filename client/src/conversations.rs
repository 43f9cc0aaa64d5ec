//! Conversations: what is unread, how far the user and others have read, and what the user wants of each.

use carillon_proto::{
    GroupId, Position, UserId,
    pb::client::{
        Conversation, ConversationSettings, Conversations, MessageRequest, MoveMarks, ReadConversations, ReadMark,
        ReadMarks, Recipient, RequestAnswer, SetConversation, UserMark,
    },
};

use crate::{
    Client, FetchError,
    fetches::{Found, Query},
};

/// The user's conversations, or those that have changed.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversationList {
    /// Of the list: the next reading starts here.
    pub version: ListVersion,
    /// False: these are all, and what was known before no longer counts.
    pub changes: bool,
    pub conversations: Vec<Conversation>,
}

/// How far a list of conversations is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListVersion {
    pub epoch: u64,
    pub version: u64,
}

impl ListVersion {
    /// Whether a client that has this version lacks nothing before these changes, which came with
    /// [`Event::Conversations`](crate::Event::Conversations). Otherwise it reads the list again from its version on.
    pub fn is_followed_by(self, changes: &Conversations) -> bool {
        changes.epoch == self.epoch && changes.before <= self.version
    }
}

impl Client {
    /// The user's conversations; after `since`, those whose marks or settings have changed since then. New messages change how much is
    /// unread, too: a client counts those that are delivered to it.
    ///
    /// From the first call on, this connection is told of changes by [`Event::Conversations`](crate::Event::Conversations), and by
    /// [`Event::Marks`](crate::Event::Marks) how far others have what it sends. A new connection is told nothing before the next call: after
    /// each [`State::Connected`](crate::State::Connected), read what has changed.
    pub async fn read_conversations(&self, since: Option<ListVersion>) -> Result<ConversationList, FetchError> {
        let ListVersion { epoch, version } = since.unwrap_or(ListVersion { epoch: 0, version: 0 });
        let mut read = ReadConversations { request: 0, epoch, since: version, after: None, limit: 0 };
        let mut list: Option<ConversationList> = None;
        loop {
            let page = self.conversations_of(Query::Conversations(read.clone())).await?;
            let last = page.conversations.last().and_then(|conversation| conversation.with.clone());
            let version = ListVersion { epoch: page.epoch, version: page.version };
            match &mut list {
                // The inbox began anew between two pages, or changes became too old.
                Some(list) if list.changes != page.changes || list.version.epoch != page.epoch => {
                    return Err(FetchError::OtherAnswer);
                }
                Some(list) => {
                    list.conversations.extend(page.conversations);
                    // Changes while all are read come again with the first page's version.
                    if page.changes {
                        list.version = version;
                    }
                }
                None => {
                    let (changes, conversations) = (page.changes, page.conversations);
                    list = Some(ConversationList { version, changes, conversations });
                }
            }
            if page.complete || last.is_none() {
                return list.ok_or(FetchError::OtherAnswer);
            }
            if page.changes { read.since = page.version } else { read.after = last }
        }
    }

    /// The user has read up to these positions: of its inbox, or of the groups' logs. At most 256. Returns the conversations as they stand
    /// now; the user's other devices are told the same.
    pub async fn move_marks(&self, marks: Vec<(Recipient, Position)>) -> Result<Vec<Conversation>, FetchError> {
        let mark = |(with, read): (Recipient, Position)| ReadMark { with: Some(with), read: Some(read.into()) };
        let marks = marks.into_iter().map(mark).collect();
        let moved = self.conversations_of(Query::Move(MoveMarks { request: 0, marks })).await?;
        Ok(moved.conversations)
    }

    /// Changes what the user wants of a conversation. What is absent stays as it is. Repeated after a lost connection, so that of two
    /// devices that set the same at once the one that is repeated may be the last.
    pub async fn set_conversation(
        &self,
        with: Recipient,
        settings: ConversationSettings,
    ) -> Result<Vec<Conversation>, FetchError> {
        let set = SetConversation { with: Some(with), settings: Some(settings), ..SetConversation::default() };
        Ok(self.conversations_of(Query::Set(set)).await?.conversations)
    }

    /// Accepts what a stranger has begun, or declines it: then its further messages do not come. Repeating it is safe. Returns the conversation
    /// as it stands now. Refused if there is none.
    ///
    /// ```no_run
    /// # async fn example(client: carillon_client::Client) -> Result<(), carillon_client::FetchError> {
    /// use carillon_proto::{UserId, pb::client::RequestAnswer};
    ///
    /// for request in client.message_requests().await? {
    ///     println!("{:?}: {} messages", request.with, request.unread);
    /// }
    /// client.answer_request(&UserId::new("mallory").expect("a name"), RequestAnswer::Decline).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn answer_request(
        &self,
        with: &UserId,
        answer: RequestAnswer,
    ) -> Result<Option<Conversation>, FetchError> {
        let with = Some(Self::user(with.as_str()));
        let set = SetConversation { with, answer: answer.into(), ..SetConversation::default() };
        Ok(self.conversations_of(Query::Set(set)).await?.conversations.pop())
    }

    /// Conversations that strangers have begun, about which the user has not decided.
    pub async fn message_requests(&self) -> Result<Vec<Conversation>, FetchError> {
        let mut all = self.read_conversations(None).await?.conversations;
        all.retain(|conversation| conversation.request() == MessageRequest::Open);
        Ok(all)
    }

    /// How far these users have read and received: of what this user has written to each, or in a group. At most 256.
    pub async fn read_marks(&self, group: Option<&GroupId>, users: Vec<String>) -> Result<Vec<UserMark>, FetchError> {
        let group = group.map(|group| group.as_str().to_owned()).unwrap_or_default();
        match self.find(Query::Marks(ReadMarks { request: 0, group, users })).await? {
            Found::Marks(read) => Ok(read.marks),
            _ => Err(FetchError::OtherAnswer),
        }
    }

    async fn conversations_of(&self, query: Query) -> Result<Conversations, FetchError> {
        match self.find(query).await? {
            Found::Conversations(found) => Ok(found),
            _ => Err(FetchError::OtherAnswer),
        }
    }
}
