//! Contacts and presence.

use std::collections::BTreeMap;

use carillon_proto::{
    UserId,
    pb::client::{
        Contact, ContactNews, ContactRequest, ContactSettings, Contacts, Presence, ReadContacts, RemoveContact,
        SayToContact, SetPresence, Show, client_frame::Body, contact_request::Change, say_to_contact::Word,
    },
};

use crate::{
    Client, Event, FetchError,
    fetches::{Found, Query},
};

/// The number of requests that the client makes by itself, at the beginning of a connection. Nobody waits for their answers.
pub(crate) const OWN: u32 = u32::MAX;
/// How often a list is read again that changes while it is read.
const READINGS: usize = 5;

/// A change of the user's list of contacts, or a word to a contact.
#[derive(Debug, Clone, PartialEq)]
pub enum ContactChange {
    /// Puts the contact on the list, or changes how the user calls it.
    Set(ContactSettings),
    /// Takes it off the list, and ends the subscriptions in both directions.
    Remove,
    /// Asks to see its presence; with a text for it to read.
    Subscribe(String),
    /// Lets the contact see the user's presence: accepts its request, or the one to come.
    Accept,
    /// Ends the wish to see the contact's presence.
    Unsubscribe,
    /// Refuses its request, or ends that it sees the user's presence.
    Refuse,
}

impl Client {
    /// All contacts, and who asks. From now on each change is an [`Event::Contact`]; after [`Event::ContactsMissed`] they are to be read
    /// again.
    pub async fn contacts(&self) -> Result<Vec<Contact>, FetchError> {
        'reading: for _ in 0..READINGS {
            let (mut all, mut version) = (Vec::<Contact>::new(), None);
            loop {
                let after = all.last().map(|contact| contact.user.clone()).unwrap_or_default();
                let read = ReadContacts { request: 0, after, limit: 0, version: 0 };
                let Found::Contacts(page) = self.find(Query::Contacts(read)).await? else {
                    return Err(FetchError::OtherAnswer);
                };
                if *version.get_or_insert(page.version) != page.version {
                    continue 'reading;
                }
                all.extend(page.contacts);
                if page.complete {
                    return Ok(all);
                }
            }
        }
        Err(FetchError::Unsteady)
    }

    /// Returns when the change is stored. The contact hears of it in any case. Repeating it is safe.
    pub async fn change_contact(&self, contact: &UserId, change: ContactChange) -> Result<(), FetchError> {
        let say = |word: Word, text| Change::Say(SayToContact { word: word.into(), text });
        let change = match change {
            ContactChange::Set(settings) => Change::Set(settings),
            ContactChange::Remove => Change::Remove(RemoveContact {}),
            ContactChange::Subscribe(text) => say(Word::Subscribe, text),
            ContactChange::Accept => say(Word::Subscribed, String::new()),
            ContactChange::Unsubscribe => say(Word::Unsubscribe, String::new()),
            ContactChange::Refuse => say(Word::Unsubscribed, String::new()),
        };
        let contact = contact.as_str().to_owned();
        let request = ContactRequest { request: 0, contact, change: Some(change) };
        self.done(Query::Contact(request)).await
    }

    /// Shows this to the contacts who may see it, also on later connections. From now on what the user's contacts show are
    /// [`Event::Presence`]s. With `Show::Unspecified` nothing is shown, and nothing is told.
    pub async fn show(&self, show: Show, status: &str, priority: i32) -> Result<(), FetchError> {
        let status = status.to_owned();
        let set = SetPresence { show: show.into(), status, priority, ..SetPresence::default() };
        self.done(Query::Presence(set)).await
    }

    /// Shows nothing from now on, and hears nevertheless what the user's contacts show, as after [`Client::show`].
    pub async fn hear_presence(&self) -> Result<(), FetchError> {
        self.done(Query::Presence(SetPresence { hears: true, ..SetPresence::default() })).await
    }

    pub(crate) async fn done(&self, query: Query) -> Result<(), FetchError> {
        match self.find(query).await? {
            Found::Done => Ok(()),
            _ => Err(FetchError::OtherAnswer),
        }
    }
}

/// The client's knowledge of contacts, over its connections.
#[derive(Default)]
pub(crate) struct Known {
    shown: Option<SetPresence>,
    /// The version of the list that the application has.
    version: Option<u64>,
    last: BTreeMap<String, Last>,
}

/// The presence of a contact that was told last.
#[derive(Default)]
struct Last {
    era: u64,
    number: u64,
    /// The latest that was said of it; 0: nothing was said.
    last_seen_ms: u64,
}

impl Known {
    /// The application has asked for this.
    pub(crate) fn asked(&mut self, query: &Query) {
        if let Query::Presence(set) = query {
            let is_heard = set.show() != Show::Unspecified || set.hears;
            self.shown = is_heard.then(|| SetPresence { request: OWN, ..set.clone() });
        }
    }

    /// Requests at the beginning of a connection.
    pub(crate) fn begin(&self) -> impl Iterator<Item = Body> {
        let read = self.version.map(|version| ReadContacts { request: OWN, version, limit: 1, ..Default::default() });
        let read = read.map(Body::ReadContacts);
        read.into_iter().chain(self.shown.clone().map(Body::SetPresence))
    }

    /// An answer: `Some` if the application has to read the list again.
    pub(crate) fn read(&mut self, contacts: &Contacts) -> Option<Event> {
        if contacts.request != OWN {
            self.version = Some(contacts.version);
            return None;
        }
        (!contacts.unchanged && self.version.is_some_and(|version| version != contacts.version))
            .then_some(Event::ContactsMissed)
    }

    pub(crate) fn news(&mut self, news: ContactNews) -> Option<Event> {
        let known = self.version?;
        // The change was in the list that was read.
        if news.version <= known {
            return None;
        }
        if news.before != known {
            return Some(Event::ContactsMissed);
        }
        self.version = Some(news.version);
        news.contact.map(Event::Contact)
    }

    /// `None`: a later one has come already.
    pub(crate) fn presence(&mut self, mut presence: Presence) -> Option<Event> {
        let Presence { era, number, .. } = presence;
        let last = self.last.entry(presence.user.clone()).or_default();
        if (era, number) < (last.era, last.number) {
            return None;
        }
        let last_seen_ms = last.last_seen_ms.max(presence.last_seen_ms);
        *last = Last { era, number, last_seen_ms };
        // Not each presence says when the contact was last there.
        if presence.show() == Show::Unspecified {
            presence.last_seen_ms = last_seen_ms;
        }
        Some(Event::Presence(presence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(before: u64, version: u64) -> ContactNews {
        ContactNews { before, version, contact: Some(Contact::default()) }
    }

    fn contacts(request: u32, version: u64, unchanged: bool) -> Contacts {
        Contacts { request, version, unchanged, ..Contacts::default() }
    }

    #[test]
    fn changes_that_were_missed_show_by_the_version() {
        let mut known = Known::default();
        assert_eq!(known.news(news(0, 1)), None, "nothing was read yet");
        assert_eq!(known.begin().count(), 0);
        assert_eq!(known.read(&contacts(1, 5, false)), None);
        assert_eq!(known.news(news(4, 5)), None, "it is in what was read");
        assert_eq!(known.news(news(5, 7)), Some(Event::Contact(Contact::default())));
        assert_eq!(known.news(news(8, 9)), Some(Event::ContactsMissed));
        assert_eq!(known.news(ContactNews { before: 9, version: 9, contact: None }), Some(Event::ContactsMissed));
        assert_eq!(known.read(&contacts(OWN, 7, true)), None);
        assert_eq!(known.read(&contacts(OWN, 9, false)), Some(Event::ContactsMissed));
        assert_eq!(known.read(&contacts(2, 9, false)), None);
        assert_eq!(known.news(ContactNews { before: 9, version: 9, contact: None }), None);
    }

    #[test]
    fn a_presence_that_comes_late_is_not_given() {
        let mut known = Known::default();
        let presence = |era, number| Presence { user: "bob".to_owned(), era, number, ..Presence::default() };
        assert!(known.presence(presence(2, 5)).is_some());
        assert_eq!(known.presence(presence(2, 4)), None);
        assert_eq!(known.presence(presence(1, 9)), None);
        assert!(known.presence(presence(3, 1)).is_some());
    }

    #[test]
    fn what_was_said_of_when_a_contact_was_last_there_stays_until_a_later_time_is_said() {
        let mut known = Known::default();
        let mut told = |show: Show, number, last_seen_ms| {
            let (user, show) = ("bob".to_owned(), show.into());
            match known.presence(Presence { user, show, number, last_seen_ms, ..Presence::default() }) {
                Some(Event::Presence(presence)) => presence.last_seen_ms,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(Show::Unspecified, 1, 0), 0);
        assert_eq!(told(Show::Unspecified, 2, 60_000), 60_000);
        assert_eq!(told(Show::Online, 3, 0), 0);
        assert_eq!(told(Show::Unspecified, 4, 0), 60_000);
        assert_eq!(told(Show::Unspecified, 5, 120_000), 120_000);
    }

    #[test]
    fn a_new_connection_shows_what_the_last_one_has_shown() {
        let mut known = Known::default();
        let set = SetPresence { request: 4, show: Show::Away.into(), ..SetPresence::default() };
        known.asked(&Query::Presence(set.clone()));
        let own = Body::SetPresence(SetPresence { request: OWN, ..set.clone() });
        assert_eq!(known.begin().collect::<Vec<_>>(), [own]);
        known.asked(&Query::Presence(SetPresence { show: Show::Unspecified.into(), ..set.clone() }));
        assert_eq!(known.begin().count(), 0);
        let hears = SetPresence { hears: true, ..SetPresence::default() };
        known.asked(&Query::Presence(hears.clone()));
        let own = Body::SetPresence(SetPresence { request: OWN, ..hears });
        assert_eq!(known.begin().collect::<Vec<_>>(), [own]);
    }
}
