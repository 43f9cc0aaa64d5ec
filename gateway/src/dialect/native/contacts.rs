//! Asks and tells of contacts and presence, from and to frames.

use std::{convert::Infallible, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use carillon_proto::pb::{
    client::{
        Contact, ContactNews, ContactRequest, ContactSettings, Contacts, Done, Presence, Presences, ReadContacts,
        RemoveContact, SayToContact, SetPresence, contact_request::Change, server_frame::Body,
    },
    link::{self, SessionPresence},
    store::{self, ContactsRead},
};
use prost::Message as _;

use super::{Outgoing, raw};
use crate::{
    conversation::{Ask, ContactAsk, ContactChange, ContactQuery, ContactTell},
    feeds::Form,
    presences::PresenceNews,
};

impl From<ContactRequest> for Ask {
    fn from(ContactRequest { request, contact, change }: ContactRequest) -> Self {
        let change = change.map(|change| match change {
            Change::Set(ContactSettings { name, labels }) => ContactChange::Set(store::SetContact { name, labels }),
            Change::Remove(RemoveContact {}) => ContactChange::Remove(store::RemoveContact {}),
            // The words have the same numbers.
            Change::Say(SayToContact { word, text }) => {
                ContactChange::Say(store::SayToContact { word, text, peer: None })
            }
        });
        Self::Contact(Box::new(ContactAsk { request, what: ContactQuery::Change { contact, change } }))
    }
}

impl From<ReadContacts> for Ask {
    fn from(ReadContacts { request, after, limit, version }: ReadContacts) -> Self {
        Self::Contact(Box::new(ContactAsk { request, what: ContactQuery::Read { after, limit, version } }))
    }
}

impl From<SetPresence> for Ask {
    fn from(SetPresence { request, show, status, priority, hears }: SetPresence) -> Self {
        let presence = SessionPresence { show, status, priority, hears, ..SessionPresence::default() };
        Self::Contact(Box::new(ContactAsk { request, what: ContactQuery::Show(presence) }))
    }
}

impl From<ContactTell> for Outgoing {
    fn from(told: ContactTell) -> Self {
        let body = match told {
            ContactTell::Done { request } => Body::Done(Done { request }),
            ContactTell::Contacts { request, read } => Body::Contacts(told_contacts(request, read)),
            ContactTell::News(news) => Body::ContactNews(Box::new(told_news(news))),
            ContactTell::Presences(news) => return Self::Presences(news),
        };
        body.into()
    }
}

/// The frame of presences, decoded.
pub(super) fn told_presences(news: &[Arc<PresenceNews>]) -> Body {
    Body::Presences(Presences { presences: news.iter().map(|news| news.presence.clone()).collect() })
}

/// Appends the frame of presences as protobuf. Each of them is encoded once for all clients.
pub(super) fn put_presences(news: &[Arc<PresenceNews>], out: &mut BytesMut) {
    raw::presences(news.iter().map(|news| as_protobuf(news)), out);
}

/// The frame of presences as JSON. Each of them is encoded once for all clients.
pub(super) fn presences_as_json(news: &[Arc<PresenceNews>]) -> Bytes {
    let mut json = BytesMut::from(&b"{\"presences\":{"[..]);
    let mut is_first = true;
    for news in news {
        let as_json = |presence: &Presence| serde_json::to_vec(presence).map(Bytes::from);
        match news.rendered(Form::Json, as_json) {
            Ok(rendered) => {
                json.put_slice(if std::mem::take(&mut is_first) { b"\"presences\":[" } else { b"," });
                json.put_slice(rendered);
            }
            // Of a later release. The others are told nevertheless.
            Err(error) => tracing::error!(%error, "presence can't be shown as JSON"),
        }
    }
    json.put_slice(if is_first { b"}}" } else { b"]}}" });
    json.freeze()
}

fn as_protobuf(news: &PresenceNews) -> &[u8] {
    match news.rendered(Form::Protobuf, |presence| Ok::<_, Infallible>(presence.encode_to_vec().into())) {
        Ok(rendered) => rendered,
        Err(never) => match never {},
    }
}

fn told_contacts(request: u32, read: ContactsRead) -> Contacts {
    let ContactsRead { version, contacts, complete, unchanged, .. } = read;
    let contacts = contacts.into_iter().map(|row| told_contact(row.contact, row.row.unwrap_or_default())).collect();
    Contacts { request, version, contacts, complete, unchanged }
}

fn told_news(link::ContactNews { contact, row, before, version, .. }: link::ContactNews) -> ContactNews {
    let contact = (!contact.is_empty()).then(|| told_contact(contact, row.unwrap_or_default()));
    ContactNews { before, version, contact }
}

fn told_contact(user: String, row: store::Contact) -> Contact {
    let store::Contact { name, labels, listed, to, asked, from, asks, approved, text, .. } = row;
    Contact { user, name, labels, listed, to, asked, from, asks, approved, text }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::say_to_contact::Word;

    #[test]
    fn words_have_the_numbers_that_the_store_knows() {
        for (word, stored) in [
            (Word::Unspecified, super::store::Word::Unspecified),
            (Word::Subscribe, super::store::Word::Subscribe),
            (Word::Subscribed, super::store::Word::Subscribed),
            (Word::Unsubscribe, super::store::Word::Unsubscribe),
            (Word::Unsubscribed, super::store::Word::Unsubscribed),
        ] {
            assert_eq!(i32::from(word), i32::from(stored));
        }
        assert!(Word::try_from(5).is_err());
    }
}
