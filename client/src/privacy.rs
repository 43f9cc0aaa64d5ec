//! Privacy settings, blocked users and chat states.

use carillon_proto::{
    GroupId, UserId,
    pb::client::{
        ChatState, Privacy, PrivacyNews, PrivacyRequest, ReadPrivacy, SetChatState, SetPrivacy, client_frame::Body,
        privacy_request::Change,
    },
};

use crate::{
    Client, Event, FetchError,
    contacts::OWN,
    fetches::{Found, Query},
};

impl Client {
    /// Reads the privacy settings and the blocked users. From now on each change, by this device or another one, is an
    /// [`Event::Privacy`]; after [`Event::PrivacyMissed`] it is to be read again.
    ///
    /// ```no_run
    /// # async fn example(client: carillon_client::Client) -> Result<(), carillon_client::FetchError> {
    /// use carillon_proto::{
    ///     UserId,
    ///     pb::client::{Audience, SetPrivacy},
    /// };
    ///
    /// let only_contacts = SetPrivacy { write: Some(Audience::Contacts.into()), ..SetPrivacy::default() };
    /// client.set_privacy(only_contacts).await?;
    /// client.block(&UserId::new("mallory").expect("a name")).await?;
    /// assert_eq!(client.privacy().await?.blocked, ["mallory"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn privacy(&self) -> Result<Privacy, FetchError> {
        match self.find(Query::Privacy(ReadPrivacy { request: 0 })).await? {
            Found::Privacy(privacy) => Ok(privacy),
            _ => Err(FetchError::OtherAnswer),
        }
    }

    /// Returns when the change is stored. Fields that are `None` stay as they are.
    pub async fn set_privacy(&self, set: SetPrivacy) -> Result<(), FetchError> {
        self.change_privacy(Change::Set(set)).await
    }

    /// Blocks a user: messages from there are accepted as before, and are not delivered. The blocked user is not told.
    pub async fn block(&self, user: &UserId) -> Result<(), FetchError> {
        self.change_privacy(Change::Block(user.as_str().to_owned())).await
    }

    /// Ends a block. Messages that were sent meanwhile do not come any more.
    pub async fn unblock(&self, user: &UserId) -> Result<(), FetchError> {
        self.change_privacy(Change::Unblock(user.as_str().to_owned())).await
    }

    /// Tells the other side of a conversation what the user is doing just now. Worth nothing later: it may be lost, and is to be repeated
    /// every few seconds as long as it is so. What others are doing comes as [`Event::ChatState`] after [`Client::read_conversations`];
    /// after 10 seconds without a word it has ended.
    pub async fn set_chat_state(&self, to: &UserId, state: ChatState) -> Result<(), FetchError> {
        let set = SetChatState { to: to.as_str().to_owned(), state: state.into(), ..SetChatState::default() };
        self.done(Query::ChatState(set)).await
    }

    /// Tells the members who follow a group. Refused if it has more than 200 members.
    pub async fn set_group_chat_state(&self, group: &GroupId, state: ChatState) -> Result<(), FetchError> {
        let set = SetChatState { group: group.as_str().to_owned(), state: state.into(), ..SetChatState::default() };
        self.done(Query::ChatState(set)).await
    }

    async fn change_privacy(&self, change: Change) -> Result<(), FetchError> {
        self.done(Query::ChangePrivacy(PrivacyRequest { request: 0, change: Some(change) })).await
    }
}

/// The version of the privacy settings that the application has, which a client keeps over its connections.
#[derive(Default)]
pub(crate) struct Known {
    /// The version that the application has.
    version: Option<u64>,
}

impl Known {
    /// The frames with which a new connection begins.
    pub(crate) fn begin(&self) -> Option<Body> {
        self.version.map(|_| Body::ReadPrivacy(ReadPrivacy { request: OWN }))
    }

    /// An answer: `Some` if the application has to read again.
    pub(crate) fn read(&mut self, privacy: &Privacy) -> Option<Event> {
        if privacy.request != OWN {
            self.version = Some(privacy.version);
            return None;
        }
        self.version.is_some_and(|version| version != privacy.version).then_some(Event::PrivacyMissed)
    }

    pub(crate) fn news(&mut self, news: PrivacyNews) -> Option<Event> {
        let known = self.version?;
        // The settings that were read have the change already.
        if news.version <= known {
            return None;
        }
        if news.before != known {
            return Some(Event::PrivacyMissed);
        }
        self.version = Some(news.version);
        news.what.map(Event::Privacy)
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::privacy_news::What;

    use super::*;

    #[test]
    fn changes_that_were_missed_show_by_the_version() {
        let mut known = Known::default();
        let what = What::Blocked("bob".to_owned());
        let news = |before, version| PrivacyNews { before, version, what: Some(what.clone()) };
        let privacy = |request, version| Privacy { request, version, ..Privacy::default() };
        assert_eq!((known.news(news(0, 1)), known.begin()), (None, None), "nothing was read yet");
        assert_eq!(known.read(&privacy(1, 5)), None);
        assert_eq!(known.news(news(4, 5)), None, "it is in what was read");
        assert_eq!(known.news(news(5, 6)), Some(Event::Privacy(what.clone())));
        assert_eq!(known.news(news(7, 8)), Some(Event::PrivacyMissed));
        assert_eq!(known.begin(), Some(Body::ReadPrivacy(ReadPrivacy { request: OWN })));
        assert_eq!(known.read(&privacy(OWN, 6)), None);
        assert_eq!(known.read(&privacy(OWN, 8)), Some(Event::PrivacyMissed));
        assert_eq!(known.read(&privacy(2, 8)), None);
        assert_eq!(known.news(news(8, 9)), Some(Event::Privacy(what.clone())));
    }
}
